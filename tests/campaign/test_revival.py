"""Silent runs, on both databases: who is looked after, what is noted, and what a person's restart changes."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from sqlalchemy import update

from commplan import campaign
from commplan.campaign import Campaign
from commplan.errors import RunError
from commplan.heartbeat import beating
from commplan.ledger import ending, upkeep
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import claim
from commplan.ledger.close import sweep
from commplan.ledger.revival import FlowState, Sighting, silent_runs
from commplan.ledger.standstill import hold, resume
from commplan.reviver import Revival, revive
from commplan.store.tables import runs
from commplan.store.tables import upkeep as upkeep_row
from tests.campaign.conftest import LETTER, PAIR, Rehearsal, crowd, until

LONG_AGO = 1_000.0


@dataclass
class Board:
    """What an orchestrator shows of its flow runs, and which were started again."""

    states: dict[str, FlowState] = field(default_factory=dict)
    since: float = LONG_AGO
    started: list[str] = field(default_factory=list)
    astray: list[Sighting] = field(default_factory=list)

    def look(self, flow_runs: Sequence[tuple[str, str]]) -> list[Sighting]:
        return [Sighting(flow_run_id=one, state=self.states[one], since=self.since) for one, _ in flow_runs]

    def strays(self, *, silence: timedelta, most_starts: int) -> list[Sighting]:
        return self.astray

    def start_again(self, seen: Sighting) -> bool:
        self.started.append(seen.flow_run_id)
        return True


def deployed(here: Rehearsal, plan: str = LETTER, *, flow_run: str = "flow-1", occurrence: str = "first") -> Campaign:
    """Start a run as a flow run of a deployment does."""
    return campaign.start(
        here.store,
        here.settings,
        path=here.write(plan),
        occurrence=occurrence,
        scheduled=here.clock.now(),
        flow_run_id=flow_run,
        deployment_id="deployment",
    )


def ready(here: Rehearsal, plan: str = LETTER) -> Campaign:
    running = deployed(here, plan)
    here.closing.callback(running.close)
    running.resolve_audience()
    running.render()
    return running


def fall_silent(here: Rehearsal, running: Campaign, **values: Any) -> None:
    """Let the run's process be gone for long."""
    with here.store.write() as connection:
        connection.execute(
            update(runs)
            .where(runs.c.run_id == running.run.run_id)
            .values(alive_machine=time.time() - LONG_AGO, **values)
        )


def test_only_runs_of_deployments_that_have_work_left_and_are_silent_are_looked_after(rehearse):
    here = rehearse(crowd(2))
    running = ready(here)
    here.start(PAIR, "in the foreground".replace(" ", "-"))
    assert silent_runs(here.store) == []
    with here.store.write() as connection:
        connection.execute(update(runs).values(alive_machine=time.time() - LONG_AGO))
    (found,) = silent_runs(here.store)
    assert (found.run_key, found.flow_runs, found.starts) == ("letter@first", (("flow-1", "deployment"),), 1)
    ending.cancel_run(here.store, running.run.run_id)
    assert silent_runs(here.store) == []


def test_a_process_that_works_on_a_run_is_heard_of(rehearse):
    here = rehearse(crowd(2))
    running = ready(here)
    fall_silent(here, running)
    with beating(running):
        assert silent_runs(here.store) == []


def test_a_silent_run_is_started_again_once_and_has_time_to_be_heard_of(rehearse):
    here, board = rehearse(crowd(2)), Board({"flow-1": FlowState.CRASHED})
    running = ready(here)
    fall_silent(here, running)
    assert revive(here.store, board, {}) == Revival(revived=1)
    assert revive(here.store, board, {}) == Revival()
    assert board.started == ["flow-1"]


def test_a_run_that_never_sends_a_batch_is_held_after_five_starts_until_a_person_acts(rehearse):
    here, board = rehearse(crowd(2)), Board({"flow-1": FlowState.CRASHED})
    running = ready(here)
    for start in range(2, 6):
        fall_silent(here, running)
        assert revive(here.store, board, {}) == Revival(revived=1)
        assert ledger_run.load_run(here.store, running.run.run_id).starts == start
    fall_silent(here, running)
    assert revive(here.store, board, {}) == Revival(held=1)
    held = ledger_run.load_run(here.store, running.run.run_id)
    assert (held.state, "crash loop" in (held.reason or "")) == ("held", True)
    assert here.send_due(running).accepted == 0
    assert revive(here.store, board, {}) == Revival()
    resume(here.store, running.run.run_id)
    assert revive(here.store, board, {}) == Revival(revived=1)
    assert here.send_due(running).accepted == 2
    here.require_balance(running)


def test_a_batch_that_was_sent_begins_the_count_anew_and_one_that_was_given_up_does_not(rehearse):
    here, board = rehearse(crowd(4)), Board({"flow-1": FlowState.RUNNING})
    running = ready(here)
    fall_silent(here, running, starts=5)
    assert [one.starts for one in silent_runs(here.store)] == [5]
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="gone", limit=10, lease=-1) is not None
    assert sweep(here.store, running.run.run_id) == (4, 0)
    assert [one.starts for one in silent_runs(here.store)] == [5]
    assert here.send_due(running).accepted == 4
    fall_silent(here, running)
    assert [one.starts for one in silent_runs(here.store)] == [0]
    assert revive(here.store, board, {}) == Revival(revived=1)


@pytest.mark.parametrize("state", [FlowState.CANCELLED, FlowState.CANCELLING, FlowState.DELETED])
def test_a_run_that_a_person_stopped_is_cancelled_for_ever(rehearse, state):
    here, board = rehearse(crowd(2)), Board({"flow-1": state})
    running = ready(here)
    fall_silent(here, running)
    assert revive(here.store, board, {}) == Revival(cancelled=1)
    assert running.state == "cancelled"
    assert board.started == []
    assert {row.state for row in here.rows().values()} == {"cancelled"}
    here.require_balance(running)


def test_a_run_that_failed_is_held_and_the_same_start_takes_it_up_where_it_was(rehearse):
    here, board = rehearse(crowd(2)), Board({"flow-1": FlowState.FAILED}, since=time.time() + LONG_AGO)
    running = ready(here)
    fall_silent(here, running)
    assert revive(here.store, board, {}) == Revival(held=1)
    assert running.state == "held"
    assert deployed(here, flow_run="flow-2").state == "executing"
    assert here.send_due(running).accepted == 2
    here.require_balance(running)


def test_a_run_that_failed_before_it_was_planned_is_planned_anew_and_blocks_nobody_meanwhile(rehearse):
    here, board = rehearse(crowd(2)), Board({"flow-1": FlowState.FAILED}, since=time.time() + LONG_AGO)
    once = LETTER.replace("audience:\n", "audience:\n  start: 2026-11-01\n  enroll: once\n")
    running = deployed(here, once)
    running.resolve_audience()
    fall_silent(here, running)
    assert revive(here.store, board, {}) == Revival(held=1)
    assert running.render() is None
    other = here.ready(once, "second")
    assert here.send_due(other).accepted == 2
    again = deployed(here, once, flow_run="flow-2")
    assert again.state == "frozen"
    again.resolve_audience()
    again.render()
    assert {row.reason for row in here.rows(again.run.run_id).values()} == {"already_enrolled"}


def test_a_flow_run_that_died_before_it_wrote_anything_down_is_started_again(rehearse):
    here = rehearse(crowd(2))
    ready(here)
    astray = [Sighting(flow_run_id=name, state=FlowState.CRASHED) for name in ("flow-1", "flow-7")]
    board = Board(astray=astray)
    assert revive(here.store, board, {}) == Revival(revived=1)
    assert board.started == ["flow-7"]


def test_a_late_occurrence_gives_way_only_before_it_has_begun(rehearse):
    here = rehearse(crowd(2))
    late = deployed(here)
    newer = here.clock.now() + timedelta(days=1)
    assert late.give_way(newer)
    assert late.state == "superseded"
    assert late.standing == "letter@first is superseded: letter@2026-12-02T10:00 was due before this began"
    assert not ending.cancel_run(here.store, late.run.run_id)
    begun = here.ready(LETTER, "second")
    assert not begun.give_way(newer)
    assert here.send_due(begun).accepted == 2
    assert here.prove(late).difference == 0


def test_a_held_run_cannot_be_held_again_and_only_a_held_run_is_resumed(rehearse):
    here = rehearse(crowd(2))
    running = ready(here)
    with pytest.raises(RunError, match="nothing to resume"):
        resume(here.store, running.run.run_id)
    assert hold(here.store, running.run.run_id, "because")
    assert not hold(here.store, running.run.run_id, "because")
    resume(here.store, running.run.run_id)
    assert running.state == "executing"


def test_silence_of_upkeep_is_noticed_once(store):
    patience = timedelta(seconds=-1)
    assert not upkeep.fell_silent(store, patience=patience), "it counts from the first look"
    assert upkeep.fell_silent(store, patience=patience)
    assert not upkeep.fell_silent(store, patience=patience)
    upkeep.at_work(store)
    assert not upkeep.fell_silent(store)
    assert upkeep.fell_silent(store, patience=patience)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What owners were told, at the address that the environment names."""
    told: list[str] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("CRM_NOTIFY", f"json://127.0.0.1:{server.server_port}/")
        yield told
        server.shutdown()


NOTIFIED = LETTER.replace("crm: {}", "crm: {notify: env:CRM_NOTIFY}")


def test_the_owner_of_a_held_run_is_told_once(rehearse, heard):
    here, board = rehearse(crowd(2)), Board({"flow-1": FlowState.FAILED}, since=time.time() + LONG_AGO)
    running = ready(here, NOTIFIED)
    fall_silent(here, running)
    for _ in range(2):
        revive(here.store, board, os.environ)
    assert heard == ["letter@first is held"]


def test_a_running_campaign_notices_that_upkeep_is_silent_and_tells_its_owner_once(rehearse, heard):
    here = rehearse(crowd(2))
    running = ready(here, NOTIFIED)
    upkeep.at_work(here.store)
    with here.store.write() as connection:
        connection.execute(update(upkeep_row).values(alive_machine=time.time() - LONG_AGO))
    with beating(running, watches_upkeep=True, every=0.05), beating(running, watches_upkeep=True, every=0.05):
        until(lambda: heard, why="that the owner is told")
    assert heard == ["SANDBOX: commplan upkeep is silent"]
