"""Whatever is killed, the run goes on where it was, without an operator, and nobody gets anything twice."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.story.installation import OPEN, Installation, installed, kill

pytestmark = [pytest.mark.story, pytest.mark.long, pytest.mark.timeout(900), pytest.mark.xdist_group("revival")]

#: Longer than two signs of life of a process that is at work, on a busy machine.
SILENCE = 25.0


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("up") / "a b 家") as found:
        yield found


def _under_way(here: Installation, name: str, *, wait: str = "PT45S") -> str:
    """Start a campaign and return its flow run once the first letter is out and the process waits for the second."""
    flow_run, key = here.campaign(name, wait=wait), f"{name}@first"
    here.wait(lambda: here.states(key, 1).keys() & {"accepted", "delivered"}, why="the first letter is going out")
    here.wait(lambda: not here.states(key, 1).keys() & OPEN, why="the first letter went out")
    return flow_run


def _require_whole(here: Installation, name: str, *, silence: float | None = SILENCE) -> None:
    """Wait for the end of a run; assert that it went on where it was, and that the books balance."""
    key = f"{name}@first"
    here.wait(lambda: here.run_state(key) == "finished", why="the run finished", silence=silence, seconds=600)
    for step_no in (1, 2):
        assert not here.states(key, step_no).keys() & OPEN
    # Whom the first letter reached, the second reached too: nobody in between opts out so soon.
    assert here.states(key, 2).get("cancelled", 0) == 0
    found = here.prove(key)
    assert found["difference"] == 0
    assert {check["what"]: check["found"] for check in found["checks"]}["messages the sandbox accepted twice"] == 0


def test_a_flow_process_that_is_killed_comes_back_by_itself(here: Installation) -> None:
    # With the patience and the timetable of every day.
    flow_run = _under_way(here, "alpha")
    kill(here.flow_process(flow_run))
    _require_whole(here, "alpha", silence=None)
    assert here.ask("GET", f"/flow_runs/{flow_run}")["run_count"] == 2


def test_a_worker_and_its_process_that_are_killed_come_back(here: Installation) -> None:
    flow_run = _under_way(here, "beta")
    kill(here.child("worker-campaigns"))
    kill(here.flow_process(flow_run))
    assert here.state(flow_run) == "RUNNING"
    _require_whole(here, "beta")


def test_a_prefect_server_that_is_killed_comes_back_and_the_run_goes_on(here: Installation) -> None:
    _under_way(here, "gamma")
    before = here.child("prefect", "server")
    kill(before)
    here.wait(lambda: here.child("prefect", "server") not in (None, before), why="the server was started again")
    _require_whole(here, "gamma")


def test_a_receiver_that_is_killed_loses_no_receipt(here: Installation) -> None:
    _under_way(here, "delta")
    before = here.child("serve")
    kill(before)
    here.wait(lambda: here.child("serve") not in (None, before), why="the receiver was started again")
    _require_whole(here, "delta")
    told = (
        "SELECT count(*) FROM messages JOIN runs USING (run_id)"
        " WHERE run_key = 'delta@first' AND step_no = 2 AND delivered_at IS NOT NULL"
    )
    here.wait(lambda: here.rows(told)[0][0] > 0, why="receipts arrive again")


def test_after_a_power_cut_in_the_middle_of_upkeep_everything_is_at_work_again(here: Installation) -> None:
    flow_run = _under_way(here, "iota", wait="PT55S")
    here.wait(here.upkeep_process, why="upkeep is at work")
    # Upkeep holds the only slot of its deployment, and nobody is left to give it back.
    killed = [
        here.child("prefect", "server"),
        here.child("worker-upkeep"),
        here.child("worker-campaigns"),
        here.child("serve"),
        here.upkeep_process(),
        here.flow_process(flow_run),
    ]
    for pid in filter(None, killed):
        kill(pid)
    turns = here.upkeep_turns()
    here.wait(lambda: here.upkeep_turns() > turns, why="upkeep is at work again", seconds=600)
    _require_whole(here, "iota", silence=None)


def test_a_run_that_the_store_does_not_serve_goes_on_when_it_does(here: Installation) -> None:
    flow_run = _under_way(here, "eta")
    writer = sqlite3.connect(here.home / "store.sqlite", isolation_level=None, timeout=60)
    writer.execute("BEGIN IMMEDIATE")
    here.wait(lambda: here.state_name(flow_run) == "AwaitingStore", why="the run was handed back")
    writer.execute("ROLLBACK")
    writer.close()
    _require_whole(here, "eta", silence=None)


def test_a_run_that_always_dies_is_held_after_five_starts(here: Installation) -> None:
    plan = here.write_plan("epsilon")
    flow_run = here.start(here.deploy("epsilon", "tests/story/dying.py:dying", plan=str(plan)))
    here.wait(lambda: here.run_state("epsilon@first") == "held", why="the run was held", silence=3, seconds=600)
    turns = here.upkeep_turns()
    reason, starts = here.rows("SELECT reason, starts FROM runs WHERE run_key = 'epsilon@first'")[0]
    assert "crash loop" in reason
    assert starts == 5
    # A death that is reported late counts as a start that failed at once.
    assert here.ask("GET", f"/flow_runs/{flow_run}")["run_count"] <= 5
    here.wait(lambda: here.upkeep_turns() >= turns + 2, why="upkeep has looked again", silence=3)
    # The worker may still report the last death in between; what nobody may do is give the run another start.
    assert here.run_state("epsilon@first") == "held"
    assert here.state(flow_run) != "SCHEDULED"
    assert here.rows("SELECT starts FROM runs WHERE run_key = 'epsilon@first'") == [(5,)]


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_a_run_that_a_person_stopped_is_never_revived(here: Installation, how: str) -> None:
    flow_run = _under_way(here, f"zeta-{how}", wait="PT10M")
    here.wait(lambda: here.state(flow_run) == "SCHEDULED", why="the run waits without a process")
    if how == "cancelled":
        state = {"type": "CANCELLING", "name": "Cancelling"}
        here.ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})
    else:
        here.ask("DELETE", f"/flow_runs/{flow_run}")
    key = f"zeta-{how}@first"
    here.wait(lambda: here.run_state(key) == "cancelled", why="the ledger's run is cancelled", silence=SILENCE)
    here.wait(lambda: here.states(key, 2).keys() <= {"cancelled", "excluded"}, why="nothing more is to be sent")
    assert here.prove(key)["difference"] == 0


def test_of_several_late_occurrences_only_the_newest_is_carried_out(here: Installation) -> None:
    plan = here.write_plan("theta", wait="PT1S")
    worker = here.child("worker-campaigns")
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)
    begins = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    rule = f"DTSTART:{begins:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=MINUTELY;COUNT=3"
    deployment = here.deploy("theta", "flows/campaign.py:campaign", plan=str(plan))
    here.ask("POST", f"/deployments/{deployment}/schedules", [{"active": True, "schedule": {"rrule": rule}}])
    here.wait(lambda: datetime.now(UTC) > begins + timedelta(minutes=2, seconds=5), why="three occurrences are late")
    os.kill(worker, signal.SIGCONT)
    ended = "SELECT state FROM runs WHERE plan = 'theta' ORDER BY occurrence"
    wanted = [("superseded",), ("superseded",), ("finished",)]
    here.wait(lambda: here.rows(ended) == wanted, why="the newest was carried out")

    def names() -> list[str]:
        flow_runs = here.ask("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}})
        return sorted(run["state"]["name"] for run in flow_runs)

    here.wait(lambda: names() == ["Completed", "Superseded", "Superseded"], why="Prefect shows what became of them")
    written_to = "SELECT count(DISTINCT run_id) FROM messages JOIN runs USING (run_id) WHERE plan = 'theta'"
    assert here.rows(written_to) == [(1,)]
