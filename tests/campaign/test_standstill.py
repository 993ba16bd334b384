"""Runs that a person pauses, and the stop of everything: nothing further goes out, and nothing is forgotten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from sqlalchemy import select

from commplan import campaign
from commplan.dispatch import Sender
from commplan.errors import RunError
from commplan.ids import new_attempt_id
from commplan.ledger import ending, standstill
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import claim
from commplan.ledger.look import look
from commplan.store.tables import audit
from commplan.terms import RunState
from tests.campaign.conftest import LETTER, PAIR, TEXT, Customer, Rehearsal, crowd, until
from tests.campaign.test_failure import change_address
from tests.test_cli import ROOT, require, run


def pause(here: Rehearsal, running: campaign.Campaign) -> None:
    standstill.pause(here.store, running.run.run_id, by="ops")


def stop(here: Rehearsal, running: campaign.Campaign) -> None:
    standstill.stop_all(here.store, by="ops")


def resume(here: Rehearsal, running: campaign.Campaign) -> None:
    standstill.resume(here.store, running.run.run_id, by="ops")


def lift(here: Rehearsal, running: campaign.Campaign) -> None:
    standstill.lift_stop(here.store, by="ops")


both_ways = pytest.mark.parametrize(("halt", "go_on"), [(pause, resume), (stop, lift)], ids=["pause", "stop"])


@both_ways
def test_what_was_claimed_goes_back_to_the_queue_and_goes_out_once_when_it_goes_on(rehearse, halt, go_on):
    here = rehearse(crowd(3))
    running = here.ready()
    batch = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=9, lease=60)
    assert batch is not None
    halt(here, running)
    assert look(here.store, batch, seqs=batch.seqs, attempt_ids=[new_attempt_id()], lease=60) == []
    assert {row.state for row in here.rows().values()} == {"queued"}
    assert here.send_due(running).batches == 0
    assert (here.truth(), here.outcomes()) == ([], [])
    assert "ops" in str(running.standstill())
    go_on(here, running)
    assert running.standstill() is None
    assert here.send_due(running).accepted == 3
    here.require_balance(running)


class _Interrupted:
    """A gateway during whose first request somebody stops the run."""

    def __init__(self, inner, act: Callable[[], None]) -> None:
        self._inner = inner
        self._act = act

    def connect(self) -> None:
        self._inner.connect()

    def close(self) -> None:
        self._inner.close()

    def send(self, request):
        self._act()
        return self._inner.send(request)


@both_ways
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_sender_at_work_writes_nothing_after_the_requests_it_has_under_way(rehearse, plan, halt, go_on):
    here = rehearse(crowd(30), batch=10)
    running = here.ready(plan)
    gateways = running.gateways
    gateway = _Interrupted(gateways.email if plan is LETTER else gateways.sms, lambda: _once(halt, here, running))
    sender = Sender(store=here.store, gateways=type(gateways)(email=gateway, sms=gateway), settings=here.settings)
    tally = sender.send_step(running.run.run_id, 1)
    assert tally.batches == 1
    assert 1 <= tally.accepted <= (10 if plan is LETTER else here.settings.sms.connections)
    assert sorted({row.state for row in here.rows().values()}) == ["accepted", "queued"]
    go_on(here, running)
    assert here.send_due(running).accepted == 30 - tally.accepted
    assert len(here.truth()) == 30
    here.require_balance(running)


def _once(halt: Callable[[Rehearsal, campaign.Campaign], None], here: Rehearsal, running: campaign.Campaign) -> None:
    if running.standstill() is None:
        halt(here, running)


def test_time_goes_on_for_a_paused_run(rehearse):
    here = rehearse(crowd(2))
    running = here.ready(PAIR)
    here.send_due(running)
    pause(here, running)
    here.jump(days=3, hours=1)
    assert here.send_due(running).batches == 0
    resume(here, running)
    here.send_due(running)
    assert here.states(running) == {f"person{n}": ["accepted", "expired: too_late"] for n in (1, 2)}
    here.require_balance(running)


def test_only_a_run_that_executes_can_be_paused_and_only_one_that_is_kept_back_resumed(rehearse):
    here = rehearse(crowd(1))
    running = here.start()
    with pytest.raises(RunError, match="letter@first is frozen"):
        pause(here, running)
    running.resolve_audience()
    running.render()
    with pytest.raises(RunError, match="letter@first is executing"):
        resume(here, running)
    assert standstill.pause(here.store, running.run.run_id, by="ops")
    assert not standstill.pause(here.store, running.run.run_id, by="someone else")
    assert "by ops" in str(running.standstill())
    ending.cancel_run(here.store, running.run.run_id, by="ops")
    assert running.standstill() is None
    for act in (pause, resume):
        with pytest.raises(RunError, match="letter@first is cancelled"):
            act(here, running)


def test_who_stopped_what_and_why_is_on_record(rehearse):
    here = rehearse(crowd(1))
    running = here.ready()
    run_id = running.run.run_id
    standstill.pause(here.store, run_id, by="ada", reason="a typo")
    standstill.resume(here.store, run_id, by="bo")
    standstill.stop_all(here.store, by="cy", reason="a fire")
    standstill.lift_stop(here.store, by="di")
    assert not standstill.lift_stop(here.store, by="di")
    ending.cancel_run(here.store, run_id, by="eve", reason="enough")
    with here.store.read() as connection:
        rows = connection.execute(select(audit).order_by(audit.c.audit_id)).all()
    said = [(row.run_id, row.what, json.loads(row.detail)) for row in rows[-5:]]
    assert said == [
        (run_id, "paused", {"by": "ada", "reason": "a typo"}),
        (run_id, "resumed", {"by": "bo"}),
        (None, "stopped", {"by": "cy", "reason": "a fire"}),
        (None, "stop lifted", {"by": "di"}),
        (run_id, "cancelled", {"by": "eve", "messages": 1, "reason": "enough"}),
    ]


def test_a_held_run_is_taken_up_by_who_starts_it_again_and_not_by_the_flow_that_comes_back(rehearse):
    here = rehearse(crowd(1))
    path = here.write(LETTER)

    def start(flow_run_id: str) -> campaign.Campaign:
        found = campaign.start(
            here.store,
            here.settings,
            path=path,
            occurrence="first",
            scheduled=here.clock.now(),
            flow_run_id=flow_run_id,
        )
        here.closing.callback(found.close)
        return found

    running = start("one")
    running.resolve_audience()
    running.render()
    ledger_run.set_state(
        here.store, running.run.run_id, RunState.HELD, only_from=(RunState.EXECUTING,), reason="the key is refused"
    )
    assert start("one").state == "held"
    assert "the key is refused; commplan resume letter@first" in str(running.standstill())
    assert start("two").state == "executing"
    assert running.standstill() is None


def test_the_commands_need_nothing_but_the_store(rehearse):
    here = rehearse(crowd(2))
    running = here.ready()

    def command(*words: object):
        return run(*words, cwd=ROOT, env=here.environment() | {"PREFECT_API_URL": "http://127.0.0.1:9/api"})

    said = require(command("pause", "letter@first", "--by", "ada", "--reason", "a typo"), 0, "letter@first is paused")
    assert "by ada: a typo" in said
    require(command("status", "letter@first"), 0, "letter@first is paused since 2026-12-01", "by ada: a typo")
    require(command("resume", "letter@first"), 0, "letter@first goes on")
    require(command("resume", "letter@first"), 2, "letter@first is executing")
    require(command("stop"), 2, "write commplan stop --all, or --lift")
    require(command("stop", "--all", "--by", "ada"), 0, "everything is stopped since 2026-12-01", "by ada")
    require(command("status", "letter@first"), 0, "everything is stopped", "commplan stop --lift")
    require(command("status"), 0, "everything is stopped")
    assert here.send_due(running).batches == 0
    require(command("stop", "--lift"), 0, "the stop is lifted")
    require(command("stop", "--lift"), 0, "nothing was stopped")
    assert here.send_due(running).accepted == 2


class Flow:
    """A campaign in the foreground, as a person starts it."""

    def __init__(self, here: Rehearsal, plan: str) -> None:
        patience = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
        self.said: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "commplan", "run", str(here.write(plan)), "--run-key", "first"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
            | here.environment()
            | patience,
        )
        here.closing.callback(self._end)

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def read_until(self, words: str) -> None:
        """Read what it says, until it says so."""
        for line in self._process.stdout or ():
            self.said.append(line)
            if words in line:
                return
        raise AssertionError("the flow ended: " + "".join(self.said))

    def wait(self) -> None:
        """Wait until it has ended, and ended well."""
        self.said.append(self._process.communicate(timeout=120)[0])
        assert self._process.returncode == 0, "".join(self.said)


@pytest.mark.long
def test_the_flow_of_a_paused_run_waits_and_goes_on_to_its_evaluation(rehearse):
    here = rehearse(crowd(6), day=60, batch=2)
    plan = LETTER.replace("content: welcome", "content: welcome, not_after: P30D")
    running = here.ready(plan)
    pause(here, running)
    flow = Flow(here, plan)
    flow.read_until("letter@first is paused")
    assert here.truth() == []
    resume(here, running)
    until(lambda: len(here.truth()) == 6, why="that the letters went out")
    # Now it waits for the time of its evaluation.
    pause(here, running)
    flow.read_until("letter@first is paused")
    assert running.state == "paused"
    resume(here, running)
    flow.wait()
    assert running.state == "finished"
    assert len(here.truth()) == 6
    here.require_balance(running)


@pytest.mark.long
def test_the_flow_of_a_run_that_is_held_for_a_country_waits_for_whoever_mends_it(rehearse):
    chinese = Customer(name="chinese", mobile="+8613800138001")
    here = rehearse([*crowd(2), chinese], day=60)
    plan = TEXT.replace("content: nudge", "content: nudge, window: 00:00-24:00, not_after: P30D")
    running = here.ready(plan)
    for seq in (1, 2):
        change_address(here, seq, phone="+15005550003")
    flow = Flow(here, plan)
    flow.read_until("2 texts to US wait")
    assert running.state == "held"
    assert len(here.truth()) == 1
    for seq in (1, 2):
        change_address(here, seq, phone=f"+1202555000{seq}")
    resume(here, running)
    flow.wait()
    assert running.state == "finished"
    assert len(here.truth()) == 3
    here.require_balance(running)
