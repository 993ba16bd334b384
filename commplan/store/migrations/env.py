"""Alembic's entry: migrate on the connection that the store hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from commplan.store.tables import metadata

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    connection.execute(text("SELECT pg_advisory_xact_lock(7267)"))
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
