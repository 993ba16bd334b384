"""A ledger of an older version, opened by this one: brought up to date, and the run in it goes on where it was."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, insert, text

from commplan import campaign
from commplan.campaign import Campaign
from commplan.dispatch import Sender
from commplan.ledger.run import find_run
from commplan.sandbox import SandboxConfig, Switches, running
from commplan.store import open_store
from commplan.store.session import _MIGRATIONS
from tests.boundary.carry import due_now
from tests.boundary.installation import NOWHERE, STANDING, Installation
from tests.campaign.conftest import ACCOUNT, API_KEY, AUTH_TOKEN, PRIVATE

LEDGERS = sorted(Path(__file__).parent.glob("ledger_*.json"))


def write(url: str, revision: str, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Make a database as that revision left it, with these rows in it."""
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    with engine.begin() as connection:
        found = MetaData()
        found.reflect(connection)
        for table in found.sorted_tables:
            rows = [{name: read(value) for name, value in row.items()} for row in tables.get(table.name, [])]
            if rows:
                connection.execute(insert(table), rows)
            counted = [column for column in table.primary_key if column.autoincrement is True]
            if rows and counted and connection.dialect.name == "postgresql":
                name, last = counted[0].name, max(row[counted[0].name] for row in rows)
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', '{name}'), {last})"))
    engine.dispose()


def read(value: object) -> object:
    return b64decode(value["base64"]) if isinstance(value, dict) else value


@pytest.fixture
def here(tmp_path: Path, empty_url: str) -> Iterator[Installation]:
    """The installation, with a sandbox that knows nothing of what went out before."""
    config = SandboxConfig(
        api_key=API_KEY,
        account_sid=ACCOUNT,
        auth_token=AUTH_TOKEN,
        webhook_private_key=PRIVATE,
        public_url=NOWHERE,
        clock=STANDING,
        switches=Switches.calm(),
    )
    with running(config) as url:
        yield replace(Installation(folder=tmp_path, store_url=empty_url), sandbox=url)


@pytest.mark.parametrize("file", LEDGERS, ids=[file.stem for file in LEDGERS])
def test_the_run_in_an_older_ledger_goes_on_where_it_was_and_repeats_nothing(here: Installation, file: Path) -> None:
    tables = json.loads(file.read_text(encoding="utf-8"))
    before = {(row["step_no"], row["seq"]): row["state"] for row in tables["messages"]}
    assert {"accepted", "unknown", "claimed", "queued", "not_due"} <= set(before.values())
    write(here.store_url, file.stem.removeprefix("ledger_"), tables)
    store = open_store(here.settings)
    assert store.is_current()
    carried_on = Campaign(store, here.settings, find_run(store, here.run_key))
    assert {(ref.step_no, ref.seq): row.state for ref, row in here.rows(store).items()} == before
    # The receipts that nobody had applied yet settle what was unknown.
    assert campaign.apply_receipts(store) > 0
    sender = Sender(store=store, gateways=carried_on.gateways, settings=carried_on.frozen_settings)
    while steps := due_now(store, carried_on):
        for step_no in steps:
            sender.send_step(carried_on.run.run_id, step_no)
    arrived = sorted((one["ref"].step_no, one["ref"].seq) for one in here.truth(store))
    assert arrived == sorted(key for key, state in before.items() if state not in {"accepted", "unknown"})
    assert {row.state for row in here.rows(store).values()} == {"accepted", "delivered"}
    assert campaign.prove(store, here.settings, here.run_key, witness=False).difference == 0
    carried_on.close()
    store.dispose()
