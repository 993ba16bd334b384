"""What is done with a run whose process is silent: a table, and then every combination."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.ids import RunId
from commplan.ledger.revival import MOST_STARTS, SILENCE, FlowState, Sighting, Silent, Verdict, decide

NOW = 1_000_000.0
LONG = SILENCE.total_seconds() + 1


def silent(*, starts: int = 1, started: float = NOW - 1000, flows: int = 1) -> Silent:
    ids = tuple((f"flow-{number}", "deployment") for number in range(flows))
    return Silent(run_id=RunId(1), run_key="a@1", starts=starts, started=started, now=NOW, flow_runs=ids)


def seen(state: FlowState, *, ago: float = LONG) -> Sighting:
    return Sighting(flow_run_id="flow-0", state=state, since=NOW - ago)


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (FlowState.CRASHED, Verdict.REVIVE),
        (FlowState.RUNNING, Verdict.REVIVE),
        (FlowState.PENDING, Verdict.REVIVE),
        (FlowState.COMPLETED, Verdict.REVIVE),
        (FlowState.CANCELLING, Verdict.CANCEL),
        (FlowState.CANCELLED, Verdict.CANCEL),
        (FlowState.DELETED, Verdict.CANCEL),
        (FlowState.PAUSED, Verdict.LEAVE),
        (FlowState.SCHEDULED, Verdict.LEAVE),
        (FlowState.FOREIGN, Verdict.LEAVE),
        (FlowState.FAILED, Verdict.HOLD),
    ],
)
def test_the_state_of_the_flow_run_decides(state: FlowState, verdict: Verdict) -> None:
    assert decide(silent(), [seen(state)]).verdict is verdict


def test_a_run_that_wakes_up_after_days_is_left_alone_while_its_process_starts() -> None:
    for state in (FlowState.PENDING, FlowState.RUNNING):
        assert decide(silent(), [seen(state, ago=5)]).verdict is Verdict.LEAVE


def test_after_five_starts_without_a_batch_it_is_a_crash_loop() -> None:
    assert decide(silent(starts=MOST_STARTS - 1), [seen(FlowState.CRASHED)]).verdict is Verdict.REVIVE
    held = decide(silent(starts=MOST_STARTS), [seen(FlowState.CRASHED)])
    assert held.verdict is Verdict.HOLD
    assert "crash loop" in held.reason


def test_a_run_that_was_resumed_after_it_failed_is_started_again() -> None:
    assert decide(silent(started=NOW - 10), [seen(FlowState.FAILED, ago=60)]).verdict is Verdict.REVIVE


def test_the_newest_flow_run_decides_unless_an_older_one_is_still_to_come() -> None:
    assert decide(silent(), [seen(FlowState.CANCELLED), seen(FlowState.CRASHED)]).verdict is Verdict.CANCEL
    assert decide(silent(), [seen(FlowState.CRASHED), seen(FlowState.CANCELLED)]).verdict is Verdict.REVIVE
    assert decide(silent(), [seen(FlowState.CRASHED), seen(FlowState.SCHEDULED)]).verdict is Verdict.LEAVE
    assert decide(silent(), [seen(FlowState.CANCELLED), seen(FlowState.SCHEDULED)]).verdict is Verdict.LEAVE


_SIGHTINGS = st.builds(seen, st.sampled_from(FlowState), ago=st.floats(0, 1e6))


@given(st.lists(_SIGHTINGS, max_size=4), st.integers(0, 20), st.floats(0, NOW), st.floats(1, 1000))
def test_a_stopped_run_is_never_revived_and_a_hold_always_says_why(
    sightings: list[Sighting], starts: int, started: float, silence: float
) -> None:
    decision = decide(silent(starts=starts, started=started), sightings, silence=timedelta(seconds=silence))
    stopped = (FlowState.CANCELLING, FlowState.CANCELLED, FlowState.DELETED)
    if not sightings or sightings[0].state in stopped or starts >= MOST_STARTS:
        assert decision.verdict is not Verdict.REVIVE
    assert (decision.verdict is Verdict.HOLD) == bool(decision.reason)
