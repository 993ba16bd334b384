"""The store opens, migrates, keeps time and refuses what does not belong to it."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import create_engine, delete, insert, select, text, update
from sqlalchemy.engine import make_url

import commplan.store
from commplan.errors import FenceError, StoreError
from commplan.settings import EmailSettings, Settings, SmsSettings
from commplan.store import Store, migrations, open_store
from commplan.store.tables import audit, batches, bundles, metadata, recipients, runs, store_info, suppressions
from commplan.store.types import machine_now, to_micros
from commplan.terms import RunState

MIGRATIONS = Path(migrations.__path__[0])


def test_a_new_store_is_current_and_remembers_its_birth(store: Store) -> None:
    assert store.is_current()
    with store.read() as connection:
        row = connection.execute(select(store_info)).one()
    assert row.kind == "sandbox"
    assert row.key_fingerprint == store.keyring.fingerprint


def test_times_come_back_aware_and_exact(store: Store) -> None:
    moment = datetime(2026, 12, 1, 9, 30, 15, 123456, tzinfo=UTC)
    with store.write() as connection:
        connection.execute(insert(audit).values(at=moment, what="x", detail="{}"))
    with store.read() as connection:
        assert connection.execute(select(audit.c.at)).scalar_one() == moment


def test_the_two_readings_of_an_hour_that_a_clock_shows_twice_are_an_hour_apart() -> None:
    first = datetime(2026, 10, 25, 1, 30, tzinfo=ZoneInfo("Europe/London"))
    # Python takes the two for equal.
    assert to_micros(first.replace(fold=1)) - to_micros(first) == 3_600_000_000


def test_the_database_clock_is_machine_time(store: Store) -> None:
    with store.read() as connection:
        told = connection.execute(select(machine_now())).scalar_one()
    assert abs(told - datetime.now(UTC).timestamp()) < 5


def test_an_exception_inside_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as connection:
        connection.execute(insert(audit).values(at=datetime.now(UTC), what="x", detail="{}"))
        raise ZeroDivisionError
    with store.read() as connection:
        assert connection.execute(select(audit)).all() == []


def test_a_sandbox_store_refuses_real_providers(settings: Settings, store_url: str) -> None:
    here = settings.model_copy(update={"store_url": SecretStr(store_url)})
    open_store(here).dispose()
    real = {
        "email": EmailSettings(base_url="https://api.sendgrid.com"),
        "sms": SmsSettings(base_url="https://api.twilio.com"),
    }
    with pytest.raises(FenceError, match="created for sandbox"):
        open_store(here.model_copy(update=real))


def test_another_secret_is_noticed(settings: Settings, store_url: str) -> None:
    here = settings.model_copy(update={"store_url": SecretStr(store_url)})
    open_store(here).dispose()
    with pytest.raises(FenceError, match="another secret"):
        open_store(here.model_copy(update={"secret_key": SecretStr("other")}))
    rotated = {"secret_key": SecretStr("new"), "earlier_secret_keys": (settings.secret_key,)}
    open_store(here.model_copy(update=rotated)).dispose()


def test_a_database_that_cannot_be_reached_is_said_plainly(settings: Settings) -> None:
    there = settings.model_copy(update={"store_url": SecretStr("postgresql://nobody:hidden@127.0.0.1:1/x")})
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        open_store(there)
    assert "hidden" not in str(caught.value)


def test_a_store_of_the_first_version_keeps_its_rows_and_their_ties_when_it_is_upgraded(
    settings: Settings, empty_url: str
) -> None:
    old = Store(empty_url, settings.make_clock(), settings.make_keyring())
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with old.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    with old.write() as connection:
        connection.execute(insert(bundles).values(digest="d", files="{}"))
        run = {"plan": "p", "digest": "d", "people": "customers", "created_at": moment, "clock": "{}"}
        rows = [{"run_key": f"p@{n}", "occurrence": str(n), **run} for n in range(3)]
        connection.execute(insert(runs).values(state="executing", placeholder="cp-"), rows)
        connection.execute(insert(batches).values(run_id=2, step_no=1, worker="w", claimed=1, lease_machine=0))
        connection.execute(insert(recipients).values(run_id=2, seq=1, people="customers", contact_id="1", columns="{}"))
        connection.execute(delete(runs).where(runs.c.run_id == 3))
    old.upgrade()
    assert old.is_current()
    with old.read() as connection:
        assert connection.execute(select(runs.c.run_key).order_by(runs.c.run_id)).scalars().all() == ["p@0", "p@1"]
        assert connection.execute(select(batches.c.run_id)).scalar_one() == 2
    with old.write() as connection:
        connection.execute(update(runs).values(state="paused"))
        # The number of a run that is gone is never given again.
        again = {**run, "run_key": "p@4", "occurrence": "4", "state": "frozen", "placeholder": "cp-"}
        assert connection.execute(insert(runs).values(**again).returning(runs.c.run_id)).scalar_one() == 4
    for wrong in (
        insert(batches).values(run_id=99, step_no=1, worker="w", claimed=1, lease_machine=0),
        update(runs).values(state="asleep"),
        delete(runs).where(runs.c.run_id == 2),
    ):
        with pytest.raises(StoreError), old.write() as connection:
            connection.execute(wrong)
    old.dispose()


def _migrate(url: str, revision: str) -> None:
    """Bring an empty database to an earlier version, or on to a later one."""
    engine = create_engine(make_url(url))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(commplan.store.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_the_tables_are_those_that_the_migrations_make(store: Store) -> None:
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_store_with_runs_in_it_is_brought_to_this_version(settings: Settings, empty_url: str) -> None:
    _migrate(empty_url, "0001")
    engine = create_engine(make_url(empty_url))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO bundles VALUES ('d', '{}')"))
        connection.execute(
            text(
                "INSERT INTO runs (run_key, plan, occurrence, digest, state, people, created_at, clock, placeholder,"
                " allow_list_only) VALUES ('a@1', 'a', '1', 'd', 'frozen', 'customers', 0, '{}', 'cp-', :no)"
            ),
            {"no": False},
        )
        connection.execute(text("INSERT INTO flow_runs (flow_run_id, run_id) SELECT 'f', run_id FROM runs"))
    engine.dispose()
    opened = open_store(settings.model_copy(update={"store_url": SecretStr(empty_url)}))
    with opened.write() as connection:
        changed = connection.execute(update(runs).values(state=RunState.SUPERSEDED)).rowcount
    assert changed == 1
    with pytest.raises(StoreError), opened.write() as connection:
        connection.execute(update(runs).values(state="nowhere"))
    if opened.is_sqlite:
        with opened.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    opened.dispose()


def test_an_opt_out_of_an_earlier_version_holds_on_every_channel_and_a_stop_on_its_own(
    settings: Settings, empty_url: str
) -> None:
    _migrate(empty_url, "0006")
    engine = create_engine(make_url(empty_url))
    rows = [
        ("email", "1", "news", "unsubscribed"),
        # Taken back by email, and said again by text: one wish is left, and it is in force.
        ("email", "2", "news", "unsubscribed", 1),
        ("sms", "2", "news", "unsubscribed"),
        ("sms", "3", "news", "unsubscribed"),
        ("sms", "3", "all", "stop"),
        ("email", None, "news", "unsubscribed"),
    ]
    with engine.begin() as connection:
        for channel, contact_id, scope, reason, *lifted_at in rows:
            connection.execute(
                text(
                    "INSERT INTO suppressions (channel, address_key, people, contact_id, scope, reason, source, at,"
                    " lifted_at) VALUES (:channel, 'k', :people, :contact_id, :scope, :reason, 'page', 0, :lifted_at)"
                ),
                {
                    "channel": channel,
                    "people": None if contact_id is None else "customers",
                    "contact_id": contact_id,
                    "scope": scope,
                    "reason": reason,
                    "lifted_at": lifted_at[0] if lifted_at else None,
                },
            )
    engine.dispose()
    opened = open_store(settings.model_copy(update={"store_url": SecretStr(empty_url)}))
    with opened.read() as connection:
        found = connection.execute(select(suppressions).order_by(suppressions.c.suppression_id)).all()
    opened.dispose()
    assert [row.lifted_at for row in found] == [None] * 5
    assert [(row.channel, row.contact_id, row.reason) for row in found] == [
        ("all", "1", "unsubscribed"),
        ("all", "2", "unsubscribed"),
        ("all", "3", "unsubscribed"),
        ("sms", "3", "stop"),
        ("email", None, "unsubscribed"),
    ]
