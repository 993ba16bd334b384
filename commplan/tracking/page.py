"""Who visits our own pages, and what most of them do there: opt out, come back, answer a survey.

Never acts for a token that is not ours and of the right purpose, and never shows an address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.audience.address import find_key
from commplan.consent import SCOPE_ALL, Contact
from commplan.ids import AddressKey, MessageRef, TokenPurpose
from commplan.ledger import facts as ledger
from commplan.ledger.facts import Fact
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import zones_of
from commplan.plan import Plan, Step
from commplan.receipts.base import Receipt, clean, natural_key
from commplan.store import Store
from commplan.store.tables import answers, messages, recipients
from commplan.suppression import active, lift, suppress
from commplan.terms import Channel, Reason, ReceiptKind
from commplan.tracking.consequence import opt_out_scope
from commplan.tracking.inbox import take_turn

#: The scores a scale allows: the lowest and the highest.
SCALES = {"csat": (1, 5), "nps": (0, 10)}
#: Longest free text that is kept.
MAX_TEXT = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Somebody who came through a link of a message, and what that message was."""

    ref: MessageRef
    channel: Channel
    address_key: AddressKey
    email_key: AddressKey | None
    phone_key: AddressKey | None
    contact: Contact
    locale: str
    zone: ZoneInfo  #: the person's, as far as it is known
    accepted_at: datetime | None  #: when the message was
    plan: Plan
    step: Step

    @property
    def scope(self) -> str:
        """What this person opts out of."""
        return opt_out_scope(self.plan)

    @property
    def keys(self) -> dict[Channel, AddressKey]:
        """The addresses that the visitor is written to, by channel; the message's own among them."""
        known = {Channel.EMAIL: self.email_key, Channel.SMS: self.phone_key, self.channel: self.address_key}
        return {channel: key for channel, key in known.items() if key is not None}

    def is_open(self, span: timedelta, now: datetime) -> bool:
        """Whether `now` is at most `span` after the message; always, while its acceptance is not known."""
        return self.accepted_at is None or now <= self.accepted_at + span


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A survey answer as far as it was given."""

    score: int | None = None
    text: str | None = field(default=None, repr=False)


def find_visit(store: Store, purpose: TokenPurpose, token: str) -> Visit | None:
    """Return whose link a token is, None if it is not ours, of another purpose, or its message is gone."""
    with store.read() as connection:
        return find(store, connection, purpose, token)


def find(store: Store, connection: Connection, purpose: TokenPurpose, token: str) -> Visit | None:
    """As `find_visit`, in the caller's transaction."""
    ref = store.keyring.open(purpose, token)
    if ref is None:
        return None
    row = connection.execute(
        select(
            messages.c.channel,
            messages.c.address_key,
            messages.c.accepted_at,
            recipients.c.locale,
            recipients.c.zone,
            recipients.c.country,
            recipients.c.people,
            recipients.c.contact_id,
            recipients.c.email_key,
            recipients.c.phone_key,
        )
        .join(recipients, (recipients.c.run_id == messages.c.run_id) & (recipients.c.seq == messages.c.seq))
        .where(
            messages.c.run_id == ref.run_id,
            messages.c.step_no == ref.step_no,
            messages.c.seq == ref.seq,
            messages.c.address_key.is_not(None),
        )
    ).one_or_none()
    if row is None:
        return None
    plan = plan_of(connection, ref.run_id)
    return Visit(
        ref=ref,
        channel=Channel(row.channel),
        address_key=AddressKey(row.address_key),
        email_key=row.email_key,
        phone_key=row.phone_key,
        contact=Contact(people=row.people, contact_id=row.contact_id),
        locale=row.locale or plan.locale,
        zone=zones_of(row.zone, row.country, plan.zone)[0],
        accepted_at=row.accepted_at,
        plan=plan,
        step=plan.sequence[ref.step_no - 1],
    )


def is_opted_out(store: Store, visit: Visit) -> bool:
    """Tell whether the visitor, or somebody at their address, has opted out of what the visit is about."""
    with store.read() as connection:
        known = active(
            connection,
            channel=visit.channel,
            address_key=visit.address_key,
            contact=visit.contact,
            now=store.clock.now(),
        )
    return any(entry.reason is Reason.UNSUBSCRIBED and entry.scope in (visit.scope, SCOPE_ALL) for entry in known)


def unsubscribe(store: Store, token: str, *, said: str | None = None) -> Visit | None:
    """Opt a link's person, and their address, out of its plan's topic, or of marketing; None for a foreign token.

    The person on every channel, so that nobody who unsubscribed by email gets the follow-up as a text. `said`: what the
    page told them before. Own transaction; doing it again changes nothing.
    """
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.UNSUBSCRIBE, token)
        if visit is not None and suppress(
            connection,
            channel=visit.channel,
            address_key=visit.address_key,
            contact=visit.contact,
            scope=visit.scope,
            reason=Reason.UNSUBSCRIBED,
            source="unsubscribe page",
            at=store.clock.now(),
            said=said,
        ):
            note(store, connection, visit.ref, ReceiptKind.OPTED_OUT)
    return visit


def resubscribe(store: Store, token: str, *, said: str | None = None) -> Visit | None:
    """Take back a person's opt-out and their addresses', whichever link it came through; None for a foreign token.

    Only what a person chose is taken back: a bounce, a spam report or a STOP stays. Own transaction.
    """
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.UNSUBSCRIBE, token)
        if visit is None:
            return None
        lifted = [
            lift(
                connection,
                channel=channel,
                address_key=key,
                contacts=[visit.contact],
                scope=scope,
                reason=Reason.UNSUBSCRIBED,
                source="unsubscribe page",
                at=store.clock.now(),
                said=said,
            )
            for channel, key in visit.keys.items()
            for scope in (visit.scope, SCOPE_ALL)
        ]
        if any(lifted):
            note(store, connection, visit.ref, ReceiptKind.OPTED_IN)
    return visit


def unsubscribe_address(store: Store, address: str, *, default_region: str) -> bool:
    """Opt out an address or number that somebody typed in, of everything but emergencies; False if it is neither.

    For those whose link no longer reads: an opt-out is never lost. Whether the address is known makes no
    difference, to what happens or to what is returned. Own transaction.
    """
    found = find_key(store.keyring, clean(address, 320), default_region)
    if found is None:
        return False
    channel, key = found
    with store.write() as connection:
        suppress(
            connection,
            channel=channel,
            address_key=key,
            contact=None,
            scope=SCOPE_ALL,
            reason=Reason.UNSUBSCRIBED,
            source="unsubscribe page, address typed in",
            at=store.clock.now(),
        )
    return True


def previous_answer(store: Store, visit: Visit) -> Answer | None:
    """Return what the visitor answered before, None if nothing."""
    ref = visit.ref
    with store.read() as connection:
        row = connection.execute(
            select(answers.c.score, answers.c.text).where(
                answers.c.run_id == ref.run_id, answers.c.step_no == ref.step_no, answers.c.seq == ref.seq
            )
        ).one_or_none()
    return None if row is None else Answer(score=row.score, text=row.text)


def takes_answers(visit: Visit, now: datetime) -> bool:
    """Whether the survey of a visitor's message is still open."""
    return visit.step.ask is not None and visit.is_open(visit.step.ask.open_for, now)


def answer_survey(store: Store, token: str, answer: Answer) -> Visit | None:
    """Keep a survey answer, in place of the visitor's earlier one; None if the token is not one of ours.

    Partial answers are kept: a score or text of None leaves what was, an empty text takes it back, and an answer that
    says nothing, or comes too late, changes nothing. Own transaction. ValueError for a score outside the step's scale.
    """
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.SURVEY, token)
        if visit is None or visit.step.ask is None:
            return None
        if not takes_answers(visit, store.clock.now()):
            return visit
        low, high = SCALES[visit.step.ask.scale]
        if answer.score is not None and not low <= answer.score <= high:
            raise ValueError(f"a score of this survey is between {low} and {high}")
        text = None if answer.text is None else clean(answer.text, MAX_TEXT).strip()
        if answer.score is None and not text:
            return visit
        said: dict[str, int | str | None] = {} if answer.score is None else {"score": answer.score}
        if text is not None:
            said["text"] = text or None
        ref, now = visit.ref, store.clock.now()
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        connection.execute(
            insert(answers)
            .values(run_id=ref.run_id, step_no=ref.step_no, seq=ref.seq, at=now, changed_at=now, **said)
            .on_conflict_do_update(
                index_elements=[answers.c.run_id, answers.c.step_no, answers.c.seq],
                set_={**said, "changed_at": now},
            )
        )
        note(store, connection, ref, ReceiptKind.ANSWERED)
    return visit


def note(store: Store, connection: Connection, ref: MessageRef, kind: ReceiptKind) -> None:
    """Record what was done on a page as a fact about the message; a question is answered once, however often."""
    now = store.clock.now()
    occasion = "" if kind is ReceiptKind.ANSWERED else now.isoformat()
    key = natural_key("page", kind, str(ref.run_id), str(ref.step_no), str(ref.seq), occasion)
    receipt = Receipt(key=key, source="page", kind=kind, at=now)
    ledger.apply(connection, [Fact(receipt=receipt, ref=ref, at=now, received_at=now)], now=now)
