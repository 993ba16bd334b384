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
#: What a plan may be: its purpose, and whether it says `care`.
KINDS = [(M, False), (S, False), (S, True), (E, False)]
#: reason, scope → what is blocked of marketing, service, care and emergency. Written out on purpose: this is the table
#: the law and the provider are held to.
TABLE = [
    (Reason.NEVER_CONTACT, SCOPE_ALL, (True, True, True, True)),
    (Reason.ERASED, SCOPE_ALL, (True, True, True, True)),
    (Reason.STOP, SCOPE_ALL, (True, True, True, True)),
    (Reason.SPAM_REPORT, SCOPE_ALL, (True, True, True, True)),
    (Reason.HARD_BOUNCE, SCOPE_ALL, (True, True, True, True)),
    (Reason.SOFT_BOUNCES, SCOPE_ALL, (True, True, True, True)),
    (Reason.INVALID_NUMBER, SCOPE_ALL, (True, True, True, True)),
    (Reason.WRONG_PERSON, SCOPE_ALL, (True, True, True, True)),
    (Reason.UNSUBSCRIBED, SCOPE_ALL, (True, True, True, False)),
    (Reason.UNSUBSCRIBED, SCOPE_MARKETING, (True, False, False, False)),
    (Reason.UNSUBSCRIBED, TOPIC, (True, True, True, False)),
    (Reason.UNSUBSCRIBED, "billing", (True, False, False, False)),
    (Reason.DECLINED, SCOPE_ALL, (True, True, True, False)),
    (Reason.DECLINED, TOPIC, (True, True, True, False)),
    (Reason.DECLINED, "billing", (False, False, False, False)),
    (Reason.PAUSED, SCOPE_ALL, (True, False, True, False)),
]
CELLS = [
    (reason, scope, purpose, care, blocked)
    for reason, scope, row in TABLE
    for (purpose, care), blocked in zip(KINDS, row, strict=True)
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
    assert {(reason, purpose) for reason, _, purpose, _, _ in CELLS} == {
        (reason, purpose) for reason, row in consent.BLOCKS.items() for purpose in row
    }
    assert all(set(row) == set(Purpose) for row in consent.BLOCKS.values())
    assert {(p, c) for p, c, _, _ in CONSENT_CELLS} == {(p, c) for p in Purpose for c in Channel}


@pytest.mark.parametrize("channel", Channel)
@pytest.mark.parametrize(("reason", "scope", "row"), TABLE)
def test_a_suppression_blocks_exactly_its_cells(
    reason: Reason, scope: str, row: tuple[bool, ...], channel: Channel
) -> None:
    for (purpose, care), blocked in zip(KINDS, row, strict=True):
        found = consent.exclusion(
            purpose=purpose,
            channel=channel,
            topic=TOPIC,
            care=care,
            consent=True,
            suppressions=[Suppression(reason=reason, scope=scope)],
        )
        assert found == (reason if blocked else None), (purpose, care)


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
