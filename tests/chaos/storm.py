"""A campaign in a storm: faults at every request, two copies at work, and processes that are killed at random moments.

    python -m tests.chaos.storm FOLDER STORE_URL PEOPLE KILLS SEED FACTOR [silent]

FACTOR: plan seconds in a machine second; at 60, what providers tell within a minute or two comes within a few seconds.
When it is over, requests of unknown outcome are settled, as far as the providers tell; `silent`: the Email Logs never
answer, and two requests that they would prove to be lost stay unknown. Everything is kept in FOLDER: the databases,
what each process said, what the sandbox accepted, and a time line. Prints one line of JSON: what came of it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from commplan import campaign
from commplan.clock import Clock
from commplan.dispatch import Sender
from commplan.ids import MessageRef
from commplan.sandbox import Switches
from commplan.store import open_store
from commplan.store.tables import attempts, metadata
from commplan.tracking import waiting
from tests.boundary.installation import Installation, address, bound, end, fork
from tests.campaign.conftest import BOTH, crowd
from tests.conftest import NOON, PLAIN

#: Shares of requests that go wrong, by how; a hanging one is given up after `TIMEOUT` machine seconds.
FAULTS = {
    "accept_then_hang": 0.03,
    "accept_then_close": 0.06,
    "accept_then_500": 0.06,
    "close_unprocessed": 0.04,
    "slow": 0.10,
    "429": 0.10,
}
TIMEOUT, LEASE = 2.0, 8.0
#: Plan seconds in which the logs prove a loss, if they answer: 25 minutes, and some more.
PROOF = 35 * 60
COPIES = ("one", "other")
#: How a message ends, by the sandbox's account.
ENDS = ("delivered", "bounced", "blocked", "dropped", "undelivered")
#: A person's message is over in these, for a reason that stands beside it.
OVER = {"suppressed", "not_needed", "expired", "cancelled", "failed", "excluded"}
#: In these it is for a sender to go on.
UNDER_WAY = {"queued", "claimed", "sending"}


def switches(*, silent: bool) -> Switches:
    return Switches.calm(
        logs_busy_share=1.0 if silent else 0.0,
        faults=FAULTS,
        slow_seconds=0.5,
        duplicate_share=0.2,
        event_ids_change=True,
        disorder=True,
        stray_share=0.1,
        stray_hours=0.1,
        foreign_share=0.1,
    )


def work(here: Installation) -> None:
    """Carry the run on, as one of several copies, until nothing is left but what only evidence can settle."""
    here.enter()
    store = open_store(here.settings)
    running = here.start(store)
    sender = Sender(store=store, gateways=running.gateways, settings=running.frozen_settings, lease=LEASE)
    while (due := running.next_due()) is not None:
        time.sleep(min(0.5, store.clock.seconds_until(due.at)))
        campaign.apply_receipts(store)
        for step_no in due.steps:
            sender.send_step(running.run.run_id, step_no)
    running.close()


class Storm:
    """The installation, its processes, and the time line."""

    def __init__(
        self, folder: Path, store_url: str, *, people: int, kills: int, seed: int, factor: int, silent: bool
    ) -> None:
        self.silent = silent
        self.folder, self.people, self.kills = folder, people, kills
        self.chance = random.Random(seed)
        self.began = time.monotonic()
        self.listening = bound()
        here = Installation(
            folder=folder,
            store_url=store_url,
            clock=Clock(origin=NOON, anchor=time.time(), factor=factor),
            public=address(self.listening),
            # In their order, so that a claim takes whom it finds; over before the hours of texts are.
            plan=BOTH,
            batch=10,
            timeout=TIMEOUT,
        )
        here.make(crowd(people))
        self.here, self.sandbox = here.open_sandbox(switches(silent=silent), seed=seed)
        self.processes: dict[str, int] = {}

    def note(self, what: str, **more: object) -> None:
        """Write a line of the time line."""
        with (self.folder / "timeline").open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - self.began:8.2f} {what} {json.dumps(more) if more else ''}\n")

    def launch(self, name: str) -> None:
        if name == "receiver":
            self.processes[name] = self.here.listen(self.listening)
        else:
            self.processes[name] = fork(partial(work, self.here), log=self.folder / f"{name}.log")
        self.note(f"{name} begins")

    def kill(self, name: str) -> None:
        self.note(f"{name} is killed")
        end(self.processes.pop(name))

    def ended(self, name: str) -> bool:
        """Tell whether a process has ended by itself; AssertionError if it failed."""
        if name not in self.processes:
            return True
        pid, status = os.waitpid(self.processes[name], os.WNOHANG)
        if pid:
            del self.processes[name]
            self.note(f"{name} ends", status=status)
            assert status == 0, f"{name} failed; see {self.folder}/{name}.log"
        return bool(pid)

    def plan(self) -> None:
        store = open_store(self.here.settings)
        running = self.here.start(store)
        running.resolve_audience()
        running.render()
        store.dispose()
        self.note("the run is planned")
        if self.silent:
            fault = {"channel": "email", "fault": "close_unprocessed", "times": 2}
            httpx.post(f"{self.here.sandbox}/sandbox/faults", json=fault, **PLAIN).raise_for_status()

    def rage(self) -> None:
        """Kill one process after the other while the run goes on; each comes back at once."""
        for name in (*COPIES, "receiver"):
            self.launch(name)
        for _ in range(self.kills):
            time.sleep(self.chance.uniform(0.05, 2.5))  # the moment of the kill, not something that is waited for
            name = self.chance.choice([*COPIES, *COPIES, "receiver"])
            if name != "receiver" and self.ended(name):
                continue
            self.kill(name)
            self.launch(name)

    def calm_down(self, *, seconds: float) -> None:
        """Wait until nothing is left to be sent and everything that providers have to say has arrived."""
        until = time.monotonic() + seconds
        while not self.is_quiet():
            assert time.monotonic() < until, f"the run never came to its end; see {self.folder}"
            for name in COPIES:
                if self.ended(name) and self.counts().keys() & UNDER_WAY:
                    self.launch(name)
            time.sleep(0.5)

    def settle(self, *, seconds: float) -> None:
        """Ask the providers as a run in progress does, and send again what they prove was lost, until all is known.

        Where the logs are silent, until they have been asked often enough to have proven a loss.
        """
        until = time.monotonic() + seconds
        enough = time.monotonic() + PROOF / self.here.clock.factor
        while True:
            self.calm_down(seconds=seconds)
            if "unknown" not in self.counts() or (self.silent and time.monotonic() > enough):
                return
            assert time.monotonic() < until, f"unknown for too long; see {self.folder}"
            store = open_store(self.here.settings)
            for _, settled in campaign.settle_runs(store, self.here.settings, self.here.run_key, force=False):
                self.note("asked", **asdict(settled) | {"why": sorted(settled.why), "next_at": str(settled.next_at)})
            store.dispose()
            time.sleep(0.5)

    def is_quiet(self) -> bool:
        """Tell whether no message is under way, no post is on its way, and each message arrived or never will."""
        counts = self.counts()
        store = open_store(self.here.settings)
        left, truth = waiting(store), self.here.truth(store)
        store.dispose()
        unposted = httpx.get(f"{self.here.sandbox}/sandbox/summary", **PLAIN).json()["unposted_events"]
        on_the_way = sum(not any(one[what] for what in ENDS) for one in truth)
        self.note("the run", left=left, unposted=unposted, accepted=len(truth), on_the_way=on_the_way, states=counts)
        return not (left or unposted or on_the_way or counts.keys() & UNDER_WAY)

    def counts(self) -> dict[str, int]:
        store = open_store(self.here.settings)
        found = Counter(row.state for row in self.here.rows(store).values())
        store.dispose()
        return dict(found)

    def stop(self) -> None:
        for name in [*self.processes]:
            self.kill(name)
        end(self.sandbox)

    def keep(self) -> None:
        """Write down what the sandbox accepted, and every table, wherever the database is."""
        store = open_store(self.here.settings)
        lines = httpx.get(f"{self.here.sandbox}/sandbox/messages", **PLAIN, timeout=60).text
        (self.folder / "accepted.jsonl").write_text(lines, encoding="utf-8")
        for table in metadata.sorted_tables:
            with store.read() as connection, (self.folder / f"{table.name}.jsonl").open("w") as file:
                for row in connection.execute(select(table)):
                    file.write(json.dumps(row._asdict(), default=str) + "\n")
        store.dispose()

    def prove(self) -> Mapping[str, Any]:
        """Return what the sandbox's own account says of everybody; AssertionError if anybody is twice or lost."""
        store = open_store(self.here.settings)
        books = campaign.prove(store, self.here.settings, self.here.run_key, witness=False)
        truth, rows = self.here.truth(store), self.here.rows(store)
        store.dispose()
        off = [asdict(check) for check in books.checks if check.difference]
        assert (books.difference, off) == (0, []), "the books do not balance"
        times = Counter(one["ref"] for one in truth)
        assert not [ref for ref, count in times.items() if count > 1], "somebody got a step twice"
        assert len(rows) == 2 * self.people, "somebody has no row"
        arrived = set(times)
        assert arrived <= set(rows), "somebody got what nobody planned"
        for ref, row in rows.items():
            require_accounted(ref, row, rows, is_there=ref in arrived)
        unknown = [(ref, row) for ref, row in rows.items() if row.state == "unknown"]
        if self.silent:
            assert {ref.step_no for ref, _ in unknown} == {1}, "not only emails are unknown"
            assert not arrived & {ref for ref, _ in unknown}, "what arrived is unknown in spite of its receipt"
            require_held(self.here, {row.attempt_id for _, row in unknown})
        else:
            assert unknown == [], "not everything is known, and the providers would tell"
        states = Counter(row.state for row in rows.values())
        return {
            "states": states,
            "arrived": len(arrived),
            "lost": books.doubts.lost,
        }


def require_held(here: Installation, requests: set[str]) -> None:
    """Assert that nobody has decided on any of these requests."""
    store = open_store(here.settings)
    with store.read() as connection:
        decided = connection.execute(select(attempts.c.attempt_id).where(attempts.c.decision.is_not(None))).scalars()
        assert not requests & set(decided), "a request was decided on without evidence"
    store.dispose()


def require_accounted(ref: MessageRef, row: Any, rows: Mapping[MessageRef, Any], *, is_there: bool) -> None:
    """Assert that the ledger says of a message what happened to it, or that it does not know."""
    if is_there:
        assert row.accepted_at is not None or row.state == "unknown", f"{ref} arrived, and is {row.state}"
        return
    assert row.accepted_at is None, f"{ref} never arrived, and is {row.state}"
    if row.state == "not_due":
        assert rows[replace(ref, step_no=1)].state == "unknown", f"{ref} was forgotten"
    else:
        assert row.state == "unknown" or (row.state in OVER and row.reason), f"{ref} is {row.state}: {row.reason}"


def main(storm: Storm) -> None:
    os.environ["CRM_DATABASE_URL"] = f"sqlite:///{storm.folder / 'crm.sqlite'}"
    try:
        storm.plan()
        storm.rage()
        storm.calm_down(seconds=120 + storm.people)
        storm.settle(seconds=240 + storm.people)
        print(json.dumps(storm.prove()))  # noqa: T201
    finally:
        storm.keep()
        storm.stop()


if __name__ == "__main__":
    people, kills, seed, factor = (int(one) for one in sys.argv[3:7])
    silent = "silent" in sys.argv[7:]
    main(Storm(Path(sys.argv[1]), sys.argv[2], people=people, kills=kills, seed=seed, factor=factor, silent=silent))
