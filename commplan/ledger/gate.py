"""The gate of follow-ups on silence: open for those whose silence is proven, closed for the others.

It holds a step, never a run. Silence is proven by what it takes to have heard the contrary: a feed without a gap, all
of it applied, and conversions that were asked for after the wait.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.clock import Clock
from commplan.errors import RunError
from commplan.ids import RunId
from commplan.ledger import evidence, feed
from commplan.ledger.feed import RETRIED_FOR, Feed, Gap, Rhythm
from commplan.ledger.run import plan_of, record
from commplan.ledger.schedule import LOOK_LATER, reschedule
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import audit, feed_decisions, gatherings, inbox, messages, runs
from commplan.store.types import UtcDateTime
from commplan.terms import Channel, FeedDecision, MessageState, RunState

#: Before anything that has a time here.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
#: What people did in the organisation's own systems is known up to the last gathering; one older than this is too old,
#: in plan time and in machine seconds, the longer of the two.
FRESH, _FRESH_FLOOR = timedelta(hours=1), 120.0
#: SendGrid's events by which a claim would be contradicted, besides the delivery that it rests on.
_EVENTS = {"responded": "click", "clicked": "click", "opened": "open"}
_PROVIDER = {Channel.EMAIL: "SendGrid", Channel.SMS: "Twilio"}
_CLOSED, _OPEN = "step held", "step goes on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the silence of a step rests on: earlier steps by the channels their answers come on, events, conversions."""

    steps: Mapping[Channel, frozenset[int]]
    events: frozenset[str]
    conversions: frozenset[str]
    wait: timedelta
    lateness: timedelta

    def events_on(self, channel: Channel) -> frozenset[str]:
        """Return the events that a provider has to report: those of SendGrid can be switched off."""
        return self.events if channel is Channel.EMAIL else frozenset()


def need_of(plan: Plan, step_no: int) -> Need | None:
    """Return what a step's silence rests on; None for a step that does not rest on silence."""
    step = plan.sequence[step_no - 1]
    if not step.silences:
        return None
    steps: dict[Channel, set[int]] = {}
    events, conversions = {"delivered"}, set()
    for claim in step.silences:
        if claim.verb == "converted":
            conversions.add(claim.subject)
            continue
        number = plan.step_number(claim.subject)
        for channel in plan.channels_of(number):
            steps.setdefault(channel, set()).add(number)
        if claim.verb in _EVENTS:
            events.add(_EVENTS[claim.verb])
        if claim.verb == "responded":
            conversions.update(plan.conversions)
    waits = [step.wait, *(change.wait for change in step.by_segment.values() if change.wait is not None)]
    return Need(
        steps={channel: frozenset(numbers) for channel, numbers in steps.items()},
        events=frozenset(events),
        conversions=frozenset(conversions),
        wait=min(waits),
        lateness=step.lateness,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whose silence is proven: of those whose wait ended by `until`, and whose earlier messages went out after `since`.

    `released`: who waited until then goes on, because a person said so. `closed` says in a sentence what keeps others
    back; None if it is only that the next heartbeat has to come. `again` is when to look again.
    """

    until: datetime
    since: datetime
    released: datetime
    closed: str | None
    again: datetime


def prove(connection: Connection, plan: Plan, run_id: RunId, step_no: int, clock: Clock) -> Proof | None:
    """Return whose silence is proven at this moment, for a step; None for a step that does not rest on silence."""
    need = need_of(plan, step_no)
    if need is None:
        return None
    now = clock.now()
    times = feed.rhythm(need.wait, clock)
    said = _decision(connection, run_id, step_no)
    released = said.at if said is not None and said.decision == FeedDecision.GO else _NEVER
    if said is not None and said.decision == FeedDecision.HOLD:
        why = f"{said.by} holds it since {_when(said.at)}"
        return Proof(until=_NEVER, since=_NEVER, released=released, closed=why, again=now + LOOK_LATER)
    parts = [
        *_of_feeds(connection, need, run_id, times, now),
        *_of_inbox(connection, need, times, now),
        *_of_conversions(connection, need, run_id, clock),
    ]
    return Proof(
        until=min((part.until for part in parts), default=now),
        since=max((part.since for part in parts), default=_NEVER),
        released=released,
        closed="; ".join(part.why for part in parts if part.why) or None,
        again=now + max(times.every, *(part.later for part in parts)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one source of knowledge proves, as in `Proof`; `why` it proves no more, and how much `later` to look."""

    until: datetime
    since: datetime = _NEVER
    why: str | None = None
    later: timedelta = timedelta(0)


def _of_feeds(connection: Connection, need: Need, run_id: RunId, times: Rhythm, now: datetime) -> Iterator[_Part]:
    first = connection.execute(select(runs.c.first_accepted_at).where(runs.c.run_id == run_id)).scalar_one()
    begun = first or now
    for channel in sorted(need.steps):
        found = feed.read(connection, channel, since=begun, events=need.events_on(channel), rhythm=times, now=now)
        silent = _silent(found, channel, now=now, apart=times.apart)
        proven = _NEVER if silent is not None or found.last is None else found.last - times.lag
        yield _Part(until=proven, why=silent)
        if channel is Channel.EMAIL:
            # A poll of Twilio's list brings in whatever was missed; SendGrid's posts are only repeated for a while.
            since, why = _after_gaps(found.gaps, begun=begun, now=now)
            yield _Part(until=now, since=since, why=why, later=timedelta(0) if why is None else LOOK_LATER)


def _of_inbox(connection: Connection, need: Need, times: Rhythm, now: datetime) -> Iterator[_Part]:
    oldest = select(func.min(inbox.c.received_at)).where(inbox.c.applied_at.is_(None))
    since = connection.execute(oldest).scalar_one() if need.steps else None
    if since is not None:
        late = since < now - times.apart
        why = f"what was received at {_when(since)} is not applied yet; see the log of commplan serve"
        yield _Part(until=since - times.lag, why=why if late else None)


def _of_conversions(connection: Connection, need: Need, run_id: RunId, clock: Clock) -> Iterator[_Part]:
    fresh = clock.now() - max(FRESH, timedelta(seconds=_FRESH_FLOOR * clock.factor))
    for name in sorted(need.conversions):
        at, failing = _gathered(connection, run_id, name)
        said = f"the query of conversions.{name} is not answered" + ("" if at is None else f" since {_when(at)}")
        yield _Part(
            until=_NEVER if at is None or at < fresh else at,
            why=f"{said}; see that its database is up" if failing else None,
        )


def _silent(found: Feed, channel: Channel, *, now: datetime, apart: timedelta) -> str | None:
    """Return why a feed proves nothing at present; None if it is heard."""
    named = _PROVIDER[channel]
    if found.lost:
        return f"SendGrid does not report {' and '.join(found.lost)} events{_because(found)}; switch them on"
    if channel is Channel.EMAIL and found.missing_since is not None:
        return f"what {named} posts has not been heard since {_when(found.last or found.missing_since)}; {_RECEIVER}"
    if found.last is None:
        # Before the first message nothing was asked for, or it is still on its way.
        return f"no heartbeat of {named} has been heard{_because(found)}; {_RECEIVER}"
    if now - found.last > apart:
        return f"no heartbeat of {named} has been heard since {_when(found.last)}{_because(found)}; {_RECEIVER}"
    return None


_RECEIVER = "see that commplan serve runs and can be reached (commplan doctor)"


def _because(found: Feed) -> str:
    return f" ({found.failure})" if found.failure is not None else ""


def _after_gaps(gaps: Collection[Gap], *, begun: datetime, now: datetime) -> tuple[datetime, str | None]:
    """Return after when an earlier message must have gone out so that no gap matters to it, and the gap that does."""
    bound, because = _NEVER, None
    for gap in gaps:
        heals = gap.heals()
        if heals is not None and heals <= now:
            # It told everything, but what happened longer before its end than providers repeat.
            after = _NEVER if gap.start is not None and gap.end - gap.start <= RETRIED_FOR else gap.end - RETRIED_FOR
        else:
            after = gap.end
        if after > begun and after >= bound:
            because = _about(gap, heals, now)
        bound = max(bound, after)
    return bound, because


def _about(gap: Gap, heals: datetime | None, now: datetime) -> str:
    start = "the beginning" if gap.start is None else _when(gap.start)
    span = f"from {start} to {_when(gap.end)}"
    if heals is None:
        return f"{' and '.join(gap.lost)} events were switched off at SendGrid {span}: what happened then is never told"
    if heals <= now:
        return f"SendGrid was not heard {span}, longer than it repeats what it has to tell"
    return f"SendGrid was not heard {span}; what that kept back may come until {_when(heals)}"


def _gathered(connection: Connection, run_id: RunId, name: str) -> tuple[datetime | None, bool]:
    """Return when a conversion was last asked for with success, and whether the last attempt failed."""
    mine = and_(gatherings.c.run_id == run_id, gatherings.c.name == name)
    good = connection.execute(select(func.max(gatherings.c.at)).where(mine, gatherings.c.succeeded)).scalar_one()
    last = connection.execute(
        select(gatherings.c.succeeded).where(mine).order_by(gatherings.c.at.desc()).limit(1)
    ).scalar_one_or_none()
    return good, last is False or last == 0


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def unproven(plan: Plan, step_no: int) -> ColumnElement[bool]:
    """Return the SQL for: the silence of a row of messages is not proven. Parameters: `parameters`.

    When its wait ended follows from how late it may be: `due_at` moves with every look.
    """
    need = need_of(plan, step_no)
    if need is None:
        raise ValueError("the step does not rest on silence")
    numbers = sorted(frozenset().union(*need.steps.values()))
    late = messages.c.not_after > _moment("silence_until")
    if numbers:
        earlier = messages.alias("spoken_of")
        too_early = (
            select(earlier.c.seq)
            .where(
                earlier.c.run_id == messages.c.run_id,
                earlier.c.seq == messages.c.seq,
                earlier.c.step_no.in_(numbers),
                earlier.c.accepted_at < _moment("silence_since"),
            )
            .correlate(messages)
            .exists()
        )
        late = or_(late, too_early)
    return and_(messages.c.not_after > _moment("silence_released"), late)


def _moment(name: str) -> ColumnElement[datetime]:
    return bindparam(name, type_=UtcDateTime())


def parameters(plan: Plan, step_no: int, proof: Proof) -> dict[str, object]:
    """Return the parameters of `unproven`, and when to look again at what it is true for."""
    lateness = plan.sequence[step_no - 1].lateness
    return {
        "silence_until": proof.until + lateness,
        "silence_released": proof.released + lateness,
        "silence_since": proof.since,
        "silence_later": proof.again,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A step that waits for its silence to be proven: how many messages, and why (None: for the next heartbeat).

    `news`: it was open before, and nobody has been told.
    """

    step_no: int
    step: str
    waiting: int
    closed: str | None
    news: bool = False

    def __str__(self) -> str:
        why = self.closed or "the feed has to be heard after their wait"
        return f"{self.step}: {self.waiting:,} messages to people who are silent wait: {why}"


def hold_back(store: Store, run_id: RunId, step_no: int) -> Hold | None:
    """Make what is due of a step due later if its silence is not proven; None if there is none of that.

    Short transactions of its own, each over a range of recipients. Whose condition does not hold is left alone. The
    first time that the feed is closed for a step is noted in the audit, and the first time that it is open again.
    """
    with store.read() as connection:
        plan = plan_of(connection, run_id)
        proof = prove(connection, plan, run_id, step_no, store.clock)
    step = plan.sequence[step_no - 1]
    if proof is None or step.condition is None:
        return None
    now = store.clock.now()
    held = reschedule(
        store,
        run_id,
        step_no,
        messages.c.due_at <= now,
        messages.c.not_after >= now,
        unproven(plan, step_no),
        evidence.holds(step.condition, plan, messages),
        to=proof.again,
        parameters=parameters(plan, step_no, proof),
    )
    if not held and proof.closed is not None:
        return None
    news = _note(store, run_id, step_no, step.step, proof.closed)
    return Hold(step_no=step_no, step=step.step, waiting=held, closed=proof.closed, news=news) if held else None


def _note(store: Store, run_id: RunId, step_no: int, step: str, closed: str | None) -> bool:
    """Write into the audit that a step is held, or goes on, if that is news; tell whether it was news of a hold."""
    with store.write() as connection:
        told = connection.execute(
            select(audit.c.what, audit.c.detail)
            .where(audit.c.run_id == run_id, audit.c.what.in_((_CLOSED, _OPEN)))
            .order_by(audit.c.audit_id.desc())
        )
        was_closed = next((row.what == _CLOSED for row in told if json.loads(row.detail)["step"] == step), False)
        if was_closed == (closed is not None):
            return False
        what = _OPEN if closed is None else _CLOSED
        detail = {"step": step} | ({} if closed is None else {"reason": closed})
        record(connection, run_id, store.clock.now(), what, detail)
    return closed is not None


def standing(connection: Connection, run_id: RunId, clock: Clock) -> Iterator[Hold]:
    """Yield the steps for which the feed is closed, with how many messages wait for it by now."""
    plan, now = plan_of(connection, run_id), clock.now()
    left = (MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED)
    for step_no, step in enumerate(plan.sequence, 1):
        if step.condition is None or not step.silences:
            continue
        mine = and_(messages.c.run_id == run_id, messages.c.step_no == step_no)
        if connection.execute(select(messages.c.seq).where(mine, messages.c.state.in_(left)).limit(1)).first() is None:
            continue
        proof = prove(connection, plan, run_id, step_no, clock)
        if proof is None or proof.closed is None:
            continue
        waiting = connection.execute(
            select(func.count()).where(
                mine,
                messages.c.state == MessageState.QUEUED,
                messages.c.not_after <= now + step.lateness,
                messages.c.not_after >= now,
                unproven(plan, step_no),
                evidence.holds(step.condition, plan, messages),
            ),
            parameters(plan, step_no, proof),
        ).scalar_one()
        yield Hold(step_no=step_no, step=step.step, waiting=waiting, closed=proof.closed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decision:
    decision: str
    at: datetime
    by: str


def _decision(connection: Connection, run_id: RunId, step_no: int) -> _Decision | None:
    row = connection.execute(
        select(feed_decisions)
        .where(feed_decisions.c.run_id == run_id, feed_decisions.c.step_no == step_no)
        .order_by(feed_decisions.c.at.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _Decision(decision=row.decision, at=row.at, by=row.by)


def decide(
    store: Store, run_id: RunId, step_no: int, decision: FeedDecision, *, by: str, reason: str | None = None
) -> int:
    """Decide for a step in the place of its feed; return how many messages may be due at once. Own transactions.

    `GO` lets on who has waited until now, and nobody whose wait ends later; `HOLD` holds the step whatever the feed
    says; `AUTO` leaves it to the feed again. RunError for a step that does not rest on silence, or a run that is over.
    """
    now = store.clock.now()
    with store.write() as connection:
        run = connection.execute(select(runs.c.run_key, runs.c.state).where(runs.c.run_id == run_id)).one()
        if run.state in (RunState.FINISHED, RunState.CANCELLED, RunState.SUPERSEDED):
            raise RunError(f"{run.run_key} is {run.state}; nothing of it waits")
        plan = plan_of(connection, run_id)
        step = plan.sequence[step_no - 1]
        if not step.silences:
            raise RunError(f"{step.step} of {run.run_key} does not rest on silence, so nothing holds it for the feed")
        upsert = (sqlite if store.is_sqlite else postgresql).insert(feed_decisions)
        connection.execute(
            upsert.values(run_id=run_id, step_no=step_no, at=now, decision=decision, by=by).on_conflict_do_update(
                index_elements=list(feed_decisions.primary_key), set_={"decision": decision, "by": by}
            )
        )
        detail = {"step": step.step, "decision": decision.value, "by": by} | ({"reason": reason} if reason else {})
        record(connection, run_id, now, "feed decided", detail)
    if decision is FeedDecision.HOLD:
        return 0
    waited = messages.c.not_after <= now + step.lateness
    return reschedule(store, run_id, step_no, messages.c.due_at > now, waited, to=now)
