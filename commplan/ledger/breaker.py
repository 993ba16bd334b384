"""One wrong setting must not burn the audience: refusals that are the sender's fault stop the sender, not its people.

The counting is that of the ledger itself, so it holds over any number of workers and outlives them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, false, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.channels.failures import suppresses
from commplan.errors import DeliveryError, HaltError, RejectedError
from commplan.ids import AttemptId, RunId
from commplan.ledger.run import record
from commplan.store import Store
from commplan.store.tables import attempts, batches, country_halts, messages, recipients, runs
from commplan.terms import AttemptOutcome, Channel, MessageState, Reason, RunState

#: So many people in a row, or this share of the last `WINDOW`, refused with one code halt the sender.
CONSECUTIVE, WINDOW, SHARE = 20, 200, 0.5
#: Stands for the country of numbers that have none.
NO_COUNTRY = "ZZ"
#: Newest batches in which outcomes are looked for: more only while they are too few.
_REACH = (2, 6, WINDOW)

#: A provider's status and code.
Code = tuple[int | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one request came to: how many people it was accepted for (`code` None) or refused for with a code."""

    attempt_id: str
    people: int
    code: Code | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountryHalt:
    """A country that a run does not text for now, and how many texts wait for that to end."""

    country: str
    code: str | None
    reason: str
    since: datetime
    waiting: int


def too_many(newest_first: Sequence[Outcome], code: Code) -> int:
    """Return how many of the latest refusals with `code` are reason to halt the sender; 0 if they are not."""
    heard = [outcome for outcome in newest_first if outcome.people]
    streak = 0
    for outcome in heard:
        if outcome.code != code:
            break
        streak += outcome.people
    if streak >= CONSECUTIVE:
        return streak
    seen = refused = 0
    for outcome in heard:
        taken = min(outcome.people, WINDOW - seen)
        seen += taken
        refused += taken if outcome.code == code else 0
    return refused if seen == WINDOW and refused >= SHARE * WINDOW else 0


def after(store: Store, attempt_id: AttemptId, error: DeliveryError, seqs: Sequence[int]) -> HaltError | None:
    """Take in a failed request whose failure is written down; return what must stop the sender now, if anything.

    A halt that concerns a country stops that country of that run, and the sender goes on. Too many refusals with one
    code hold the run; those that were not about the people themselves go back to the queue. Transactions of its own.
    """
    if isinstance(error, HaltError):
        if not error.country:
            return error
        _halt_countries(store, attempt_id, error, seqs)
        return None
    return _judge(store, attempt_id, error) if isinstance(error, RejectedError) else None


def _judge(store: Store, attempt_id: AttemptId, error: RejectedError) -> HaltError | None:
    code = (error.status, error.code)
    with store.read() as connection:
        request = connection.execute(select(attempts).where(attempts.c.attempt_id == attempt_id)).one()
        recent = _recent(connection, request.run_id, request.channel)
    count = too_many(recent, code)
    if not count:
        return None
    what = "texts" if request.channel == Channel.SMS else "emails"
    named = error.code or f"status {error.status}"
    personal = suppresses(error.code) is not None or named.startswith("personalizations")
    remedy = "see where these addresses come from" if personal else "look that up at the provider"
    reason = f"{count} of the latest {what} were refused with {named}: {error.reason}; {remedy}"
    halt = HaltError(reason, status=error.status, code=error.code)
    with store.write() as connection:
        held = connection.execute(
            update(runs)
            .where(runs.c.run_id == request.run_id, runs.c.state == RunState.EXECUTING)
            .values(state=RunState.HELD, reason=halt.reason)
        ).rowcount
        back = 0 if personal else _requeue(connection, [each.attempt_id for each in recent if each.code == code])
        if held:
            detail = {"reason": halt.reason, "refused": count, "queued_again": back}
            record(connection, request.run_id, store.clock.now(), RunState.HELD.value, detail)
    return halt


def _recent(connection: Connection, run_id: int, channel: str) -> list[Outcome]:
    """Return the latest definite outcomes of a run's sender since it was last let go on, newest first."""
    resumed = select(func.coalesce(runs.c.resumed_machine, 0.0)).where(runs.c.run_id == run_id).scalar_subquery()
    refused = (
        select(func.count())
        .where(messages.c.attempt_id == attempts.c.attempt_id, messages.c.state == MessageState.FAILED)
        .correlate(attempts)
        .scalar_subquery()
    )
    of_several = and_(attempts.c.outcome == AttemptOutcome.REJECTED, attempts.c.messages > 1)
    found: list[Outcome] = []
    for reach in _REACH:
        newest = (
            select(batches.c.batch_id)
            .where(batches.c.run_id == run_id)
            .order_by(batches.c.batch_id.desc())
            .limit(reach)
        )
        rows = connection.execute(
            select(
                attempts.c.attempt_id,
                attempts.c.outcome,
                attempts.c.status,
                attempts.c.code,
                case((of_several, refused), else_=attempts.c.messages).label("people"),
            )
            .where(
                attempts.c.batch_id.in_(newest.scalar_subquery()),
                attempts.c.channel == channel,
                attempts.c.outcome.in_((AttemptOutcome.ACCEPTED, AttemptOutcome.REJECTED)),
                attempts.c.closed_machine > resumed,
            )
            .order_by(attempts.c.closed_machine.desc())
            .limit(2 * WINDOW)
        )
        found = [
            Outcome(
                attempt_id=row.attempt_id,
                people=row.people,
                code=None if row.outcome == AttemptOutcome.ACCEPTED else (row.status, row.code),
            )
            for row in rows
        ]
        if sum(outcome.people for outcome in found) >= WINDOW:
            break
    return found


def _requeue(connection: Connection, attempt_ids: Sequence[str]) -> int:
    return connection.execute(
        update(messages)
        .where(
            messages.c.attempt_id.in_(attempt_ids),
            messages.c.state == MessageState.FAILED,
            messages.c.reason == Reason.REJECTED,
        )
        .values(state=MessageState.QUEUED, reason=None, failed_at=None, attempt_id=None, batch_id=None)
    ).rowcount


def _halt_countries(store: Store, attempt_id: AttemptId, error: HaltError, seqs: Sequence[int]) -> None:
    upsert = sqlite.insert if store.is_sqlite else postgresql.insert
    now = store.clock.now()
    with store.write() as connection:
        rows = connection.execute(
            select(recipients.c.run_id, func.coalesce(recipients.c.country, NO_COUNTRY).label("country"))
            .join(attempts, attempts.c.run_id == recipients.c.run_id)
            .where(attempts.c.attempt_id == attempt_id, recipients.c.seq.in_(seqs))
            .distinct()
        ).all()
        for row in rows:
            new = connection.execute(
                upsert(country_halts)
                .values(run_id=row.run_id, country=row.country, code=error.code, reason=error.reason, at=now)
                .on_conflict_do_nothing()
                .returning(country_halts.c.country)
            ).first()
            if new is not None:
                record(connection, row.run_id, now, "country halted", {"country": row.country, "code": error.code})


_HALTED = (
    select(country_halts.c.country)
    .where(country_halts.c.run_id == bindparam("of_run"))
    .order_by(country_halts.c.country)
)


def halted_countries(connection: Connection, run_id: RunId) -> tuple[str, ...]:
    """Return the countries that a run does not text for now."""
    return tuple(connection.execute(_HALTED, {"of_run": run_id}).scalars())


def held_back(countries: Collection[str], now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the condition that a message waits because its number is of one of the `halted_countries` of its run.

    Such a message is neither claimed nor sent. Once it is too late for it the condition is false, so that the last
    look lets it expire.
    """
    if not countries:
        return false()
    there = (
        select(recipients.c.seq)
        .where(
            recipients.c.run_id == messages.c.run_id,
            recipients.c.seq == messages.c.seq,
            func.coalesce(recipients.c.country, NO_COUNTRY).in_(countries),
        )
        .correlate(messages)
    )
    return and_(messages.c.channel == Channel.SMS, messages.c.not_after >= now, there.exists())


def country_halts_of(connection: Connection, run_id: RunId, now: datetime) -> list[CountryHalt]:
    """Return the countries that a run does not text for now, with what waits for each."""
    country = func.coalesce(recipients.c.country, NO_COUNTRY)
    counted = connection.execute(
        select(country.label("country"), func.count().label("texts"))
        .join(messages, and_(messages.c.run_id == recipients.c.run_id, messages.c.seq == recipients.c.seq))
        .where(
            messages.c.run_id == run_id,
            messages.c.state == MessageState.QUEUED,
            held_back(halted_countries(connection, run_id), now),
        )
        .group_by(country)
    )
    waiting = {row.country: row.texts for row in counted}
    rows = connection.execute(
        select(country_halts).where(country_halts.c.run_id == run_id).order_by(country_halts.c.country)
    )
    return [
        CountryHalt(
            country=row.country, code=row.code, reason=row.reason, since=row.at, waiting=waiting.get(row.country, 0)
        )
        for row in rows
    ]


def hold_for_countries(store: Store, run_id: RunId) -> str | None:
    """Hold a run that has nothing else left than texts to halted countries; return why, None if there are none.

    Own transaction; the caller has found that nothing else is due, now or later.
    """
    now = store.clock.now()
    with store.write() as connection:
        waiting = [halt for halt in country_halts_of(connection, run_id, now) if halt.waiting]
        if not waiting:
            return None
        reason = "; ".join(f"{halt.waiting:,} texts to {halt.country} wait: {halt.reason}" for halt in waiting)
        held = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state == RunState.EXECUTING)
            .values(state=RunState.HELD, reason=reason)
        ).rowcount
        if not held:
            return None
        connection.execute(update(country_halts).where(country_halts.c.run_id == run_id).values(holds=True))
        record(connection, run_id, now, RunState.HELD.value, {"reason": reason})
    return reason


def let_expire(store: Store, run_id: RunId) -> bool:
    """Let a run that is held for its countries go on once all that it held back is late; tell whether it is.

    Own transaction, if there is anything to do.
    """
    now = store.clock.now()
    for_them = select(country_halts.c.country).where(country_halts.c.run_id == run_id, country_halts.c.holds).exists()
    is_held = and_(runs.c.run_id == run_id, runs.c.state == RunState.HELD, for_them)
    with store.read() as connection:
        if connection.execute(select(runs.c.run_id).where(is_held)).first() is None:
            return False
        if any(halt.waiting for halt in country_halts_of(connection, run_id, now)):
            return False
    with store.write() as connection:
        moved = connection.execute(update(runs).where(is_held).values(state=RunState.EXECUTING, reason=None)).rowcount
        connection.execute(update(country_halts).where(country_halts.c.run_id == run_id).values(holds=False))
        if moved:
            record(connection, run_id, now, RunState.EXECUTING.value, {"reason": "what it held back is too late now"})
    return bool(moved)
