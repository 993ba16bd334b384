"""The fold: what is known about a message depends on which receipts there are, not on how they came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, select, update

from commplan import tracking
from commplan.ids import new_attempt_id
from commplan.store.tables import messages, receipts, suppressions
from commplan.terms import MessageState
from commplan.tracking import PostKind
from tests.listening.conftest import SURVEY, WELCOME

PEOPLE = 2
_SCANNER = {"useragent": "Barracuda Sentinel (EE)"}
#: What is told, as SendGrid's event and its fields.
_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "processed": ("processed", {}),
    "deferred": ("deferred", {}),
    "delivered": ("delivered", {}),
    "bounce": ("bounce", {"type": "bounce", "status": "5.1.1"}),
    "bounce without ids": ("bounce", {"type": "bounce", "status": "5.1.1"}),
    "blocked": ("bounce", {"type": "blocked"}),
    "dropped": ("dropped", {"reason": "Bounced Address"}),
    "open": ("open", {}),
    "machine open": ("open", {"sg_machine_open": True}),
    "scanner's open": ("open", _SCANNER),
    "click": ("click", {"url": "https://x.example.com/a"}),
    "click elsewhere": ("click", {"url": "https://x.example.com/b"}),
    "scanner's click": ("click", {"url": "https://x.example.com/a", **_SCANNER}),
    "spamreport": ("spamreport", {}),
    "group_unsubscribe": ("group_unsubscribe", {}),
    "unsubscribe without ids": ("unsubscribe", {}),
    "group_resubscribe": ("group_resubscribe", {}),
    "unheard_of": ("unheard_of", {}),
}
_TOLD = st.tuples(
    st.sampled_from(sorted(_NAMES)),
    st.integers(1, PEOPLE),
    # Minutes after the start, and seconds after the minute: what matters by seconds happens at all, and what does not.
    st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 4, 6])).map(lambda at: 60 * at[0] + at[1]),
    st.sampled_from([0, 0, 0, 1]),  # of the attempt that the message stands for, or of an earlier one
    st.sampled_from([WELCOME, WELCOME, SURVEY]),
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


_KEPT = ("kind", "step_no", "seq", "at", "code", "agent_class", "url_key", "machine_why", "address_key")


def _event(world, attempts, fact):  # type: ignore[no-untyped-def]
    name, seq, after, earlier, step_no = fact
    event_name, fields = _NAMES[name]
    attempt = "f" * 32 if earlier else attempts[step_no]
    told = world.event(event_name, seq, step_no=step_no, attempt=attempt, after=float(after), **fields)
    told["sg_message_id"] = f"request.{told['timestamp']}"
    if name.endswith("without ids"):
        for field in ("cp_m", "cp_a", "sg_message_id"):
            del told[field]
    return told


def _outcome(world, state, posts):  # type: ignore[no-untyped-def]
    """Return what a fresh run knows after `posts`: its messages, receipts and suppressions."""
    sent = {
        step_no: world.send(state=state, attempt_id=new_attempt_id(), step_no=step_no) for step_no in (WELCOME, SURVEY)
    }
    for post in posts:
        body = json.dumps([_event(world, sent, fact) for fact in post]).encode()
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
        if len(posts) % 2:
            tracking.apply_inbox(world.store)
    tracking.apply_inbox(world.store)
    rows = {}
    for seq in range(1, PEOPLE + 1):
        for step_no in sent:
            row = world.row(seq, step_no)._asdict()
            rows[seq, step_no] = {
                name: row[name] for name in row if name not in {"run_id", "batch_id", "attempt_id", "address_key"}
            }
    with world.store.read() as connection:
        kept = sorted(
            (*(str(row[name]) for name in _KEPT), row["attempt_id"] in sent.values())
            for row in connection.execute(select(receipts)).mappings()
        )
    in_force = world.suppressed()
    with world.store.write() as connection:
        # The next run writes to the same addresses.
        connection.execute(delete(suppressions))
        connection.execute(delete(receipts))
        connection.execute(update(messages).values(address_key=None, state=MessageState.CANCELLED))
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
    for (seq, step_no), row in rows.items():
        told_here = [fact for fact in told if (fact[1], fact[4]) == (seq, step_no)]
        mine = [(name, after) for name, _, after, earlier, _ in told_here if not earlier and "without" not in name]
        delivered = [after for name, after in mine if name == "delivered"]
        failed = [after for name, after in mine if name in {"bounce", "blocked", "dropped"}]
        failed += _late_bounces(told, seq, step_no)
        by_people, by_machines = _clicks(told_here)
        proven = state == MessageState.ACCEPTED or any(
            not earlier and where == step_no and "without" not in name for name, _, _, earlier, where in told
        )
        assert row["state"] == ("failed" if failed else "delivered" if delivered else "accepted" if proven else state)
        expected = {
            "failed_at": failed,
            "delivered_at": delivered,
            "clicked_at": by_people,
            "machine_clicked_at": by_machines,
            "opened_at": [after for name, _, after, *_ in told_here if name == "open"],
            "machine_opened_at": [after for name, _, after, *_ in told_here if name in _MACHINE_OPENS],
            "opted_out_at": _opt_outs(told, seq, step_no),
        }
        for column, moments in expected.items():
            seconds = None if row[column] is None else round((row[column] - world.start).total_seconds())
            assert seconds == (min(moments) if moments else None), column


_MACHINE_OPENS = {"machine open", "scanner's open"}


def _late_bounces(told, seq, step_no):  # type: ignore[no-untyped-def]
    """Return when bounces without ids came that can only be about this message."""
    delivered: dict[int, int] = {}
    for name, who, after, earlier, where in told:
        if name == "delivered" and who == seq and not earlier:
            delivered[where] = min(after, delivered.get(where, after))
    return [
        after
        for name, who, after, *_ in told
        if name == "bounce without ids"
        and who == seq
        and [where for where, at in delivered.items() if at <= after] == [step_no]
    ]


def _clicks(told):  # type: ignore[no-untyped-def]
    """Return when people clicked, and when machines did, by the rules as they are written down."""
    clicks = [fact for fact in told if "click" in fact[0]]
    people, machines = [], []
    for name, _, after, earlier, _ in clicks:
        arrived = [at for what, _, at, of, _ in told if what == "delivered" and of == earlier]
        elsewhere = [at for what, _, at, *_ in clicks if ("elsewhere" in what) != ("elsewhere" in name)]
        is_machine = (
            name == "scanner's click"
            or any(abs(at - after) <= 1 for at in elsewhere)
            or (bool(arrived) and after < min(arrived) + 5)
        )
        (machines if is_machine else people).append(after)
    return people, machines


def _opt_outs(told, seq, step_no):  # type: ignore[no-untyped-def]
    """Return the opt-outs after this message that were not taken back; without ids they are about the newest one."""
    here = [fact for fact in told if fact[1] == seq]
    back = [after for name, _, after, _, where in here if name == "group_resubscribe" and where == step_no]
    out = [after for name, _, after, _, where in here if name == "group_unsubscribe" and where == step_no]
    out += [after for name, _, after, *_ in here if name == "unsubscribe without ids" and step_no == SURVEY]
    return [after for after in out if not back or after >= max(back)]


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
    assert len(statements) <= 22
