"""Writes down the ledger of a run in the middle of its way, as this version keeps it, for later versions to open.

    python -m tests.migration.make_ledger FILE

Run once for a version, and never again for one that is out: the file is what people have.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from base64 import b64encode
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from commplan.dispatch import Sender
from commplan.ledger.claim import claim
from commplan.sandbox import Switches
from commplan.store import open_store
from commplan.store.tables import metadata
from tests.boundary.carry import hear
from tests.boundary.installation import Installation, end, fork
from tests.campaign.conftest import crowd
from tests.conftest import PLAIN

PEOPLE = 12


def half_way(here: Installation) -> None:
    """Send some emails, one request without an answer, some texts; leave a claim behind, and go."""
    here.enter()
    store = open_store(here.settings)
    running = here.start(store)
    running.resolve_audience()
    running.render()
    sender = Sender(store=store, gateways=running.gateways, settings=running.frozen_settings)
    for number in range(3):
        if number == 1:
            fault = {"channel": "email", "fault": "accept_then_close", "times": 1}
            httpx.post(f"{here.sandbox}/sandbox/faults", json=fault, **PLAIN).raise_for_status()
        only_one_batch(sender, running.run.run_id)
    hear(here, store)
    claim(store, run_id=running.run.run_id, step_no=1, worker="gone", limit=2, lease=0)
    running.close()
    store.dispose()


def only_one_batch(sender: Sender, run_id: Any) -> None:
    class EnoughError(Exception):
        pass

    def stop(accepted: int) -> None:
        raise EnoughError

    try:
        sender.send_step(run_id, 1, progress=stop)
    except EnoughError:
        return


def written(value: object) -> object:
    return {"base64": b64encode(value).decode("ascii")} if isinstance(value, bytes) else value


def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder) / "here"
        here = Installation(folder=place, store_url=f"sqlite:///{place / 'store.sqlite'}", batch=3)
        here.make(crowd(PEOPLE))
        here, sandbox = here.open_sandbox(Switches.calm())
        stack.callback(end, sandbox)
        assert os.waitpid(fork(partial(half_way, here)), 0)[1] == 0
        store = open_store(here.settings)
        with store.read() as connection:
            # As the database has them, not as our types show them.
            tables = {
                table.name: [
                    {name: written(value) for name, value in row._mapping.items()}
                    for row in connection.exec_driver_sql(str(select(table)))
                ]
                for table in metadata.sorted_tables
            }
        store.dispose()
    lines = [f"{json.dumps(name)}: {json.dumps(rows, ensure_ascii=False)}" for name, rows in tables.items() if rows]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
