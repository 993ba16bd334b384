"""The fold: what is known about a message depends on which receipts there are, not on how they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, select

from commplan import tracking
from commplan.ids import new_attempt_id
from commplan.store.tables import receipts, suppressions
from commplan.terms import MessageState
from commplan.tracking import PostKind

PEOPLE = 2
_NAMES = {
    "processed": {},
    "deferred": {},
    "delivered": {},
    "bounce": {"type": "bounce", "status": "5.1.1"},
    "blocked": {},
    "dropped": {"reason": "Bounced Address"},
    "open": {},
    "click": {"url": "https://x.example.com/a"},
    "spamreport": {},
    "group_unsubscribe": {},
    "group_resubscribe": {},
    "unheard_of": {},
}
_TOLD = st.tuples(
    st.sampled_from(sorted(_NAMES)),
    st.integers(1, PEOPLE),
    st.integers(1, 6),  # minutes after the start
    st.booleans(),  # of the attempt that the message stands for
)
_STATES = st.sampled_from([MessageState.SENDING, MessageState.UNKNOWN, MessageState.ACCEPTED])


@st.composite
def _tellings(draw: st.DrawFn) -> tuple[list[Any], list[list[Any]]]:
    """Return some receipts, and the same ones shuffled, repeated and split into posts."""
    told = draw(st.lists(_TOLD, min_size=1, max_size=10, unique=True))
    again = draw(st.permutations(told + draw(st.lists(st.sampled_from(told), max_size=5))))
    posts: list[list[Any]] = [[]]
    for fact in again:
        posts[-1].append(fact)
        if draw(st.booleans()):
            posts.append([])
    return told, posts


def _outcome(world, state, posts):  # type: ignore[no-untyped-def]
    """Return what a fresh run knows after `posts`: its messages, receipts and suppressions."""
    mine, other = new_attempt_id(), "f" * 32
    world.send(state=state, attempt_id=mine)
    for post in posts:
        events = [
            world.event(name, seq, attempt=mine if current else other, after=60.0 * minute, **_NAMES[name])
            for name, seq, minute, current in post
        ]
        for one in events:
            one["sg_message_id"] = f"request.{one['timestamp']}"
        body = json.dumps(events).encode()
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
        if len(posts) % 2:
            tracking.apply_inbox(world.store)
    tracking.apply_inbox(world.store)
    rows = []
    for seq in range(1, PEOPLE + 1):
        row = world.row(seq)._asdict()
        rows.append({name: row[name] for name in row if name not in {"run_id", "batch_id", "attempt_id"}})
    with world.store.read() as connection:
        kept = sorted(
            tuple(row)
            for row in connection.execute(
                select(receipts.c.kind, receipts.c.seq, receipts.c.at, receipts.c.attempt_id == mine).where(
                    receipts.c.run_id == world.run_id
                )
            )
        )
    in_force = world.suppressed()
    with world.store.write() as connection:
        connection.execute(delete(suppressions))
    return rows, kept, in_force


_runs = iter(range(1_000_000))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=_STATES, tellings=_tellings())
def test_any_order_any_repetition_and_any_split_of_receipts_end_in_the_same_rows(store, build, state, tellings) -> None:
    told, posts = tellings
    once = _outcome(build(store, people=PEOPLE, occurrence=f"r{next(_runs)}"), state, [told])
    otherwise = _outcome(build(store, people=PEOPLE, occurrence=f"r{next(_runs)}"), state, posts)
    assert once == otherwise


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=_STATES, tellings=_tellings())
def test_the_rows_say_exactly_what_the_receipts_of_the_current_attempt_say(store, build, state, tellings) -> None:
    told, _ = tellings
    world = build(store, people=PEOPLE, occurrence=f"r{next(_runs)}")
    rows, _, _ = _outcome(world, state, [told])
    for seq, row in enumerate(rows, 1):
        mine = {(name, minute) for name, who, minute, current in told if who == seq and current}
        failed = [minute for name, minute in mine if name in {"bounce", "blocked", "dropped"}]
        delivered = [minute for name, minute in mine if name == "delivered"]
        clicked = [minute for name, who, minute, _ in told if who == seq and name == "click"]
        proven = state == MessageState.ACCEPTED or any(current for *_, current in told)
        expected = "failed" if failed else "delivered" if delivered else "accepted" if proven else state
        assert row["state"] == expected
        for column, minutes in (("failed_at", failed), ("delivered_at", delivered), ("clicked_at", clicked)):
            seconds = None if row[column] is None else round((row[column] - world.start).total_seconds() / 60)
            assert seconds == (min(minutes) if minutes else None), column


@pytest.mark.parametrize("size", [1, 40, 400])
def test_the_number_of_statements_does_not_grow_with_the_number_of_events(store, build, size) -> None:
    world = build(store, people=size)
    attempt = world.send(state=MessageState.SENDING)
    events = [
        world.event(name, seq, attempt=attempt, after=9 + seq)
        for seq in range(1, size + 1)
        for name in ("processed", "delivered", "open", "click")
    ]
    body = json.dumps(events).encode()
    tracking.append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    statements: list[str] = []

    def count(connection, cursor, statement, *rest) -> None:  # type: ignore[no-untyped-def]
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    assert tracking.apply_inbox(store, limit=1).new == 4 * size
    event.remove(Engine, "before_cursor_execute", count)
    assert world.row(size).state == MessageState.DELIVERED
    assert len(statements) <= 20
