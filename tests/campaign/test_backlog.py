"""What status says: the queue, the pace, when it would be done, and what is in doubt."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from commplan.ledger.backlog import backlog
from commplan.ledger.claim import claim
from tests.campaign.conftest import NOON, PAIR, TEXT, Rehearsal, crowd
from tests.campaign.test_breaker import two_countries
from tests.campaign.test_failure import change_address
from tests.test_cli import ROOT, require, run


def steps(here: Rehearsal, running):
    with here.store.read() as connection:
        return backlog(connection, running.run.run_id, here.clock)


def test_the_queue_is_counted_by_step_and_by_when_it_is_due(rehearse):
    here = rehearse(crowd(6), batch=2)
    running = here.ready(PAIR)
    first, second = steps(here, running)
    assert (first.due, first.later, first.under_way, first.done_by) == (6, 0, 0, None)
    assert (second.due, second.later, second.not_due) == (0, 0, 6)
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=2, lease=60) is not None
    assert steps(here, running)[0].under_way == 2
    here.send_due(running)
    first, second = steps(here, running)
    assert (first.due, first.under_way, second.later, second.not_due) == (0, 2, 4, 2)
    assert first.rate > 0
    assert second.next_at is not None
    assert timedelta() <= second.next_at - (NOON + timedelta(days=1)) < timedelta(minutes=1)
    # What is due tomorrow cannot be done today, however fast it goes.
    assert second.done_by == second.next_at
    here.jump(days=1)
    assert (steps(here, running)[1].due, steps(here, running)[1].later) == (4, 0)


def test_the_end_is_reckoned_from_the_pace_of_the_last_minutes(rehearse):
    here = rehearse(crowd(9), day=86_400)
    running = here.ready(TEXT.replace("content: nudge", "content: nudge, window: 00:00-24:00"))
    assert steps(here, running)[0].done_by is None
    batch = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=3, lease=60)
    assert batch is not None
    here.send_due(running)
    (step,) = steps(here, running)
    assert (step.due, step.under_way) == (0, 3)
    assert step.done_by is not None
    left = (step.done_by - here.clock.now()).total_seconds()
    assert left == pytest.approx(3 / step.rate, abs=2)


def test_what_is_unknown_is_shown_with_its_age_and_what_waits_for_a_country_with_why(rehearse):
    here = rehearse(two_countries(2))
    running = here.ready(TEXT)
    for seq in (1, 2):
        change_address(here, seq, phone="+15005550003")
    here.fault("sms", "accept_then_close")
    here.send_due(running)
    here.jump(hours=3)
    (step,) = steps(here, running)
    # Whose request it was that broke is chance.
    held_back = step.held_back
    assert (step.due, step.unknown) == (0, 1)
    assert held_back in (1, 2)

    def command(*words: object):
        return run(*words, cwd=ROOT, env=here.environment())

    shown = require(command("status", "letter@first"), 0, "Still to do", f"US: {held_back} texts wait")
    assert "1 of welcome unknown, the oldest for 3 h" in shown
    assert "commplan resume letter@first" in shown
    found = json.loads(require(command("status", "letter@first", "--json"), 0))
    assert found["difference"] == 0
    assert found["countries"][0]["country"] == "US"
    assert found["steps"][0]["held_back"] == held_back
    assert [each["run_key"] for each in json.loads(require(command("status", "--json"), 0))] == ["letter@first"]
