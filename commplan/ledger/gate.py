"""The gate of follow-ups on silence: open for those whose silence is proven, closed for the others.

It holds a step, never a run. Silence is proven by what it takes to have heard the contrary: a feed without a gap, all
of it applied, and conversions that were asked for after the wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, or_, select

from commplan.clock import Clock
from commplan.ids import RunId
from commplan.ledger import feed
from commplan.ledger.decision import decision_about
from commplan.ledger.feed import RETRIED_FOR, Feed, Gap, Rhythm
from commplan.ledger.need import Need, need_of
from commplan.ledger.schedule import LOOK_LATER
from commplan.plan import Plan
from commplan.store.tables import gatherings, inbox, messages, runs
from commplan.store.types import UtcDateTime, instant
from commplan.terms import Channel, FeedDecision

#: Before anything that has a time here.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
#: What people did in the organisation's own systems is known up to the last gathering; one older than this is too old,
#: in plan time and in machine seconds, the longer of the two.
FRESH, _FRESH_FLOOR = timedelta(hours=1), 120.0
_PROVIDER = {Channel.EMAIL: "SendGrid", Channel.SMS: "Twilio"}


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


def prove(
    connection: Connection, plan: Plan, run_id: RunId, step_no: int, clock: Clock, *, gathered: bool = True
) -> Proof | None:
    """Return whose silence is proven at this moment, for a step; None for a step that does not rest on silence.

    Not `gathered`: as if conversions had just been asked for, to know whether asking is worth it.
    """
    need = need_of(plan, step_no)
    if need is None:
        return None
    now = clock.now()
    times = feed.rhythm(need.wait, clock)
    said = decision_about(connection, run_id, step_no)
    released = said.at if said is not None and said.decision == FeedDecision.GO else _NEVER
    if said is not None and said.decision == FeedDecision.HOLD:
        why = f"{said.by} holds it since {_when(said.at)}"
        return Proof(until=_NEVER, since=_NEVER, released=released, closed=why, again=now + LOOK_LATER)
    parts = [
        *_of_feeds(connection, need, run_id, times, now),
        *_of_inbox(connection, need, times, now),
        *(_of_conversions(connection, need, run_id, clock) if gathered else ()),
    ]
    return Proof(
        until=min((part.until for part in parts), default=now),
        since=max((part.since for part in parts), default=_NEVER),
        released=released,
        closed="; ".join(part.why for part in parts if part.why) or None,
        again=now + (max((part.later for part in parts), default=timedelta(0)) or times.every),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one source of knowledge proves, as in `Proof`; `why` it proves no more.

    `later`: until that may have changed, where it does not change with a heartbeat.
    """

    until: datetime
    since: datetime = _NEVER
    why: str | None = None
    later: timedelta = timedelta(0)


# The look asks for every batch, so each of these is built once.
_FIRST = select(runs.c.first_accepted_at).where(runs.c.run_id == bindparam("of_run"))
_UNAPPLIED = select(func.min(inbox.c.received_at)).where(inbox.c.applied_at.is_(None))
#: When each conversion was last asked for with success, and without.
_GATHERED = (
    select(
        gatherings.c.name,
        func.max(case((gatherings.c.succeeded, gatherings.c.at)), type_=UtcDateTime()).label("good"),
        func.max(case((~gatherings.c.succeeded, gatherings.c.at)), type_=UtcDateTime()).label("bad"),
    )
    .where(gatherings.c.run_id == bindparam("of_run"))
    .group_by(gatherings.c.name)
)


def _of_feeds(connection: Connection, need: Need, run_id: RunId, times: Rhythm, now: datetime) -> Iterator[_Part]:
    first = connection.execute(_FIRST, {"of_run": run_id}).scalar_one()
    begun = first or now
    for channel in sorted(need.steps):
        found = feed.read(connection, channel, since=begun, events=need.events_on(channel), rhythm=times, now=now)
        silent = _silent(found, channel, now=now, apart=times.apart)
        proven = _NEVER if silent is not None or found.last is None else found.last - times.lag
        yield _Part(until=proven, why=silent)
        if channel is Channel.EMAIL:
            # A poll of Twilio's list brings in whatever was missed; SendGrid's posts are only repeated for a while.
            yield _of_gaps(found.gaps, begun=begun, now=now)
    if need.visits:
        found = feed.read(connection, feed.RECEIVER, since=begun, events=(), rhythm=times, now=now)
        deaf = _deaf(found, now=now, apart=times.apart)
        yield _Part(until=_NEVER if deaf is not None or found.last is None else found.last - times.lag, why=deaf)
        since = max((gap.end for gap in found.gaps if gap.end > begun), default=_NEVER)
        if since != _NEVER:
            # Only a person changes that.
            why = f"the receiver was not reached until {_when(since)}: who came before that was not heard"
            yield _Part(until=now, since=since, why=why, later=LOOK_LATER)


def _of_inbox(connection: Connection, need: Need, times: Rhythm, now: datetime) -> Iterator[_Part]:
    since = connection.execute(_UNAPPLIED).scalar_one() if need.steps else None
    if since is not None:
        late = since < now - times.apart
        why = f"what was received at {_when(since)} is not applied yet; see the log of commplan serve"
        yield _Part(until=since - times.lag, why=why if late else None)


def _of_conversions(connection: Connection, need: Need, run_id: RunId, clock: Clock) -> Iterator[_Part]:
    fresh = clock.now() - max(FRESH, timedelta(seconds=_FRESH_FLOOR * clock.factor))
    asked = connection.execute(_GATHERED, {"of_run": run_id}).all() if need.conversions else ()
    found = {row.name: (row.good, row.bad) for row in asked}
    for name in sorted(need.conversions):
        at, bad = found.get(name, (None, None))
        failing = bad is not None and (at is None or bad > at)
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


def _deaf(found: Feed, *, now: datetime, apart: timedelta) -> str | None:
    """Return why our own receiver proves nothing at present; None if it is reached."""
    if found.missing_since is None and found.last is not None and now - found.last <= apart:
        return None
    last = found.last or found.missing_since
    since = "" if last is None else f" since {_when(last)}"
    return f"the receiver has not been reached under its public address{since}{_because(found)}; {_RECEIVER}"


_RECEIVER = "see that commplan serve runs and can be reached (commplan doctor)"


def _because(found: Feed) -> str:
    return f" ({found.failure})" if found.failure is not None else ""


def _of_gaps(gaps: Collection[Gap], *, begun: datetime, now: datetime) -> _Part:
    """Return after when an earlier message must have gone out so that no gap matters to it, and the gap that does."""
    bound, because, later = _NEVER, None, timedelta(0)
    for gap in gaps:
        heals = gap.heals()
        if heals is not None and heals <= now:
            # It told everything, but what happened longer before its end than providers repeat.
            after = _NEVER if gap.start is not None and gap.end - gap.start <= RETRIED_FOR else gap.end - RETRIED_FOR
        else:
            after = gap.end
        if after > begun and after >= bound:
            because = _about(gap, heals, now)
            later = LOOK_LATER if heals is None or heals <= now else min(LOOK_LATER, heals - now)
        bound = max(bound, after)
    return _Part(until=now, since=bound, why=because, later=later)


def _about(gap: Gap, heals: datetime | None, now: datetime) -> str:
    start = "the beginning" if gap.start is None else _when(gap.start)
    span = f"from {start} to {_when(gap.end)}"
    if heals is None:
        return f"{' and '.join(gap.lost)} events were switched off at SendGrid {span}: what happened then is never told"
    if heals <= now:
        return f"SendGrid was not heard {span}, longer than it repeats what it has to tell"
    return f"SendGrid was not heard {span}; what that kept back may come until {_when(heals)}"


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
    late = messages.c.not_after > instant("silence_until")
    if numbers:
        earlier = messages.alias("spoken_of")
        too_early = (
            select(earlier.c.seq)
            .where(
                earlier.c.run_id == messages.c.run_id,
                earlier.c.seq == messages.c.seq,
                earlier.c.step_no.in_(numbers),
                earlier.c.accepted_at < instant("silence_since"),
            )
            .correlate(messages)
            .exists()
        )
        late = or_(late, too_early)
    return and_(messages.c.not_after > instant("silence_released"), late)


def parameters(plan: Plan, step_no: int, proof: Proof) -> dict[str, object]:
    """Return the parameters of `unproven`, and when to look again at what it is true for."""
    lateness = plan.sequence[step_no - 1].lateness
    return {
        "silence_until": proof.until + lateness,
        "silence_released": proof.released + lateness,
        "silence_since": proof.since,
        "silence_later": proof.again,
    }
