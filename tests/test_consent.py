"""Who may be written to, cell by cell, in the planner's words and in the last look's."""

import pytest
from sqlalchemy import Boolean, literal, null, select, type_coerce

from commplan import consent
from commplan.consent import SCOPE_ALL, SCOPE_MARKETING, Suppression
from commplan.plan.notation import NO_TOPICS
from commplan.store import Store
from commplan.terms import Channel, Purpose, Reason

TOPIC = "getting-started"

M, S, E = Purpose.MARKETING, Purpose.SERVICE, Purpose.EMERGENCY
#: reason, scope, purpose → blocked? Written out on purpose: this is the table the law and the provider are held to.
CELLS = [
    (Reason.NEVER_CONTACT, SCOPE_ALL, M, True),
    (Reason.NEVER_CONTACT, SCOPE_ALL, S, True),
    (Reason.NEVER_CONTACT, SCOPE_ALL, E, True),
    (Reason.STOP, SCOPE_ALL, M, True),
    (Reason.STOP, SCOPE_ALL, S, True),
    (Reason.STOP, SCOPE_ALL, E, True),
    (Reason.SPAM_REPORT, SCOPE_ALL, M, True),
    (Reason.SPAM_REPORT, SCOPE_ALL, S, True),
    (Reason.SPAM_REPORT, SCOPE_ALL, E, True),
    (Reason.HARD_BOUNCE, SCOPE_ALL, M, True),
    (Reason.HARD_BOUNCE, SCOPE_ALL, S, True),
    (Reason.HARD_BOUNCE, SCOPE_ALL, E, True),
    (Reason.INVALID_NUMBER, SCOPE_ALL, M, True),
    (Reason.INVALID_NUMBER, SCOPE_ALL, S, True),
    (Reason.INVALID_NUMBER, SCOPE_ALL, E, True),
    (Reason.UNSUBSCRIBED, SCOPE_ALL, M, True),
    (Reason.UNSUBSCRIBED, SCOPE_ALL, S, True),
    (Reason.UNSUBSCRIBED, SCOPE_ALL, E, False),
    (Reason.UNSUBSCRIBED, SCOPE_MARKETING, M, True),
    (Reason.UNSUBSCRIBED, SCOPE_MARKETING, S, False),
    (Reason.UNSUBSCRIBED, SCOPE_MARKETING, E, False),
    (Reason.UNSUBSCRIBED, TOPIC, M, True),
    (Reason.UNSUBSCRIBED, TOPIC, S, True),
    (Reason.UNSUBSCRIBED, TOPIC, E, False),
    (Reason.UNSUBSCRIBED, "billing", M, True),
    (Reason.UNSUBSCRIBED, "billing", S, False),
    (Reason.UNSUBSCRIBED, "billing", E, False),
]
#: purpose, channel, the plan states a basis → what consent (yes, no, nothing on record) lets through.
CONSENT_CELLS = [
    (M, Channel.EMAIL, False, (True, False, False)),
    (M, Channel.EMAIL, True, (True, False, True)),
    (M, Channel.SMS, False, (True, False, False)),
    (M, Channel.SMS, True, (True, False, False)),
    (S, Channel.EMAIL, False, (True, True, True)),
    (S, Channel.EMAIL, True, (True, True, True)),
    (S, Channel.SMS, False, (True, False, True)),
    (S, Channel.SMS, True, (True, False, True)),
    (E, Channel.EMAIL, False, (True, True, True)),
    (E, Channel.EMAIL, True, (True, True, True)),
    (E, Channel.SMS, False, (True, True, True)),
    (E, Channel.SMS, True, (True, True, True)),
]


def test_the_cells_below_are_the_whole_table() -> None:
    assert {(reason, purpose) for reason, _, purpose, _ in CELLS} == {
        (reason, purpose) for reason, row in consent.BLOCKS.items() for purpose in row
    }
    assert all(set(row) == set(Purpose) for row in consent.BLOCKS.values())
    assert {(p, c) for p, c, _, _ in CONSENT_CELLS} == {(p, c) for p in Purpose for c in Channel}


@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize(("reason", "scope", "purpose", "blocked"), CELLS)
def test_a_suppression_blocks_exactly_its_cells(
    reason: Reason, scope: str, purpose: Purpose, blocked: bool, channel: Channel
) -> None:
    found = consent.exclusion(
        purpose=purpose,
        channel=channel,
        topic=TOPIC,
        consent=True,
        suppressions=[Suppression(reason=reason, scope=scope)],
    )
    assert found == (reason if blocked else None)


@pytest.mark.parametrize(("purpose", "channel", "basis", "passes"), CONSENT_CELLS)
def test_consent_lets_through_exactly_its_cells(
    purpose: Purpose, channel: Channel, basis: bool, passes: tuple[bool, bool, bool]
) -> None:
    stated = "customers of the last year" if basis else None
    for given_consent, may in zip((True, False, None), passes, strict=True):
        found = consent.exclusion(purpose=purpose, channel=channel, topic=TOPIC, consent=given_consent, basis=stated)
        assert found == (None if may else Reason.NO_CONSENT)


def test_the_last_look_asks_for_the_same_consent(store: Store) -> None:
    values = (literal(True), literal(False), type_coerce(null(), Boolean))
    with store.read() as connection:
        for purpose, channel, basis, passes in CONSENT_CELLS:
            for value, may in zip(values, passes, strict=True):
                stated = "customers of the last year" if basis else None
                refused = consent.refused(channel, value, purpose=purpose, basis=stated)
                told = connection.execute(select(refused)).scalar_one()
                assert bool(told) is not may, (purpose, channel, basis, value)


def test_no_plan_has_a_topic_that_is_called_like_a_wider_scope() -> None:
    assert {SCOPE_ALL, SCOPE_MARKETING} == NO_TOPICS


def test_of_several_reasons_the_gravest_is_told() -> None:
    several = [Suppression(reason=reason, scope=SCOPE_ALL) for reason in reversed(consent.BLOCKS)]
    found = consent.exclusion(purpose=M, channel=Channel.SMS, topic=TOPIC, consent=False, suppressions=several)
    assert found is Reason.NEVER_CONTACT
