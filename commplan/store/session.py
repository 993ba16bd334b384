"""Opening the store, and the only two ways to talk to it: `write` and `read`.

Never leaves a transaction open over a network call, and never lets the database's words (which may quote values)
into an exception.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, column, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from commplan.clock import Clock
from commplan.errors import FenceError, StoreError
from commplan.ids import Keyring
from commplan.settings import ProviderKind, Settings
from commplan.store.tables import store_info

_LOG = logging.getLogger("commplan.store")
#: Seconds that a writer waits for its turn, and milliseconds after which it looks as often again as at first.
_PATIENCE = 30
_BRIEFLY = 2
#: Kilobytes of pages that a connection to SQLite keeps: a campaign of a million fills whatever it is given.
_CACHE_OF_WRITER = 64_000
_CACHE_OF_READER = 8_000
_MIGRATIONS = Path(__file__).parent / "migrations"
#: The last migration: what the tables of this version are.
REVISION = "0011"


class Store:
    """The database of one installation, open for this process.

    Connections are made when first needed, so open the store after a fork or spawn, not before.
    """

    def __init__(self, url: str, clock: Clock, keyring: Keyring) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise StoreError(
                "COMMPLAN_STORE_URL is not a database URL; write sqlite:///FILE or postgresql+psycopg://…"
            ) from None
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"{parsed.get_backend_name()} is not supported; use SQLite or PostgreSQL")
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.clock = clock
        self.keyring = keyring
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._writer = self._engine(parsed, writes=True)
        self._reader = (
            self._engine(parsed, writes=False)
            if self.is_sqlite
            else self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        )

    def _engine(self, url: URL, *, writes: bool) -> Engine:
        if not self.is_sqlite:
            return create_engine(url, hide_parameters=True, pool_pre_ping=True, pool_size=5, max_overflow=10)
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": 30})

        @event.listens_for(engine, "connect")
        def _configure(connection, record) -> None:  # type: ignore[no-untyped-def]
            connection.isolation_level = None
            for pragma in (
                f"busy_timeout={_PATIENCE * 1000}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                f"cache_size=-{_CACHE_OF_WRITER if writes else _CACHE_OF_READER}",
                "wal_autocheckpoint=8000",
            ):
                connection.execute(f"PRAGMA {pragma}")
            if not writes:
                connection.execute("PRAGMA query_only=ON")
            else:
                connection.execute(f"PRAGMA busy_timeout={_BRIEFLY}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if writes:
                _take_turn(connection)
            else:
                connection.exec_driver_sql("BEGIN")

        return engine

    @property
    def is_sandbox(self) -> bool:
        """Whether the store was born for rehearsals: everything shown of it says so."""
        with self.read() as connection:
            return bool(connection.execute(select(store_info.c.kind)).scalar_one() == "sandbox")

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a short transaction that may write: committed at the end, rolled back by an exception.

        SQLite: holds the one write lock from its first statement, so two writers wait for each other instead of
        overwriting what they read. PostgreSQL: READ COMMITTED.
        """
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a consistent read of the store; cannot write."""
        with self._translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            _LOG.error("the store refused a statement", extra={"kind": type(error.orig).__name__})
            raise StoreError(
                f"the store refused a statement ({type(error.orig).__name__}); see that the database is reachable, "
                "has room on its disk, and is up to date (commplan db upgrade)"
            ) from None

    @property
    def may_exist(self) -> bool:
        """Tell whether there is a file, where the database is one; on a server only connecting would tell."""
        file = self._writer.url.database
        return not self.is_sqlite or not file or Path(file).exists()

    def upgrade(self) -> None:
        """Create or migrate the tables; safe to run again and to run twice at once."""
        # A quarter of a second that a sender or a renderer, which never migrates, would spend at each start.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        try:
            with self._writer.connect() as connection, self._without_foreign_keys(connection), connection.begin():
                config = Config()
                config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            raise StoreError(
                f"the store cannot be reached or migrated ({type(error).__name__}); check COMMPLAN_STORE_URL"
            ) from None

    @contextmanager
    def _without_foreign_keys(self, connection: Connection) -> Iterator[None]:
        """SQLite alters a table by copying it, which the rows that refer to it must survive."""
        if not self.is_sqlite:
            yield
            return
        raw = connection.connection.cursor()
        raw.execute("PRAGMA foreign_keys=OFF")
        try:
            yield
        finally:
            raw.execute("PRAGMA foreign_keys=ON")
            raw.close()

    def is_current(self) -> bool:
        """Tell whether the tables are of this version."""
        try:
            with self._reader.connect() as connection:
                if not inspect(connection).has_table("alembic_version"):
                    return False
                found = connection.execute(select(column("version_num")).select_from(text("alembic_version"))).scalar()
        except SQLAlchemyError as error:
            raise StoreError(
                f"the store cannot be reached ({type(error).__name__}); check COMMPLAN_STORE_URL"
            ) from None
        return bool(found == REVISION)

    def dispose(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()


def _take_turn(connection: Connection) -> None:
    """Begin a transaction as SQLite's one writer.

    SQLite itself would look again after ever longer sleeps, up to a tenth of a second, in which nobody writes.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except OperationalError as error:
            # The low byte: who finds a log that a dead process left is told why it is busy in the others.
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        else:
            return


def open_store(settings: Settings, *, create: bool = True) -> Store:
    """Open the store that the settings name, create it if allowed, and see that it belongs to them.

    Raises FenceError when the store was born for providers of the other kind or under another secret, or a live
    store is opened with a scaled clock; StoreError when it cannot be used.
    """
    if not create and settings.store_url is None and not settings.home.exists():
        raise _no_store()
    try:
        if settings.store_url is None:
            settings.home.mkdir(parents=True, exist_ok=True)
        keyring = settings.make_keyring()
    except OSError:
        raise StoreError(f"COMMPLAN_HOME: {settings.home} cannot be written; choose another folder") from None
    store = Store(settings.store_address, settings.make_clock(), keyring)
    try:
        # Connecting to a SQLite file that is not there would make it.
        if not create and not store.may_exist:
            raise _no_store()
        if not store.is_current():
            if not create and not inspect(store._reader).has_table("runs"):
                raise _no_store()
            store.upgrade()
        _check_birth(store, settings.provider_kind, settings)
    except BaseException:
        store.dispose()
        raise
    return store


def _no_store() -> StoreError:
    return StoreError("there is no store here yet; run `commplan db upgrade`, or set COMMPLAN_STORE_URL")


def _check_birth(store: Store, kind: ProviderKind, settings: Settings) -> None:
    with store.write() as connection:
        row = connection.execute(select(store_info)).one_or_none()
        if row is None:
            connection.execute(
                insert(store_info).values(
                    store_info_id=1,
                    kind=kind,
                    environment=settings.live if kind == "live" else None,
                    key_fingerprint=store.keyring.fingerprint,
                    created_at=store.clock.now(),
                )
            )
            return
    if row.kind != kind:
        raise FenceError(
            f"this store was created for {row.kind} providers and the settings name {kind} ones; "
            "use another COMMPLAN_STORE_URL (or COMMPLAN_HOME) for each"
        )
    if row.key_fingerprint != store.keyring.fingerprint:
        raise FenceError(
            "this store was created under another secret, so its opt-outs would not be found; "
            "restore COMMPLAN_SECRET_KEY, or list it in COMMPLAN_EARLIER_SECRET_KEYS"
        )
    if row.kind == "live" and not store.clock.is_real:
        raise FenceError("a live store runs on real time only; unset COMMPLAN_CLOCK__*")
