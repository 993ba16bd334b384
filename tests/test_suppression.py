"""The suppression list: by address and by person, and the same whatever order it is told in."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert, select
from sqlalchemy.pool import StaticPool

from commplan import consent, suppression
from commplan.consent import SCOPE_ALL, Contact, Suppression
from commplan.ids import AddressKey
from commplan.store import Store
from commplan.store.tables import bundles, messages, metadata, recipients, runs, suppression_changes, suppressions
from commplan.suppression import Listed
from commplan.terms import Channel, Purpose, Reason
from tests.conftest import NOON
from tests.test_consent import CELLS, TOPIC

KEY, NEW_KEY = AddressKey("a" * 32), AddressKey("b" * 32)
ANN, BOB = Contact(people="customers", contact_id="1"), Contact(people="customers", contact_id="2")
ANN_OF_STAFF = Contact(people="employees", contact_id="1")
STOPPED = Suppression(reason=Reason.STOP, scope=SCOPE_ALL)


def put_on(
    connection: Connection,
    reason: Reason = Reason.STOP,
    *,
    key: AddressKey = KEY,
    contact: Contact | None = None,
    channel: Channel = Channel.SMS,
    scope: str = SCOPE_ALL,
    minute: int = 0,
    until: datetime | None = None,
) -> bool:
    if reason is Reason.PAUSED and until is None:
        until = NOON + timedelta(days=30)
    return suppression.suppress(
        connection,
        channel=channel,
        address_key=key,
        contact=contact,
        scope=scope,
        reason=reason,
        source="test",
        at=NOON + timedelta(minutes=minute),
        until=until,
    )


def take_off(
    connection: Connection,
    reason: Reason = Reason.STOP,
    *,
    key: AddressKey = KEY,
    contacts: tuple[Contact, ...] = (),
    minute: int = 1,
) -> bool:
    return suppression.lift(
        connection,
        channel=Channel.SMS,
        address_key=key,
        contacts=contacts,
        scope=SCOPE_ALL,
        reason=reason,
        source="test",
        at=NOON + timedelta(minutes=minute),
    )


def active(
    connection: Connection, key: AddressKey, contact: Contact | None, channel: Channel = Channel.SMS
) -> tuple[Suppression, ...]:
    return suppression.active(connection, channel=channel, address_key=key, contact=contact, now=NOON)


class Ledger:
    """Messages whose last look is to be taken: each of a person, to an address."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._count = 0
        connection.execute(insert(bundles).values(digest="d", files="{}"))
        connection.execute(
            insert(runs).values(
                run_id=1,
                run_key="onboarding@1",
                plan="onboarding",
                occurrence="1",
                digest="d",
                state="executing",
                people="customers",
                created_at=NOON,
                clock="{}",
                placeholder="cp-",
            )
        )

    def look(
        self,
        channel: Channel,
        key: AddressKey,
        contact: Contact,
        purpose: Purpose = Purpose.SERVICE,
        *,
        care: bool = False,
        now: datetime = NOON,
    ) -> Reason | None:
        """Ask as the last look does, and make sure that its two questions have one answer."""
        self._count += 1
        seq = self._count
        # The person is in the run under one seq only; what tells two messages of theirs apart is the run.
        run_id = seq
        if run_id > 1:
            first = self._connection.execute(select(runs).where(runs.c.run_id == 1)).one()._mapping
            again = {"run_id": run_id, "run_key": f"onboarding@{run_id}", "occurrence": str(run_id)}
            self._connection.execute(insert(runs).values({**first, **again}))
        self._connection.execute(
            insert(recipients).values(
                run_id=run_id, seq=seq, people=contact.people, contact_id=contact.contact_id, columns="{}"
            )
        )
        self._connection.execute(
            insert(messages).values(
                run_id=run_id,
                step_no=1,
                seq=seq,
                channel=channel,
                state="queued",
                address_key=key,
            )
        )
        reasons = consent.suppressed(messages, purpose, TOPIC, care=care, now=now)
        here, why = self._connection.execute(
            select(reasons.exists(), reasons.limit(1).scalar_subquery()).where(messages.c.run_id == run_id)
        ).one()
        assert bool(here) is (why is not None)
        return None if why is None else Reason(why)


def test_the_last_look_sees_the_same_cells_by_address(store: Store) -> None:
    with store.write() as connection:
        ledger = Ledger(connection)
        for number, (reason, scope, purpose, care, blocked) in enumerate(CELLS):
            key = AddressKey(f"{number:032d}")
            put_on(connection, reason, key=key, scope=scope)
            found = ledger.look(Channel.SMS, key, ANN, purpose, care=care)
            assert found == (reason if blocked else None), (reason, scope, purpose, care)
            assert ledger.look(Channel.EMAIL, key, ANN, purpose, care=care) is None


def test_the_last_look_sees_the_same_cells_by_person_for_wishes_only(store: Store) -> None:
    with store.write() as connection:
        ledger = Ledger(connection)
        for number, (reason, scope, purpose, care, blocked) in enumerate(CELLS):
            who = Contact(people="customers", contact_id=f"of cell {number}")
            put_on(connection, reason, key=AddressKey(f"{number:032d}"), contact=who, scope=scope)
            follows = blocked and reason in consent.WISHES
            for channel in Channel:
                here = follows and (channel is Channel.SMS or reason in consent.EVERYWHERE)
                found = ledger.look(channel, NEW_KEY, who, purpose, care=care)
                assert found == (reason if here else None), (reason, scope, purpose, care, channel)
                listed = suppression.look_up(connection, address_keys=[NEW_KEY], contacts=[who], now=NOON)
                planned = consent.exclusion(
                    purpose=purpose,
                    channel=channel,
                    topic=TOPIC,
                    care=care,
                    consent=True,
                    suppressions=listed.of(channel, NEW_KEY, who),
                )
                assert planned == found


def test_a_wish_follows_the_person_and_stays_with_the_address(store: Store) -> None:
    with store.write() as connection:
        ledger = Ledger(connection)
        put_on(connection, contact=ANN)
        assert ledger.look(Channel.SMS, NEW_KEY, ANN) is Reason.STOP
        assert ledger.look(Channel.SMS, KEY, BOB) is Reason.STOP
        assert ledger.look(Channel.SMS, NEW_KEY, BOB) is None
        assert ledger.look(Channel.SMS, NEW_KEY, ANN_OF_STAFF) is None
        assert ledger.look(Channel.EMAIL, NEW_KEY, ANN) is None


def test_a_dead_address_does_not_follow_the_person(store: Store) -> None:
    with store.write() as connection:
        ledger = Ledger(connection)
        put_on(connection, Reason.INVALID_NUMBER, contact=ANN)
        put_on(connection, Reason.HARD_BOUNCE, contact=ANN, channel=Channel.EMAIL)
        for channel, reason in ((Channel.SMS, Reason.INVALID_NUMBER), (Channel.EMAIL, Reason.HARD_BOUNCE)):
            assert ledger.look(channel, NEW_KEY, ANN) is None
            assert ledger.look(channel, KEY, ANN) is reason


def test_a_pause_ends_by_itself_and_can_be_made_longer_and_begin_again(store: Store) -> None:
    def paused(minute: int) -> bool:
        now = NOON + timedelta(minutes=minute)
        found = ledger.look(Channel.EMAIL, NEW_KEY, ANN, Purpose.MARKETING, now=now)
        listed = suppression.look_up(connection, address_keys=[], contacts=[ANN], now=now)
        assert bool(listed) is (found is Reason.PAUSED)
        return bool(listed)

    with store.write() as connection:
        ledger = Ledger(connection)
        for said, until in ((0, 10), (5, 20)):
            put_on(connection, Reason.PAUSED, contact=ANN, minute=said, until=NOON + timedelta(minutes=until))
        assert [paused(minute) for minute in (0, 10, 19, 20)] == [True, True, True, False]
        assert put_on(connection, Reason.PAUSED, contact=ANN, minute=30, until=NOON + timedelta(minutes=40))
        assert [paused(minute) for minute in (39, 40)] == [True, False]
        # Taken back later than all that is told of it: in whatever order, it is over.
        suppression.lift(
            connection,
            channel=Channel.SMS,
            address_key=KEY,
            contacts=[ANN],
            scope=SCOPE_ALL,
            reason=Reason.PAUSED,
            source="test",
            at=NOON + timedelta(minutes=60),
        )
        assert not put_on(connection, Reason.PAUSED, contact=ANN, minute=50, until=NOON + timedelta(minutes=90))
        assert not paused(70)


@pytest.mark.parametrize(("reason", "until"), [(Reason.PAUSED, None), (Reason.STOP, NOON)])
def test_a_pause_has_an_end_and_nothing_else_has(store: Store, reason: Reason, until: datetime | None) -> None:
    with store.write() as connection, pytest.raises(ValueError, match="a pause has an end"):
        suppression.suppress(
            connection,
            channel=Channel.SMS,
            address_key=KEY,
            contact=None,
            scope=SCOPE_ALL,
            reason=reason,
            source="test",
            at=NOON,
            until=until,
        )


def test_of_an_address_s_reason_and_a_person_s_the_gravest_is_told(store: Store) -> None:
    with store.write() as connection:
        ledger = Ledger(connection)
        put_on(connection, Reason.INVALID_NUMBER, key=NEW_KEY)
        put_on(connection, Reason.STOP, contact=ANN)
        assert ledger.look(Channel.SMS, NEW_KEY, ANN) is Reason.STOP


def test_the_planner_finds_what_the_last_look_finds(store: Store) -> None:
    with store.write() as connection:
        put_on(connection, contact=ANN)
        put_on(connection, Reason.INVALID_NUMBER, key=NEW_KEY)
        listed = suppression.look_up(connection, address_keys={KEY, NEW_KEY}, contacts={ANN, BOB}, now=NOON)
        assert listed.of(Channel.SMS, KEY, BOB) == {STOPPED}
        dead = Suppression(reason=Reason.INVALID_NUMBER, scope=SCOPE_ALL)
        assert listed.of(Channel.SMS, NEW_KEY, ANN) == {STOPPED, dead}
        assert listed.of(Channel.SMS, NEW_KEY, BOB) == {dead}
        assert listed.of(Channel.EMAIL, KEY, ANN) == frozenset()
        assert listed.of(Channel.SMS, AddressKey("c" * 32), None) == frozenset()
        nobody: Listed = suppression.look_up(connection, address_keys=(), contacts=(), now=NOON)
        assert nobody.of(Channel.SMS, KEY, ANN) == frozenset()


def test_lifting_lifts_the_address_and_the_person_and_nobody_else(store: Store) -> None:
    with store.write() as connection:
        put_on(connection, contact=ANN)
        assert put_on(connection, contact=BOB)
        assert not put_on(connection, contact=BOB)
        assert take_off(connection, contacts=(ANN,))
        assert active(connection, KEY, ANN) == ()
        assert active(connection, NEW_KEY, ANN) == ()
        assert active(connection, KEY, BOB) == (STOPPED,)


def test_a_number_knows_who_stopped_from_it_last(store: Store) -> None:
    with store.write() as connection:
        put_on(connection, contact=ANN)
        put_on(connection, contact=BOB)
        put_on(connection, contact=ANN, key=NEW_KEY, minute=5)

        def spoke(key: AddressKey) -> frozenset[Contact]:
            return suppression.spoke_from(connection, channel=Channel.SMS, address_key=key, reason=Reason.STOP)

        assert spoke(KEY) == {BOB}
        assert spoke(NEW_KEY) == {ANN}


def test_the_first_report_is_new_and_its_repetition_is_not(store: Store) -> None:
    with store.write() as connection:
        assert put_on(connection)
        assert not put_on(connection)
        assert not put_on(connection, minute=60)
        assert active(connection, KEY, None) == (STOPPED,)
        assert active(connection, KEY, None, Channel.EMAIL) == ()


def test_an_address_that_was_taken_off_can_be_put_on_again(store: Store) -> None:
    with store.write() as connection:
        assert put_on(connection, minute=0)
        assert take_off(connection, minute=60)
        assert not take_off(connection, minute=60)
        assert active(connection, KEY, None) == ()
        assert put_on(connection, minute=120)
        assert not take_off(connection, minute=120)
        assert active(connection, KEY, None) != ()


@pytest.mark.parametrize(
    ("reason", "scope"), [(Reason.NO_CONSENT, SCOPE_ALL), (Reason.HARD_BOUNCE, "marketing"), (Reason.STOP, TOPIC)]
)
def test_what_is_no_suppression_cannot_be_put_on_the_list(store: Store, reason: Reason, scope: str) -> None:
    with store.write() as connection, pytest.raises(ValueError, match=reason.value):
        put_on(connection, reason, scope=scope)


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
        metadata.create_all(connection, tables=[suppressions, suppression_changes])
        for is_stop, at in shuffled:
            if is_stop:
                put_on(connection, contact=ANN, minute=at)
            else:
                take_off(connection, contacts=(ANN,), minute=at)
        for key, contact in ((KEY, None), (KEY, BOB), (NEW_KEY, ANN)):
            assert bool(active(connection, key, contact)) is expected
    engine.dispose()


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.sampled_from("ab")), min_size=1, max_size=6).flatmap(
    lambda told: st.tuples(st.just(told), st.permutations(told))
))  # fmt: skip
def test_every_line_is_the_same_in_whatever_order_it_was_told(
    pair: tuple[list[tuple[bool, int, str]], list[tuple[bool, int, str]]],
) -> None:
    found = []
    for told in pair:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.connect() as connection:
            metadata.create_all(connection, tables=[suppressions, suppression_changes])
            for is_stop, minute, source in told:
                place = {"channel": Channel.SMS, "address_key": KEY, "scope": SCOPE_ALL, "reason": Reason.STOP}
                said = {"source": source, "at": NOON + timedelta(minutes=minute)}
                if is_stop:
                    suppression.suppress(connection, contact=ANN, **place, **said)  # type: ignore[arg-type]
                else:
                    suppression.lift(connection, contacts=(ANN,), **place, **said)  # type: ignore[arg-type]
            found.append(sorted(map(repr, suppression.entries(connection))))
        engine.dispose()
    assert found[0] == found[1]


def test_each_half_of_the_last_look_goes_by_an_index(store: Store) -> None:
    reasons = consent.suppressed(messages, Purpose.SERVICE, TOPIC, care=True, now=NOON)
    statement = select(messages.c.seq).where(messages.c.run_id == 1, reasons.exists())
    with store.write() as connection:
        if store.is_sqlite:
            found = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN " + str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
            )
            steps = [str(row[3]) for row in found if "suppressions" in str(row[3])]
            assert len(steps) == 2
            assert all(step.startswith("SEARCH suppressions USING INDEX") for step in steps), steps
        else:
            # An empty table is read whole whatever indexes it has, so that way is closed.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            found = connection.exec_driver_sql(
                "EXPLAIN " + str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
            )
            text = "\n".join(str(row[0]) for row in found)
            assert text.count("Seq Scan on suppressions") == 0, text
            assert "SubPlan" in text
            assert "uq_suppressions_people_contact_id_channel_scope_reason" in text
