"""Who may be written to, cell by cell; and a suppression list that comes out the same whatever order it is told in."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Boolean, Connection, create_engine, literal, null, select, type_coerce
from sqlalchemy.pool import StaticPool

from commplan import consent
from commplan.consent import SCOPE_ALL, SCOPE_MARKETING, Suppression
from commplan.ids import AddressKey
from commplan.store import Store
from commplan.store.tables import metadata, suppressions
from commplan.terms import Channel, Purpose, Reason

NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
KEY = AddressKey("a" * 32)
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


def test_the_last_look_sees_the_same_cells(store: Store) -> None:
    keys = [AddressKey(f"{number:032d}") for number in range(len(CELLS))]
    with store.write() as connection:
        for key, (reason, scope, _, _) in zip(keys, CELLS, strict=True):
            consent.suppress(
                connection, channel=Channel.SMS, address_key=key, scope=scope, reason=reason, source="test", at=NOON
            )
    with store.read() as connection:
        for key, (reason, scope, purpose, blocked) in zip(keys, CELLS, strict=True):
            found = look(connection, Channel.SMS, key, purpose)
            assert found == (blocked, reason if blocked else None), (reason, scope, purpose)
            assert look(connection, Channel.EMAIL, key, purpose) == (False, None)
        assert look(connection, Channel.SMS, KEY, Purpose.MARKETING) == (False, None)


def look(connection: Connection, channel: Channel, key: AddressKey, purpose: Purpose) -> tuple[bool, str | None]:
    """Ask as the last look does: is the row suppressed, and why."""
    row = select(literal(channel.value).label("channel"), literal(key).label("address_key")).subquery()
    reasons = consent.suppressed(row, purpose, TOPIC)
    here, why = connection.execute(select(reasons.exists(), reasons.limit(1).scalar_subquery()).select_from(row)).one()
    return bool(here), why


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


def test_of_several_reasons_the_gravest_is_told() -> None:
    several = [Suppression(reason=reason, scope=SCOPE_ALL) for reason in reversed(consent.BLOCKS)]
    found = consent.exclusion(purpose=M, channel=Channel.SMS, topic=TOPIC, consent=False, suppressions=several)
    assert found is Reason.NEVER_CONTACT


def test_the_first_report_is_new_and_its_repetition_is_not(store: Store) -> None:
    with store.write() as connection:
        assert stop(connection, NOON)
        assert not stop(connection, NOON)
        assert not stop(connection, NOON + timedelta(hours=1))
        assert consent.active(connection, channel=Channel.SMS, address_key=KEY) == (
            Suppression(reason=Reason.STOP, scope=SCOPE_ALL),
        )
        assert consent.active(connection, channel=Channel.EMAIL, address_key=KEY) == ()


def test_an_address_that_was_taken_off_can_be_put_on_again(store: Store) -> None:
    with store.write() as connection:
        assert stop(connection, NOON)
        assert start(connection, NOON + timedelta(hours=1))
        assert not start(connection, NOON + timedelta(hours=1))
        assert consent.active(connection, channel=Channel.SMS, address_key=KEY) == ()
        assert stop(connection, NOON + timedelta(hours=2))
        assert not start(connection, NOON + timedelta(hours=2))
        assert consent.active(connection, channel=Channel.SMS, address_key=KEY) != ()


@pytest.mark.parametrize(
    ("reason", "scope"), [(Reason.NO_CONSENT, SCOPE_ALL), (Reason.HARD_BOUNCE, SCOPE_MARKETING), (Reason.STOP, TOPIC)]
)
def test_what_is_no_suppression_cannot_be_put_on_the_list(store: Store, reason: Reason, scope: str) -> None:
    with store.write() as connection, pytest.raises(ValueError, match=reason.value):
        consent.suppress(
            connection, channel=Channel.EMAIL, address_key=KEY, scope=scope, reason=reason, source="test", at=NOON
        )


def stop(connection: Connection, at: datetime) -> bool:
    return consent.suppress(
        connection,
        channel=Channel.SMS,
        address_key=KEY,
        scope=SCOPE_ALL,
        reason=Reason.STOP,
        source="inbound",
        at=at,
    )


def start(connection: Connection, at: datetime) -> bool:
    return consent.lift(
        connection,
        channel=Channel.SMS,
        address_key=KEY,
        scope=SCOPE_ALL,
        reason=Reason.STOP,
        source="inbound",
        at=at,
    )


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=7).flatmap(
    lambda told: st.tuples(st.just(told), st.permutations(told))
))  # fmt: skip
def test_stop_and_start_end_the_same_in_whatever_order_they_are_told(
    pair: tuple[list[tuple[bool, int]], list[tuple[bool, int]]],
) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    told, shuffled = pair
    expected = max((at for is_stop, at in told if is_stop), default=-1) >= max(
        (at for is_stop, at in told if not is_stop), default=-1
    )
    with engine.connect() as connection:
        metadata.create_all(connection, tables=[suppressions])
        for is_stop, at in shuffled:
            (stop if is_stop else start)(connection, NOON + timedelta(minutes=at))
        active = consent.active(connection, channel=Channel.SMS, address_key=KEY)
        assert bool(active) is expected
    engine.dispose()
