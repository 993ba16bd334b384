"""When a provider is asked about a request again, and when what it does not show proves that it never had it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.ids import AttemptId, RunId
from commplan.ledger.unsettled import EVIDENCE_TIME, RULES, Inquiry, Unsettled, is_lost, next_look
from commplan.terms import Channel, Finding, OnUnknown
from tests.conftest import NOON

NOTHING, AMBIGUOUS, SILENT = Finding.NOTHING, Finding.AMBIGUOUS, Finding.NO_ANSWER


def doubt(channel: Channel = Channel.EMAIL, *found: tuple[float, Finding], **changes: object) -> Unsettled:
    """A request whose deadline was noon, asked about so many minutes later."""
    one = Unsettled(
        attempt_id=AttemptId("a"),
        run_id=RunId(1),
        step_no=1,
        channel=channel,
        messages=3,
        wire_at=NOON - timedelta(seconds=20),
        given_up_at=NOON,
        not_after=NOON + timedelta(days=1),
        worker_gone=True,
        policy=OnUnknown.HOLD,
        decision=None,
        inquiries=tuple(Inquiry(at=NOON + timedelta(minutes=after), finding=finding) for after, finding in found),
    )
    return replace(one, **changes)


@pytest.mark.parametrize(
    ("channel", "found", "lost"),
    [
        (Channel.EMAIL, [], False),
        (Channel.EMAIL, [(15, NOTHING)], False),
        (Channel.EMAIL, [(15, NOTHING), (25, NOTHING)], True),
        (Channel.EMAIL, [(14.9, NOTHING), (25, NOTHING)], False),
        (Channel.EMAIL, [(15, NOTHING), (24.9, NOTHING)], False),
        (Channel.EMAIL, [(1, NOTHING), (15, NOTHING), (16, NOTHING), (25, NOTHING)], True),
        (Channel.EMAIL, [(15, NOTHING), (25, SILENT)], False),
        (Channel.EMAIL, [(15, NOTHING), (20, SILENT), (25, NOTHING)], True),
        (Channel.EMAIL, [(15, NOTHING), (20, AMBIGUOUS), (25, NOTHING)], False),
        (Channel.EMAIL, [(15, SILENT), (25, SILENT), (1500, SILENT)], False),
        (Channel.SMS, [(1, NOTHING), (2, NOTHING)], True),
        (Channel.SMS, [(0.9, NOTHING), (2, NOTHING)], False),
        (Channel.SMS, [(1, NOTHING), (1.9, NOTHING)], False),
        (Channel.SMS, [(1, AMBIGUOUS), (2, NOTHING)], False),
        (Channel.SMS, [(1, AMBIGUOUS), (2, NOTHING), (3, NOTHING)], True),
    ],
)
def test_a_request_is_lost_when_its_provider_showed_nothing_twice_late_enough_and_far_enough_apart(
    channel, found, lost
):
    one = doubt(channel, *found)
    assert is_lost(one) is lost
    # Whoever may still be about to write it must be gone.
    assert not is_lost(replace(one, worker_gone=False))
    assert not is_lost(replace(one, given_up_at=None))


@pytest.mark.parametrize(("channel", "first", "second"), [(Channel.EMAIL, 15, 25), (Channel.SMS, 1, 2)])
def test_the_looks_are_those_that_can_prove_a_loss(channel, first, second):
    assert next_look(doubt(channel, given_up_at=None), NOON) == NOON
    assert next_look(doubt(channel), NOON) == NOON + timedelta(minutes=first)
    assert next_look(doubt(channel, (first, NOTHING)), NOON) == NOON + timedelta(minutes=second)


def test_a_provider_that_does_not_answer_is_asked_ever_more_seldom_for_a_day_and_an_hour():
    one, now, looks = doubt(Channel.SMS), NOON, 0
    while (look := next_look(one, now)) is not None and looks < 1000:
        assert look > now
        pause, now, looks = look - now, look, looks + 1
        assert pause <= timedelta(hours=1)
        one = replace(one, inquiries=(*one.inquiries, Inquiry(at=now, finding=SILENT)))
    assert 25 < looks < 50
    assert now == NOON + EVIDENCE_TIME


@pytest.mark.parametrize("policy", [OnUnknown.ASSUME_SENT, OnUnknown.RESEND])
def test_the_moment_at_which_the_policy_applies_is_one_of_the_looks(policy):
    one = doubt(Channel.EMAIL, (1440, SILENT), (1480, SILENT), policy=policy, not_after=None)
    assert next_look(one, NOON + timedelta(minutes=1480)) == NOON + EVIDENCE_TIME
    assert next_look(replace(one, decision=policy), NOON + EVIDENCE_TIME) is None


def test_a_policy_that_cannot_apply_keeps_nobody_waiting_but_for_the_worker():
    end = doubt(policy=OnUnknown.RESEND).evidence_ends
    one = doubt(policy=OnUnknown.RESEND, inquiries=(Inquiry(at=end, finding=SILENT),))
    assert next_look(one, end) is None
    assert next_look(replace(one, worker_gone=False), end) > end


@pytest.mark.parametrize(
    ("not_after", "ends"),
    [(48 * 60, 25 * 60), (120, 110), (30, 25), (5, 25)],
    ids=["in time", "sooner", "not before the records were asked twice", "too late already"],
)
def test_what_is_to_be_sent_again_is_decided_on_while_it_may_still_be_sent(not_after, ends):
    one = doubt(Channel.EMAIL, policy=OnUnknown.RESEND, not_after=NOON + timedelta(minutes=not_after))
    assert one.evidence_ends == NOON + timedelta(minutes=ends)
    assert replace(one, policy=OnUnknown.HOLD).evidence_ends == NOON + EVIDENCE_TIME


@given(
    channel=st.sampled_from(Channel),
    found=st.lists(st.tuples(st.floats(0, 1500), st.sampled_from([NOTHING, AMBIGUOUS, SILENT])), max_size=12),
)
def test_nothing_but_two_clean_answers_in_a_row_ever_proves_a_loss(channel, found):
    one = doubt(channel, *sorted(found, key=lambda look: look[0]))
    if is_lost(one):
        rule, clean = RULES[channel], [look.at for look in one.inquiries if look.finding is NOTHING]
        ambiguous = max((look.at for look in one.inquiries if look.finding is AMBIGUOUS), default=NOON)
        counted = [at for at in clean if at >= max(ambiguous, NOON + rule.first)]
        assert counted[-1] - counted[0] >= rule.apart
    look = next_look(one, one.inquiries[-1].at if one.inquiries else NOON)
    assert look is None or not one.inquiries or look > one.inquiries[-1].at
