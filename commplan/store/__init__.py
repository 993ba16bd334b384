"""The store: one relational database that holds the truth about every run (SQLite, or PostgreSQL)."""

from commplan.store.session import Store, open_store

__all__ = ["Store", "open_store"]
