"""Counts come out of the ledger as a person would count them, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from commplan import metrics
from commplan.errors import RunError
from commplan.ids import RunId
from commplan.metrics import People, Tally
from commplan.terms import Channel, MessageState, Reason

START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TICK = timedelta(microseconds=1)


def _measure(ledger, plan):
    run_id = ledger.save()
    with ledger.store.read() as connection:
        return metrics.measure(connection, run_id=run_id, plan=plan)


def _everything(run):
    """Eight people, each with another fate."""
    email, sms = run.email, run.sms
    nothing = [sms("not_needed", reason="condition_false"), email("not_due")]
    run.person(
        email(opened_at=START + HOUR, clicked_at=START + HOUR, opted_out_at=START + DAY), *nothing, segment="vip"
    )
    run.person(
        email(machine_opened_at=START, machine_clicked_at=START),
        sms(replied_at=START + 3 * DAY, parts=2),
        email("queued"),
        country="CN",
    )
    run.person(email(), sms("failed", reason="undelivered"), email("queued"), locale="zh-CN", country=None)
    run.person(email("failed", reason="bounced"), sms("not_needed", reason="condition_unknown"), email("not_due"))
    run.person(email("failed", at=None, reason="rejected"), *nothing)
    run.person(email("unknown"), *nothing)
    run.person(email("accepted", opened_at=START + HOUR), *nothing)
    run.person(*[row("excluded", reason="no_email") for row in (email, sms, email)], segment=None)


def test_every_message_is_counted_once_where_it_stands(ledger, make_plan):
    run = ledger()
    _everything(run)
    counted = _measure(run, make_plan())
    assert counted.snapshot == 8
    assert counted.tally(lambda cell: cell.step_no == 1) == Tally(
        messages=8,
        excluded=1,
        unknown=1,
        refused=1,
        accepted=5,
        pending=1,
        delivered=3,
        failed=1,
        opened=1,
        machine_opened=1,
        clicked=1,
        machine_clicked=1,
        responded=1,
        opted_out=1,
    )
    assert counted.tally(lambda cell: cell.step_no == 2) == Tally(
        messages=8, excluded=1, not_needed=5, accepted=2, delivered=1, failed=1, replied=1, responded=1
    )
    assert counted.tally(lambda cell: cell.step_no == 3) == Tally(messages=8, excluded=1, open=7)


def test_a_reaction_to_a_message_without_delivery_receipt_is_not_a_share_of_the_delivered(ledger, make_plan):
    run = ledger()
    run.person(run.email("accepted", opened_at=START + HOUR, clicked_at=START + HOUR))
    counts = _measure(run, make_plan()).tally()
    assert (counts.pending, counts.delivered, counts.opened, counts.clicked) == (1, 0, 0, 0)


def test_people_are_counted_once_however_many_messages_they_had(ledger, make_plan):
    run = ledger()
    _everything(run)
    people = {group.segment: group for group in _measure(run, make_plan()).people}
    assert people["vip"] == People(
        segment="vip", snapshot=1, assigned=1, accepted=1, delivered=1, opened=1, clicked=1, responded=1, open=0
    )
    assert people["new"] == People(
        segment="new", snapshot=6, assigned=6, accepted=4, delivered=2, opened=0, clicked=0, responded=1, open=4
    )
    assert people[None].assigned == 0


def test_cells_keep_reason_locale_and_the_country_of_sms_only(ledger, make_plan):
    run = ledger()
    _everything(run)
    cells = _measure(run, make_plan()).cells
    assert sum(cell.messages for cell in cells) == 24
    assert {cell.country for cell in cells if cell.channel is Channel.EMAIL} == {None}
    [failed] = [c for c in cells if c.channel is Channel.SMS and c.state is MessageState.FAILED]
    assert (failed.reason, failed.locale, failed.country) == (Reason.UNDELIVERED, "zh-CN", None)
    [chinese] = [c for c in cells if c.country == "CN"]
    assert (chinese.parts, chinese.accepted) == (2, 1)


def test_the_order_of_cells_is_the_same_on_every_database(ledger, make_plan):
    run = ledger()
    for segment, locale in (("Zeta", "zh-CN"), (None, None), ("alpha", "en-GB"), ("alpha", None), ("été", "en")):
        run.person(run.email(), segment=segment, locale=locale)
    cells = _measure(run, make_plan()).cells
    assert [(c.segment, c.locale) for c in cells] == [
        (None, None),
        ("Zeta", "zh-CN"),
        ("alpha", None),
        ("alpha", "en-GB"),
        ("été", "en"),
    ]


@pytest.mark.parametrize(
    ("after", "counts"), [(timedelta(0), 0), (TICK, 1), (7 * DAY, 1), (7 * DAY + TICK, 0), (-DAY, 0)]
)
def test_a_conversion_counts_after_the_first_acceptance_and_within_the_goals_time(ledger, make_plan, after, counts):
    run = ledger()
    run.person(run.email(at=START + HOUR), run.sms(at=START), activated=START + after)
    [found] = _measure(run, make_plan()).conversions
    assert (found.assigned, found.converted) == (1, counts)


def test_a_person_converts_once_however_often_they_did(ledger, make_plan):
    run = ledger()
    seq = run.person(run.email(), activated=START + DAY)
    run.converted.append({"name": "activated", "seq": seq, "at": START + 2 * DAY})
    run.converted.append({"name": "another", "seq": seq, "at": START + 2 * DAY})
    [found] = _measure(run, make_plan()).conversions
    assert found.converted == 1


def test_a_conversion_belongs_to_the_latest_run_that_had_written_before_it(ledger, make_plan):
    first, second, other = ledger(), ledger(occurrence="second"), ledger(occurrence="x", plan="another-plan")
    for run, sent in ((first, START), (second, START + 3 * DAY), (other, START + 3 * DAY)):
        for contact_id, converted in (("early", START + 2 * DAY), ("late", START + 4 * DAY)):
            run.person(run.email(at=sent), contact_id=contact_id, activated=converted)
    plan = make_plan()
    other.save()
    second_id = second.save()
    [in_first] = _measure(first, plan).conversions
    with second.store.read() as connection:
        [in_second] = metrics.measure(connection, run_id=second_id, plan=plan).conversions
    assert (in_first.converted, in_second.converted) == (1, 1)


def test_who_had_time_left_when_conversions_were_last_learnt_is_waiting(ledger, make_plan):
    run = ledger()
    run.person(run.email())
    run.person(run.email(at=START + 2 * DAY))
    run.person(run.email(at=START + 2 * DAY), activated=START + 3 * DAY)
    run.person(run.email("unknown"))
    run.person(run.email("failed", at=None, reason="rejected"))
    run.person(run.email("excluded", reason="no_email"))
    run.asked = [("activated", START + 7 * DAY, True), ("activated", START + 12 * DAY, False)]
    counted = _measure(run, make_plan())
    [found] = counted.conversions
    assert (found.assigned, found.converted, found.waiting, found.unwritten) == (5, 1, 1, 1)
    assert found.last_start == START + 2 * DAY
    [gathering] = counted.gatherings
    assert (gathering.asked_at, gathering.answered_at) == (START + 12 * DAY, START + 7 * DAY)


def test_without_any_answer_everybody_written_to_is_waiting(ledger, make_plan):
    run = ledger()
    run.person(run.email())
    [found] = _measure(run, make_plan()).conversions
    assert (found.converted, found.waiting) == (0, 1)


def test_answers_and_replies_are_counted_without_their_words(ledger, make_plan):
    run = ledger()
    for score, comment in ((5, "谢谢"), (5, None), (0, ""), (None, "no score")):
        run.person(run.email(), score=score, comment=comment)
    run.replied = 3
    counted = _measure(run, make_plan())
    assert [(s.score, s.answers, s.comments) for s in counted.scores] == [(None, 1, 1), (0, 1, 0), (5, 2, 1)]
    assert counted.replies == 3
    assert "谢谢" not in repr(counted)


def test_other_runs_are_not_counted(ledger, make_plan):
    ledger_a, ledger_b = ledger(), ledger(occurrence="second")
    ledger_a.person(ledger_a.email(), score=5)
    ledger_a.save()
    ledger_b.person(ledger_b.email("queued"))
    counted = _measure(ledger_b, make_plan())
    assert (counted.snapshot, counted.tally().delivered, counted.scores) == (1, 0, ())


def test_a_run_that_does_not_exist_is_an_error(store, make_plan):
    with store.read() as connection, pytest.raises(RunError, match="no such run"):
        metrics.measure(connection, run_id=RunId(7), plan=make_plan())
