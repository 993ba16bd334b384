"""The fold: what is known depends on which receipts there are, not on how they came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, insert, update

from commplan import tracking
from commplan.store.tables import attempts, messages, metadata
from commplan.terms import AttemptOutcome, MessageState
from commplan.tracking import PostKind
from tests.listening.conftest import NUDGE, SURVEY, WELCOME, World
from tests.listening.record import record

PEOPLE = 2
_SCANNER = {"useragent": "Barracuda Sentinel (EE)"}
_PROXY = {"useragent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"}
#: What is told, as SendGrid's event and its fields.
_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "processed": ("processed", {}),
    "deferred": ("deferred", {}),
    "delivered": ("delivered", {}),
    "bounce": ("bounce", {"type": "bounce", "status": "5.1.1"}),
    "bounce of another code": ("bounce", {"type": "bounce", "status": "5.4.4"}),
    "bounce without ids": ("bounce", {"type": "bounce", "status": "5.1.1"}),
    "blocked": ("bounce", {"type": "blocked"}),
    "dropped": ("dropped", {"reason": "Bounced Address"}),
    "open": ("open", {}),
    "machine open": ("open", {"sg_machine_open": True}),
    "scanner's open": ("open", _SCANNER),
    "proxy's open": ("open", _PROXY),
    "click": ("click", {"url": "https://x.example.com/a"}),
    "click elsewhere": ("click", {"url": "https://x.example.com/b"}),
    "scanner's click": ("click", {"url": "https://x.example.com/a", **_SCANNER}),
    "spamreport": ("spamreport", {}),
    "group_unsubscribe": ("group_unsubscribe", {}),
    "unsubscribe without ids": ("unsubscribe", {}),
    "group_resubscribe": ("group_resubscribe", {}),
    "unheard_of": ("unheard_of", {}),
}
#: Twilio's statuses, and what people write.
_STATUSES = ("queued", "sent", "delivered", "undelivered", "failed", "read", "unheard_of")
_TEXTS = ("STOP", "START", "Hello", "please stop it", "HELP")


class Told(NamedTuple):
    """Something that is told about a person, `after` so many seconds from the start.

    `earlier`: of an attempt that the message does not stand for.
    """

    name: str
    seq: int
    after: int = 0
    earlier: bool = False
    step_no: int = NUDGE


_EVENTS = st.tuples(
    st.sampled_from(sorted(_NAMES)),
    st.integers(1, PEOPLE),
    # Minutes after the start, and seconds after the minute: what matters by seconds happens at all, and what does not.
    st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 4, 6])).map(lambda at: 60 * at[0] + at[1]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([WELCOME, WELCOME, SURVEY]),
).map(lambda one: Told(*one))
_SMS = st.tuples(st.sampled_from([*_STATUSES, *_TEXTS]), st.integers(1, PEOPLE)).map(lambda one: Told(*one))
_STATES = st.sampled_from([MessageState.SENDING, MessageState.UNKNOWN, MessageState.ACCEPTED])


@dataclass(frozen=True, kw_only=True)
class Post:
    """What is told together; it is applied at once, or with the next one."""

    told: Sequence[Told]
    is_applied: bool


@st.composite
def _tellings(draw: st.DrawFn, facts: st.SearchStrategy[Told]) -> tuple[list[Told], list[Post]]:
    """Return some receipts, and the same ones shuffled, repeated and split into posts."""
    told = draw(st.lists(facts, min_size=1, max_size=10, unique=True))
    again = draw(st.permutations(told + draw(st.lists(st.sampled_from(told), max_size=5))))
    posts: list[list[Told]] = [[]]
    for fact in again:
        posts[-1].append(fact)
        if draw(st.booleans()):
            posts.append([])
    return told, [Post(told=post, is_applied=draw(st.booleans())) for post in posts]


#: What receipts change, in an order in which it can be written.
_CHANGED = (
    "batches", "attempts", "messages", "inbox", "receipts", "suppressions", "replies", "answers", "audit", "runs",
    "enrolments",
)  # fmt: skip
#: Numbers that count rows, and times of the machine's own clock.
_OF_NO_MEANING = ("inbox_id", "suppression_id", "reply_id", "audit_id", "closed_machine", "alive_machine")


class Course:
    """One run whose messages are on their way, that can be put back to where it was."""

    def __init__(self, world: World) -> None:
        self.world = world
        people = range(1, world.people + 1)
        self.mails = {step: world.send(step_no=step) for step in (WELCOME, SURVEY)}
        self.texts = {seq: world.send([seq], step_no=NUDGE) for seq in people}
        tables = [metadata.tables[name] for name in _CHANGED if name not in {"runs", "enrolments"}]
        with world.store.read() as connection:
            self._rows = {table: connection.execute(table.select()).mappings().all() for table in tables}

    def put_back(self, state: MessageState) -> None:
        """Let all messages be in `state` again, and nothing be told of them."""
        outcome = {MessageState.SENDING: AttemptOutcome.OPEN, MessageState.UNKNOWN: AttemptOutcome.UNKNOWN}.get(state)
        with self.world.store.write() as connection:
            for table in reversed(self._rows):
                connection.execute(delete(table))
            for table, rows in self._rows.items():
                if rows:
                    connection.execute(insert(table), [dict(row) for row in rows])
            if outcome is not None:
                connection.execute(update(messages).values(state=state, accepted_at=None))
                connection.execute(update(attempts).values(outcome=outcome))
                return
            for attempt_id in self.mails.values():
                named = {"provider_id": _request(attempt_id)}
                connection.execute(update(attempts).where(attempts.c.attempt_id == attempt_id).values(named))
                connection.execute(update(messages).where(messages.c.attempt_id == attempt_id).values(named))

    def after(self, state: MessageState, posts: Sequence[Post]) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows that receipts may change, as they are after `posts` were told."""
        self.put_back(state)
        for number, post in enumerate(posts):
            self._tell(post.told, number)
            if post.is_applied:
                tracking.apply_inbox(self.world.store)
        tracking.apply_inbox(self.world.store)
        assert tracking.waiting(self.world.store) == 0
        rows = record(self.world.store, only=_CHANGED, leave=_OF_NO_MEANING)
        del rows["inbox"]
        return rows

    def _tell(self, told: Sequence[Told], number: int) -> None:
        events = [self._event(one, number) for one in told if one.step_no != NUDGE]
        self._keep(PostKind.SENDGRID_EVENTS, json.dumps(events).encode())
        for one in told:
            sid = "SM" + f"{one.seq}{_TEXTS.index(one.name) if one.name in _TEXTS else 9}".rjust(32, "0")
            if one.name in _TEXTS:
                form = {"MessageSid": sid, "From": self.world.phone(one.seq), "Body": one.name}
                self._keep(PostKind.TWILIO_INBOUND, urlencode(form).encode())
            elif one.step_no == NUDGE:
                form = {"MessageSid": sid, "MessageStatus": one.name, "ErrorCode": "21610" * (one.name == "failed")}
                query = {"m": self.world.token(one.seq, NUDGE), "a": self.texts[one.seq]}
                self._keep(PostKind.TWILIO_STATUS, urlencode(form).encode(), **query)

    def _keep(self, kind: PostKind, body: bytes, **query: str) -> None:
        tracking.append(self.world.store, kind=kind, query=query, body=body)

    def _event(self, one: Told, number: int) -> dict[str, Any]:
        name, fields = _NAMES[one.name]
        attempt = "f" * 32 if one.earlier else self.mails[one.step_no]
        told = self.world.event(name, one.seq, step_no=one.step_no, attempt=attempt, after=float(one.after), **fields)
        # Another one every time it is told.
        told["sg_event_id"] = f"{one}-{number}"
        told["sg_message_id"] = f"{_request(attempt)}.recvd-{one.seq}"
        if name == "dropped":
            told["sg_message_id"] = f"filter0093p1las1.9128.{one.seq}{one.step_no}"
        if one.name.endswith("without ids"):
            for field in ("cp_m", "cp_a", "sg_message_id"):
                del told[field]
        return told


def _request(attempt_id: str) -> str:
    return f"wrfRRvF7Q0Gg{attempt_id[:6]}"


@pytest.fixture
def course(store, build) -> Course:  # type: ignore[no-untyped-def]
    return Course(build(store, people=PEOPLE))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=_STATES, tellings=_tellings(_EVENTS | _SMS))
def test_any_order_any_repetition_and_any_split_of_receipts_end_in_the_same_rows(course, state, tellings) -> None:
    told, posts = tellings
    once = course.after(state, [Post(told=told, is_applied=True)])
    otherwise = course.after(state, posts)
    for table, rows in once.items():
        assert rows == otherwise[table], table


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=_STATES, tellings=_tellings(_EVENTS))
def test_the_rows_say_exactly_what_the_receipts_of_the_current_attempt_say(course, state, tellings) -> None:
    told, posts = tellings
    course.after(state, posts)
    for seq, step_no in ((seq, step_no) for seq in range(1, PEOPLE + 1) for step_no in (WELCOME, SURVEY)):
        row = course.world.row(seq, step_no)._asdict()
        told_here = [fact for fact in told if (fact.seq, fact.step_no) == (seq, step_no)]
        mine = [(one.name, one.after) for one in told_here if not one.earlier and "without" not in one.name]
        delivered = [after for name, after in mine if name == "delivered"]
        failed = [after for name, after in mine if name.startswith(("bounce", "blocked", "dropped"))]
        failed += _late_bounces(told, seq, step_no)
        by_people, by_machines = _clicks(told_here)
        proven = state == MessageState.ACCEPTED or any(
            not one.earlier and one.step_no == step_no and "without" not in one.name for one in told
        )
        assert row["state"] == ("failed" if failed else "delivered" if delivered else "accepted" if proven else state)
        expected = {
            "failed_at": failed,
            "delivered_at": delivered,
            "clicked_at": by_people,
            "machine_clicked_at": by_machines,
            "opened_at": [one.after for one in told_here if one.name in {"open", "proxy's open"}],
            "machine_opened_at": [one.after for one in told_here if one.name in _MACHINE_OPENS],
            "opted_out_at": _opt_outs(told, seq, step_no),
        }
        for column, moments in expected.items():
            start = course.world.start
            seconds = None if row[column] is None else round((row[column] - start).total_seconds())
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
