"""What a provider's records say of one request, whichever way they are ordered."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from commplan.envelope import Sighting
from commplan.settle import Span, weigh_emails, weigh_texts
from commplan.terms import Channel, Finding
from tests.conftest import NOON
from tests.ledger.test_unsettled import doubt

SPAN = Span(start=NOON - timedelta(minutes=5), end=NOON + timedelta(minutes=6))
OURS, SENDER = "a" * 32, "+15005550006"


def mail(attempt_id: str | None, *, minutes: float = 0) -> Sighting:
    return Sighting(provider_id="REQUEST.recvd-1", created_at=NOON + timedelta(minutes=minutes), attempt_id=attempt_id)


def text(sid: str = "SM1", *, minutes: float = 0, body: str = "hello", sender: str = SENDER) -> Sighting:
    return Sighting(provider_id=sid, created_at=NOON + timedelta(minutes=minutes), body=body, sender=sender)


@pytest.mark.parametrize(
    ("sightings", "expected"),
    [
        ([], (Finding.NOTHING, None)),
        ([mail(OURS)], (Finding.FOUND, "REQUEST")),
        ([mail("another"), mail(OURS, minutes=90)], (Finding.FOUND, "REQUEST")),
        ([mail("another")], (Finding.NOTHING, None)),
        ([mail(None)], (Finding.AMBIGUOUS, None)),
        ([mail(None, minutes=7)], (Finding.NOTHING, None)),
    ],
)
def test_the_logs_prove_what_carries_our_id_and_leave_open_what_carries_none(sightings, expected):
    assert weigh_emails(sightings, attempt_id=OURS, span=SPAN) == expected


@pytest.mark.parametrize(
    ("sightings", "others", "expected"),
    [
        ([], False, (Finding.NOTHING, None)),
        ([text()], False, (Finding.FOUND, "SM1")),
        ([text(minutes=6)], False, (Finding.FOUND, "SM1")),
        ([text(body="hello\n")], False, (Finding.FOUND, "SM1")),
        ([text(minutes=6.1)], False, (Finding.NOTHING, None)),
        ([text(minutes=-5.1)], False, (Finding.NOTHING, None)),
        ([text(sender="+15005550010")], False, (Finding.NOTHING, None)),
        ([text("SM-of-another")], False, (Finding.NOTHING, None)),
        ([text("SM-of-another"), text()], False, (Finding.FOUND, "SM1")),
        ([text(), text("SM2")], False, (Finding.AMBIGUOUS, None)),
        ([text(body="something else")], False, (Finding.AMBIGUOUS, None)),
        ([text(body="")], False, (Finding.AMBIGUOUS, None)),
        ([text()], True, (Finding.AMBIGUOUS, None)),
        ([], True, (Finding.AMBIGUOUS, None)),
    ],
)
def test_the_list_proves_only_what_can_be_nothing_else(sightings, others, expected):
    found = weigh_texts(sightings, body="hello", sender=SENDER, span=SPAN, bound={"SM-of-another"}, others_open=others)
    assert found == expected


@pytest.mark.parametrize("offset", [timedelta(minutes=3), timedelta(minutes=-3), timedelta(hours=2)])
def test_the_span_is_on_the_providers_clock_and_five_minutes_wider_on_both_sides(offset):
    one = doubt(Channel.SMS)
    span = Span.of(one, offset=offset)
    assert (span.start, span.end) == (
        one.wire_at + offset - timedelta(minutes=5),
        NOON + offset + timedelta(minutes=5),
    )
    assert one.wire_at + offset in span
    # Nobody has noticed yet that no answer comes: the request's own time is the deadline.
    assert Span.of(replace(one, given_up_at=None), offset=offset).end == one.wire_at + offset + timedelta(minutes=5)
