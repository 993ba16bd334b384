"""Planning a run beside others: nobody is lost, nobody is greeted twice, and a wish is kept at the next address too."""

from __future__ import annotations

import time
from itertools import chain

import pytest
from sqlalchemy import delete, update

from commplan import tracking
from commplan.audience.planning import SILENCE
from commplan.errors import InputError, RunError
from commplan.ids import TokenPurpose
from commplan.store.tables import recipients, runs
from commplan.terms import RunState
from tests.campaign.conftest import LETTER, PAIR, TEXT, crowd

EVERY_RUN = LETTER.replace("\nsequence:", "\n  enroll: every_run\nsequence:")
TWO_LETTERS = LETTER.replace(
    "evaluation:", "  - {step: second, channel: email, content: welcome, wait: P1D, not_after: P2D}\nevaluation:"
)


def fall_silent(here, run) -> None:  # type: ignore[no-untyped-def]
    with here.store.write() as connection:
        connection.execute(
            update(runs).where(runs.c.run_id == run.run.run_id).values(alive_machine=time.time() - SILENCE - 60)
        )


def test_a_run_whose_people_are_not_those_that_were_counted_is_not_rendered(rehearse):
    here = rehearse(crowd(3))
    run = here.start()
    run.resolve_audience()
    with here.store.write() as connection:
        connection.execute(delete(recipients).where(recipients.c.seq == 3))
    with pytest.raises(RunError, match="counted as 3 people, and 2 are there; start the run again"):
        run.render()
    assert run.state is RunState.FROZEN
    again = here.ready()
    assert again.run.run_id == run.run.run_id
    assert here.send_due(again).accepted == 3


def test_two_runs_of_every_run_that_are_planned_before_either_sends_greet_nobody_twice(rehearse):
    here = rehearse(crowd(2))
    first, second = here.ready(EVERY_RUN, "10:00"), here.ready(EVERY_RUN, "10:01")
    here.send_due(second)
    here.send_due(first)
    assert sorted(one["to"] for one in here.truth()) == ["person1@person.example.com", "person2@person.example.com"]
    assert set(here.states(second)["person1"]) == {"excluded: recently_sent"}


def test_an_answer_that_never_came_counts_as_just_sent(rehearse):
    here = rehearse(crowd(1))
    first = here.ready(EVERY_RUN, "10:00")
    here.fault("email", "accept_then_close")
    here.send_due(first)
    assert here.send_due(here.ready(EVERY_RUN, "10:01")).accepted == 0
    assert len(here.truth()) == 1


def test_a_run_that_lost_its_people_to_another_while_it_was_silent_cannot_be_rendered_as_it_was(rehearse):
    here = rehearse(crowd(2))
    silent = here.start(occurrence="silent")
    silent.resolve_audience()
    fall_silent(here, silent)
    assert here.send_due(here.ready(occurrence="next")).accepted == 2
    with pytest.raises(RunError, match="not complete; start the run again"):
        silent.render()
    again = here.ready(occurrence="silent")
    assert here.send_due(again).accepted == 0
    assert set(chain.from_iterable(here.states(again).values())) == {"excluded: already_enrolled"}


@pytest.mark.parametrize("when", ["while the run waits", "before the next run is planned"])
def test_an_opt_out_follows_the_person_to_another_address(rehearse, when):
    here = rehearse(crowd(2))
    run = here.ready(TWO_LETTERS)
    here.send_due(run)
    here.deliver_all()
    theirs = next(one["ref"] for one in here.truth() if one["to"].startswith("person1"))
    tracking.unsubscribe(here.store, here.store.keyring.token(TokenPurpose.UNSUBSCRIBE, theirs))
    here.update_crm("UPDATE customers SET email = 'moved@person.example.com' WHERE customer_id = 1")
    here.jump(days=1)
    if when == "while the run waits":
        run.gather()
    else:
        run = here.ready(TWO_LETTERS.replace("plan: letter", "plan: another"))
    here.send_due(run)
    assert here.states(run)["person1"][-1] in ("suppressed: unsubscribed", "excluded: unsubscribed")
    assert "moved@person.example.com" not in {one["to"] for one in here.truth()}
    # It is of one person, and holds on every channel.
    assert here.states(run)["person2"][0] in ("delivered", "accepted")
    text = here.ready(TEXT.replace("plan: letter", "plan: text"))
    assert here.send_due(text).accepted == 1
    assert here.states(text)["person1"] == ["excluded: unsubscribed"]


def test_a_half_reloaded_crm_stops_the_run_until_it_is_whole_again(rehearse):
    here = rehearse(crowd(10))
    run = here.ready(PAIR)
    here.send_due(run)
    here.deliver_all()
    here.jump(days=1)
    here.update_crm("CREATE TABLE kept AS SELECT * FROM customers")
    here.update_crm("DELETE FROM customers WHERE customer_id > 1")
    with pytest.raises(InputError, match="lacks 9 of the 10 people"):
        run.gather()
    here.update_crm("INSERT INTO customers SELECT * FROM kept WHERE customer_id > 1")
    assert run.gather().left_audience == 0
    assert here.send_due(run).accepted == 10
