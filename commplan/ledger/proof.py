"""Proving that the books balance: every contact in exactly one state per step, every request with its messages.

Read-only. Counts that were written by different code at different times are held against each other, so that an
error in one of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, func, or_, select

from commplan.ids import RunId
from commplan.ledger import settlement
from commplan.ledger.run import plan_of
from commplan.ledger.settlement import Doubts
from commplan.store.tables import attempts, messages, receipts, recipients
from commplan.terms import AttemptOutcome, Channel, MessageState, OnUnknown

#: Requests that carry their messages: what is lost, or sent again without evidence, carries them no longer.
_ON_RECORD = and_(
    attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.ACCEPTED, AttemptOutcome.UNKNOWN)),
    attempts.c.decision.is_distinct_from(OnUnknown.RESEND),
)
_TAKEN = (MessageState.ACCEPTED, MessageState.DELIVERED)
_PAST_CLAIMED = (MessageState.SENDING, MessageState.UNKNOWN, MessageState.ACCEPTED, MessageState.DELIVERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBalance:
    """One step's books: `contacts` in the snapshot, and how many of them are in each state."""

    step_no: int
    step: str
    contacts: int
    states: dict[str, int]
    reasons: dict[str, int]  #: of the excluded

    @property
    def difference(self) -> int:
        """Contacts without a state, or with more than one: 0 when the books balance."""
        return self.contacts - sum(self.states.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Two figures that were written apart and must be equal."""

    what: str
    expected: int
    found: int

    @property
    def difference(self) -> int:
        """How far they are apart."""
        return abs(self.expected - self.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The books of a run."""

    run_key: str
    steps: tuple[StepBalance, ...]
    checks: tuple[Check, ...]
    doubts: Doubts  #: what was decided without an answer of the provider
    unmatched_receipts: int  #: receipts in the store that match no message of any run: listed, not an error

    @property
    def difference(self) -> int:
        """The sum of all differences; 0 when everything agrees."""
        return sum(abs(step.difference) for step in self.steps) + sum(check.difference for check in self.checks)

    def count(self, *states: MessageState, channel_steps: frozenset[int] | None = None) -> int:
        """Return how many messages are in `states`, over all steps or some."""
        return sum(
            step.states.get(state, 0)
            for step in self.steps
            for state in states
            if channel_steps is None or step.step_no in channel_steps
        )


def balance(connection: Connection, run_id: RunId, run_key: str) -> Proof:
    """Return the books of a run."""
    plan = plan_of(connection, run_id)
    contacts = connection.execute(
        select(func.count()).select_from(recipients).where(recipients.c.run_id == run_id)
    ).scalar_one()
    grouped = connection.execute(
        select(messages.c.step_no, messages.c.state, messages.c.reason, func.count().label("n"))
        .where(messages.c.run_id == run_id)
        .group_by(messages.c.step_no, messages.c.state, messages.c.reason)
        .order_by(messages.c.step_no, messages.c.state, messages.c.reason)
    ).all()
    steps = []
    for step_no, step in enumerate(plan.sequence, 1):
        states: dict[str, int] = {}
        reasons: dict[str, int] = {}
        for row in grouped:
            if row.step_no == step_no:
                states[row.state] = states.get(row.state, 0) + row.n
                if row.state == MessageState.EXCLUDED:
                    reasons[row.reason] = row.n
        # Before the audience is frozen there are no rows and no contacts, which balances.
        steps.append(
            StepBalance(
                step_no=step_no, step=step.step, contacts=contacts if grouped else 0, states=states, reasons=reasons
            )
        )
    found = settlement.doubts(connection, run_id)
    return Proof(
        run_key=run_key,
        steps=tuple(steps),
        checks=(*_checks(connection, run_id), *_doubtful(connection, run_id, found)),
        doubts=found,
        unmatched_receipts=connection.execute(
            select(func.count()).select_from(receipts).where(receipts.c.run_id.is_(None))
        ).scalar_one(),
    )


def _checks(connection: Connection, run_id: RunId) -> tuple[Check, ...]:
    mine = messages.c.run_id == run_id
    carried = connection.execute(
        select(func.coalesce(func.sum(attempts.c.messages), 0)).where(attempts.c.run_id == run_id, _ON_RECORD)
    ).scalar_one()
    on_record = select(attempts.c.attempt_id).where(attempts.c.run_id == run_id, _ON_RECORD)
    with_attempt = connection.execute(
        select(func.count()).select_from(messages).where(mine, messages.c.attempt_id.in_(on_record))
    ).scalar_one()
    past, past_with_attempt = connection.execute(
        select(
            func.count(),
            func.count(case((messages.c.attempt_id.in_(on_record), 1))),
        ).where(mine, or_(messages.c.state.in_(_PAST_CLAIMED), messages.c.accepted_at.is_not(None)))
    ).one()
    accepted = and_(attempts.c.run_id == run_id, attempts.c.outcome == AttemptOutcome.ACCEPTED)
    taken, named = connection.execute(
        select(
            func.coalesce(func.sum(case((attempts.c.provider_id.is_not(None), 1))), 0),
            func.count(func.distinct(attempts.c.provider_id)),
        ).where(accepted)
    ).one()
    astray = connection.execute(
        select(func.count())
        .select_from(messages)
        .where(mine, messages.c.accepted_at.is_not(None) != messages.c.state.in_(_TAKEN))
        .where(~and_(messages.c.state == MessageState.FAILED, messages.c.accepted_at.is_not(None)))
    ).scalar_one()
    repeated = connection.execute(
        select(func.count()).select_from(
            select(messages.c.address_key)
            .where(mine, messages.c.accepted_at.is_not(None))
            .group_by(messages.c.step_no, messages.c.address_key)
            .having(func.count() > 1)
            .subquery()
        )
    ).scalar_one()
    texts, their_ids = connection.execute(
        select(func.count(messages.c.provider_id), func.count(func.distinct(messages.c.provider_id))).where(
            mine, messages.c.channel == Channel.SMS
        )
    ).one()
    return (
        Check(
            what="messages carried by requests = messages that name their request", expected=carried, found=with_attempt
        ),
        Check(
            what="messages past claimed = messages with a request on the wire", expected=past, found=past_with_attempt
        ),
        Check(what="accepted requests = different provider ids", expected=taken, found=named),
        Check(what="texts with a provider id = different provider ids", expected=texts, found=their_ids),
        Check(what="messages whose state and acceptance contradict each other", expected=0, found=astray),
        Check(what="addresses written to twice in a step", expected=0, found=repeated),
    )


def _doubtful(connection: Connection, run_id: RunId, found: Doubts) -> tuple[Check, ...]:
    refuted = connection.execute(
        select(func.count())
        .select_from(attempts)
        .where(
            attempts.c.run_id == run_id,
            attempts.c.outcome == AttemptOutcome.LOST,
            attempts.c.provider_id.is_not(None),
        )
    ).scalar_one()
    in_doubt = connection.execute(
        select(func.coalesce(func.sum(attempts.c.messages), 0)).where(
            attempts.c.run_id == run_id, attempts.c.outcome == AttemptOutcome.UNKNOWN, _ON_RECORD
        )
    ).scalar_one()
    return (
        Check(what="messages in doubt = messages carried by requests in doubt", expected=found.unknown, found=in_doubt),
        Check(what="requests judged lost that the provider had taken", expected=0, found=refuted),
        Check(what="messages that receipts show to have arrived twice", expected=0, found=found.duplicates),
    )


def accepted_by_channel(connection: Connection, run_id: RunId) -> dict[Channel, int]:
    """Return how many messages of a run the providers have taken, by channel."""
    rows = connection.execute(
        select(messages.c.channel, func.count())
        .where(messages.c.run_id == run_id, messages.c.accepted_at.is_not(None))
        .group_by(messages.c.channel)
    ).all()
    return dict.fromkeys(Channel, 0) | {Channel(channel): count for channel, count in rows}
