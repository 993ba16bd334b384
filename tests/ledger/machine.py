"""A world around one run of the ledger that keeps its own books of what was on the wire.

Hypothesis drives it: workers that claim, look, answer late or never; a provider that took a request or did not,
whatever its answer says; receipts in any order, again and again; leases that end, runs that are held or cancelled,
opt-outs. After every step the ledger is compared with the world's own books, and the books are proven.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from urllib.parse import urlencode

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import insert, select, update

from commplan import campaign, tracking
from commplan.clock import Clock
from commplan.consent import Contact
from commplan.content import Skeleton
from commplan.ids import AttemptId, MessageRef, RunId, TokenPurpose, new_attempt_id
from commplan.ledger import close, ending, proof, schedule
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import Batch, claim
from commplan.ledger.enqueue import Draft, Enqueuer, Header
from commplan.ledger.look import look
from commplan.ledger.state import TRANSITIONS
from commplan.plan import Plan
from commplan.planfile import parse_plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, enrolments, messages, recipients, runs
from commplan.suppression import suppress
from commplan.terms import Channel, MessageState, Reason, RunState
from commplan.tracking import PostKind
from tests.conftest import NOON

PLAN = """
plan: steps
title: Three steps
purpose: service
topic: steps
owner: crm
team: {crm: {}}
goals: [{id: reach, metric: reach, target: at least 95%}]
audience:
  people: customers
  source: {url: env:CRM_DATABASE_URL, sql: select * from customers}
  contact: {id: customer_id, email: email, phone: mobile, consent: {sms: opt_in}}
sequence:
  - {step: first, channel: email, content: x, not_after: P3D}
  - {step: second, channel: sms, content: x, after: first, wait: PT0S, not_after: P3D}
  - {step: third, channel: email, content: x, after: first, wait: PT2H, not_after: P3D, when: clicked(first)}
"""
CHANNELS = {1: Channel.EMAIL, 2: Channel.SMS, 3: Channel.EMAIL}
PEOPLE = 5
#: Everything about these is over, or waits for something else than evidence, if nobody has written to the person.
UNSENT = frozenset(MessageState) - {"sending", "unknown", "accepted", "delivered", "failed"}
#: What a provider may tell of a message it took: how SendGrid and Twilio call it, and the state that follows.
TOLD = {
    Channel.EMAIL: {
        "processed": "accepted",
        "open": "accepted",
        "click": "accepted",
        "delivered": "delivered",
        "bounce": "failed",
        "dropped": "failed",
    },
    Channel.SMS: {"sent": "accepted", "delivered": "delivered", "undelivered": "failed"},
}
_OCCURRENCES = count()
_REACHED: dict[str, set[str]] = {}


def reachable(state: str) -> set[str]:
    """Return every state that may follow, at once or later, and the state itself."""
    if state not in _REACHED:
        found = {state}
        while more := {to for was in found for to in TRANSITIONS[MessageState(was)]} - found:
            found |= more
        _REACHED[state] = found
    return _REACHED[state]


@dataclass(eq=False)
class Request:
    """One request as the world knows it: whether the provider took it, and whether the ledger was told so."""

    attempt_id: AttemptId
    refs: list[MessageRef]
    channel: Channel
    taken: bool
    is_open: bool = True  #: nobody has written down what became of it
    is_known: bool = False  #: the ledger was told that it was taken


@dataclass(eq=False)
class Worker:
    """A worker with its batch; `waiting` are its requests without an answer."""

    batch: Batch
    waiting: list[Request] = field(default_factory=list)
    is_late: bool = False  #: its lease was over, whether anybody has noticed or not


@dataclass
class World:
    """The database, and the plan in it."""

    store: Store
    plan: Plan

    @classmethod
    def of(cls, store: Store) -> World:
        return cls(store, parse_plan(PLAN, "plan.yaml"))


class LedgerMachine(RuleBasedStateMachine):
    """Steps in any order; see the module."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.store = self.world.store
        self.store.clock = Clock(origin=NOON, anchor=time.time(), factor=1e-12)
        self.requests: list[Request] = []
        self.workers: list[Worker] = []
        self.posts: list[Callable[[], int]] = []
        self.told: dict[MessageRef, set[str]] = {}
        self.refused: set[MessageRef] = set()
        self.opted_out: set[tuple[int, Channel]] = set()
        self.cancelled = False
        self.held = False
        self.seen: dict[MessageRef, str] = {}

    # What there is to begin with.

    @initialize()
    def plan_the_run(self) -> None:
        occurrence = f"{next(_OCCURRENCES)}-{time.time_ns()}"
        started = ledger_run.start_run(
            self.store, plan=self.world.plan, occurrence=occurrence, files={ledger_run.PLAN_FILE: PLAN}
        )
        self.run_id, self.run_key = started.run_id, started.run_key
        now = self.store.clock.now()
        with self.store.write() as connection:
            for seq in range(1, PEOPLE + 1):
                contact_id = f"{self.run_id}-{seq}"
                connection.execute(
                    insert(recipients).values(
                        run_id=self.run_id,
                        seq=seq,
                        people="customers",
                        contact_id=contact_id,
                        email=f"p{contact_id}@person.example.com",
                        email_key=self.key(seq, Channel.EMAIL),
                        phone=f"+1202555{seq:04d}",
                        phone_key=self.key(seq, Channel.SMS),
                        country="US",
                        zone="Asia/Shanghai",
                        sms_consent=True,
                        columns="{}",
                    )
                )
                connection.execute(
                    insert(enrolments).values(
                        plan="steps",
                        people="customers",
                        contact_id=contact_id,
                        run_id=self.run_id,
                        state="reserved",
                        at=now,
                    )
                )
            planned = {"planner": "machine", "audience_size": PEOPLE}
            connection.execute(update(runs).where(runs.c.run_id == self.run_id).values(**planned))
        Enqueuer(self.store, self.run_id).write(self.drafts())
        ledger_run.begin(self.store, self.run_id, allow_list_only=False)

    def drafts(self) -> list[Draft]:
        now = self.store.clock.now()
        return [
            Draft(
                header=Header(
                    step_no,
                    channel,
                    due_at=now if step_no == 1 else None,
                    not_after=now + timedelta(days=3) if step_no == 1 else None,
                ),
                seq=seq,
                address_key=self.key(seq, channel),
                skeleton=Skeleton(
                    content="x", channel=channel, locale="en", subject="x", text="x", html="", placeholders=()
                ),
                parts=1,
            )
            for step_no, channel in CHANNELS.items()
            for seq in range(1, PEOPLE + 1)
        ]

    def key(self, seq: int, channel: Channel) -> str:
        return self.store.keyring.address_key(channel, f"{self.run_id}-{seq}@person.example.com")

    # What workers do.

    @rule(data=st.data(), limit=st.integers(1, PEOPLE))
    def someone_claims(self, data: st.DataObject, limit: int) -> None:
        waiting = sorted({ref.step_no for ref, state in self.seen.items() if state == "queued"})
        step_no = data.draw(st.sampled_from(waiting or sorted(CHANNELS)))
        found = claim(self.store, run_id=self.run_id, step_no=step_no, worker="w", limit=limit, lease=600)
        if found is None:
            return
        assert not self.cancelled, "a cancelled run was claimed from"
        assert not self.held, "a held run was claimed from"
        for seq in found.seqs:
            self.require_free(MessageRef(self.run_id, step_no, seq))
        self.workers.append(Worker(found))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def someone_looks_and_writes(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        batch = worker.batch
        seqs = data.draw(st.lists(st.sampled_from(batch.seqs), unique=True, min_size=1))
        together = batch.channel is Channel.EMAIL
        ids = [new_attempt_id() for _ in (seqs[:1] if together else seqs)]
        outgoing = look(self.store, batch, seqs=seqs, attempt_ids=ids, lease=600)
        if not outgoing:
            return
        assert not worker.is_late, "a worker wrote whose lease was over"
        assert not self.cancelled, "a cancelled run was written for"
        assert not self.held, "a held run was written for"
        carried: dict[AttemptId, list[MessageRef]] = {}
        for out in outgoing:
            self.require_free(out.ref)
            assert (out.ref.seq, batch.channel) not in self.opted_out, "somebody who opted out was written to"
            carried.setdefault(out.attempt_id, []).append(out.ref)
        self.require_on_record(carried)
        for attempt_id, refs in carried.items():
            request = Request(attempt_id, refs, batch.channel, taken=data.draw(st.booleans()))
            self.requests.append(request)
            worker.waiting.append(request)

    @precondition(lambda self: any(worker.waiting for worker in self.workers))
    @rule(data=st.data())
    def an_answer_comes(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in self.workers if worker.waiting]))
        request = worker.waiting.pop(data.draw(st.integers(0, len(worker.waiting) - 1)))
        answers = ["accepted", "none"] if request.taken else ["busy", "refused", "one refused", "none"]
        answer = data.draw(st.sampled_from(answers))
        request.is_open = answer == "none" and request.is_open
        if answer == "accepted":
            close.accept(self.store, {request.attempt_id: request.attempt_id}, now=self.store.clock.now())
            request.is_known = True
        elif answer == "busy":
            close.take_back(self.store, request.attempt_id, status=429)
        elif answer == "refused" or (answer == "one refused" and len(request.refs) == 1):
            close.reject(self.store, request.attempt_id, status=400, code=None)
            self.refused.update(request.refs)
        elif answer == "one refused":
            named = data.draw(st.sampled_from(request.refs))
            close.reject(self.store, request.attempt_id, status=400, code=None, seqs=[named.seq])
            self.refused.add(named)
        else:
            close.lose_sight(self.store, request.attempt_id)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), is_killed=st.booleans())
    def someone_finishes_or_is_killed(self, data: st.DataObject, is_killed: bool) -> None:
        worker = data.draw(st.sampled_from(self.workers))
        if not is_killed:
            close.finish(self.store, worker.batch)
        self.workers.remove(worker)

    # What time does, and people who opt out or run the campaign.

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), all_of_them=st.booleans(), swept=st.booleans())
    def leases_end(self, data: st.DataObject, all_of_them: bool, swept: bool) -> None:
        with self.store.write() as connection:
            open_ones = batches.c.run_id == self.run_id, batches.c.closed_machine.is_(None)
            ids = connection.execute(select(batches.c.batch_id).where(*open_ones)).scalars().all()
            if ids:
                over = ids if all_of_them else [data.draw(st.sampled_from(sorted(ids)))]
                connection.execute(update(batches).where(batches.c.batch_id.in_(over)).values(lease_machine=1.0))
                for worker in self.workers:
                    worker.is_late |= worker.batch.batch_id in over
        if swept:
            close.sweep(self.store, self.run_id)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), what=st.sampled_from(["hours", "hours", "hold", "opt-out", "opt-out", "gather", "cancel"]))
    def something_rare_happens(self, data: st.DataObject, what: str) -> None:
        if what == "hours":
            self.hours_pass(data.draw(st.sampled_from([1, 2, 12, 40])))
        elif what == "hold":
            self.hold_or_take_up()
        elif what == "opt-out":
            self.opt_out(data.draw(st.integers(1, PEOPLE)), data.draw(st.sampled_from(list(Channel))))
        elif what == "gather":
            schedule.drop_orphans(self.store, self.run_id)
            close.sweep(self.store, self.run_id)
        elif data.draw(st.booleans()):
            ending.cancel_run(self.store, self.run_id)
            self.cancelled, self.held = True, False

    def hours_pass(self, hours: int) -> None:
        moment = self.store.clock.now() + timedelta(hours=hours)
        self.store.clock = Clock(origin=moment, anchor=time.time(), factor=1e-12)

    def opt_out(self, seq: int, channel: Channel) -> None:
        with self.store.write() as connection:
            suppress(
                connection,
                channel=channel,
                address_key=self.key(seq, channel),
                contact=Contact(people="customers", contact_id=f"{self.run_id}-{seq}"),
                scope="all",
                reason=Reason.NEVER_CONTACT,
                source="a test",
                at=self.store.clock.now(),
            )
        self.opted_out.add((seq, channel))

    def hold_or_take_up(self) -> None:
        before, after = (RunState.HELD, RunState.EXECUTING) if self.held else (RunState.EXECUTING, RunState.HELD)
        if ledger_run.set_state(self.store, self.run_id, after, only_from=(before,)):
            self.held = not self.held

    # What providers say.

    @precondition(lambda self: any(request.taken for request in self.requests))
    @rule(data=st.data())
    def the_provider_tells(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([request for request in self.requests if request.taken]))
        ref = data.draw(st.sampled_from(request.refs))
        what = data.draw(st.sampled_from(sorted(TOLD[request.channel])))
        post = self.post(request, ref, what)
        self.posts.append(post)
        self.hear(post)
        request.is_known = True
        request.is_open = False
        self.told.setdefault(ref, set()).add(TOLD[request.channel][what])
        if what == "bounce":
            self.opted_out.add((ref.seq, request.channel))

    @precondition(lambda self: self.posts)
    @rule(data=st.data())
    def the_provider_repeats_itself(self, data: st.DataObject) -> None:
        self.hear(data.draw(st.sampled_from(self.posts)))

    def hear(self, post: Callable[[], int]) -> None:
        post()
        campaign.apply_receipts(self.store)

    def post(self, request: Request, ref: MessageRef, what: str) -> Callable[[], int]:
        token = self.store.keyring.token(TokenPurpose.MESSAGE, ref)
        if request.channel is Channel.EMAIL:
            event = {
                "email": f"p{ref.seq}@person.example.com",
                "event": what,
                "timestamp": int(self.store.clock.now().timestamp()),
                "sg_event_id": f"{what} {token}",
                "sg_message_id": f"{request.attempt_id}.{ref.seq}",
                "cp_m": token,
                "cp_a": request.attempt_id,
            }
            kind, query, body = PostKind.SENDGRID_EVENTS, {}, json.dumps([event])
        else:
            kind, query = PostKind.TWILIO_STATUS, {"m": token, "a": request.attempt_id}
            body = urlencode({"MessageSid": request.attempt_id, "MessageStatus": what, "To": f"+1202555{ref.seq:04d}"})
        return lambda: tracking.append(self.store, kind=kind, query=query, body=body.encode())

    # What must hold at every moment.

    def require_free(self, ref: MessageRef) -> None:
        """Assert that no request may have brought this message to the provider, and none refused it."""
        for request in self.requests:
            if ref in request.refs:
                assert not request.taken, f"{ref} would go out twice"
                assert not request.is_open, f"{ref} would go out while an answer is out"
        assert ref not in self.refused, f"{ref} was refused and would go out again"

    def require_on_record(self, carried: dict[AttemptId, list[MessageRef]]) -> None:
        """Assert that whoever looks from outside sees the attempts, before anything is written."""
        with self.store.read() as connection:
            rows = connection.execute(
                select(messages.c.seq, messages.c.step_no, messages.c.attempt_id, messages.c.state, attempts.c.outcome)
                .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
                .where(messages.c.attempt_id.in_(list(carried)))
            ).all()
        seen: dict[AttemptId, list[MessageRef]] = {}
        for row in sorted(rows, key=lambda row: row.seq):
            assert (row.state, row.outcome) == ("sending", "open")
            seen.setdefault(row.attempt_id, []).append(MessageRef(self.run_id, row.step_no, row.seq))
        assert seen == {attempt_id: sorted(refs) for attempt_id, refs in carried.items()}

    @invariant()
    def the_ledger_agrees_with_the_world(self) -> None:
        with self.store.read() as connection:
            rows = {
                MessageRef(RunId(row.run_id), row.step_no, row.seq): row
                for row in connection.execute(select(messages).where(messages.c.run_id == self.run_id))
            }
            books = proof.balance(connection, self.run_id, self.run_key)
            kept = set(
                connection.execute(
                    select(enrolments.c.contact_id).where(
                        enrolments.c.run_id == self.run_id, enrolments.c.state == "kept"
                    )
                ).scalars()
            )
        assert books.difference == 0, [check for check in books.checks if check.difference]
        assert len(rows) == PEOPLE * len(CHANNELS), "somebody is lost"
        for ref, row in rows.items():
            assert row.state in reachable(self.seen.get(ref, "not_due" if ref.step_no > 1 else "queued"))
            self.seen[ref] = row.state
            self.require_state(ref, row)
        accepted = {ref.seq for ref, row in rows.items() if row.accepted_at is not None}
        assert kept == {f"{self.run_id}-{seq}" for seq in accepted}

    def require_state(self, ref: MessageRef, row: object) -> None:
        state, accepted_at = row.state, row.accepted_at  # type: ignore[attr-defined]
        mine = [request for request in self.requests if ref in request.refs]
        taken = [request for request in mine if request.taken]
        assert len(taken) <= 1, f"{ref} went out twice"
        if taken and taken[0].is_known:
            told = self.told.get(ref, set())
            expected = next((one for one in ("failed", "delivered") if one in told), "accepted")
            assert (state, accepted_at is not None) == (expected, True), f"{ref} is {state}, and was told {told}"
        elif taken or any(request.is_open for request in mine):
            assert (state in {"sending", "unknown"}, accepted_at) == (True, None), f"{ref} is {state} and on the wire"
        elif ref in self.refused:
            assert (state, row.reason, accepted_at) == ("failed", "rejected", None)  # type: ignore[attr-defined]
        else:
            assert (state in UNSENT, accepted_at) == (True, None), f"{ref} is {state}, and was never taken"

    def teardown(self) -> None:
        """Let everything that is left happen, with a provider that takes all: nobody is forgotten."""
        if not hasattr(self, "run_id"):
            return
        if self.held:
            self.hold_or_take_up()
        self.workers.clear()
        with self.store.write() as connection:
            connection.execute(update(batches).where(batches.c.run_id == self.run_id).values(lease_machine=1.0))
        self.hours_pass(3)
        schedule.drop_orphans(self.store, self.run_id)
        close.sweep(self.store, self.run_id)
        for step_no in CHANNELS:
            while batch := claim(self.store, run_id=self.run_id, step_no=step_no, worker="w", limit=9, lease=600):
                ids = [new_attempt_id() for _ in (batch.seqs[:1] if batch.channel is Channel.EMAIL else batch.seqs)]
                outgoing = look(self.store, batch, seqs=batch.seqs, attempt_ids=ids, lease=600)
                for attempt_id in sorted({out.attempt_id for out in outgoing}):
                    refs = [out.ref for out in outgoing if out.attempt_id == attempt_id]
                    for ref in refs:
                        self.require_free(ref)
                    self.requests.append(
                        Request(attempt_id, refs, batch.channel, taken=True, is_open=False, is_known=True)
                    )
                    close.accept(self.store, {attempt_id: attempt_id}, now=self.store.clock.now())
                close.finish(self.store, batch)
        ledger_run.set_state(self.store, self.run_id, RunState.FINISHED, only_from=(RunState.EXECUTING,))
        ending.cancel_waiting(self.store, self.run_id, Reason.RUN_ENDED)
        self.the_ledger_agrees_with_the_world()
        assert not set(self.seen.values()) & {"not_due", "queued", "claimed", "sending"}, "somebody was forgotten"
