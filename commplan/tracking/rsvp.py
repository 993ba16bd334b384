"""Answers to invitations: yes while there are places, no, maybe.

Never gives away more places than there are, whoever presses at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.ids import TokenPurpose
from commplan.plan import Event
from commplan.store import Store
from commplan.store.tables import rsvps
from commplan.terms import ReceiptKind, RsvpAnswer
from commplan.tracking.inbox import take_turn
from commplan.tracking.page import Visit, find, note


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What a visitor is invited to, what they answered, and how many may still say yes (None: as many as will)."""

    visit: Visit
    event: Event
    answer: RsvpAnswer | None
    left: int | None
    is_open: bool


def invitation(store: Store, token: str) -> Invitation | None:
    """Return what a link invites to, None for a token that is not ours or a message that does not invite."""
    with store.read() as connection:
        return _read(store, connection, token)


def answer_invitation(store: Store, token: str, answer: RsvpAnswer) -> Invitation | None:
    """Keep an answer in place of the person's earlier one, and return how things stand then; None as `invitation`.

    A yes when all places are taken is kept as waiting: nobody moves up by themselves, whoever finds a place free takes
    it. One answer for each person and event, through whichever message. Too late changes nothing. Own transaction.
    """
    with store.write() as connection:
        take_turn(connection)
        here = _read(store, connection, token)
        if here is None or not here.is_open:
            return here
        if answer in (RsvpAnswer.YES, RsvpAnswer.WAITING):
            has_place = here.answer is RsvpAnswer.YES or here.left is None or here.left > 0
            answer = RsvpAnswer.YES if has_place else RsvpAnswer.WAITING
        visit, now = here.visit, store.clock.now()
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        said = {"answer": answer, "run_id": visit.ref.run_id, "changed_at": now}
        connection.execute(
            insert(rsvps)
            .values(
                plan=visit.plan.plan,
                event=visit.step.rsvp,
                people=visit.contact.people,
                contact_id=visit.contact.contact_id,
                at=now,
                **said,
            )
            .on_conflict_do_update(index_elements=list(rsvps.primary_key), set_=said)
        )
        note(store, connection, visit.ref, ReceiptKind.ANSWERED)
        return _read(store, connection, token)


def _read(store: Store, connection: Connection, token: str) -> Invitation | None:
    visit = find(store, connection, TokenPurpose.RSVP, token)
    if visit is None or visit.step.rsvp is None:
        return None
    event, r = visit.plan.events[visit.step.rsvp], rsvps.c
    known = connection.execute(
        select(r.answer).where(
            _of_event(visit), r.people == visit.contact.people, r.contact_id == visit.contact.contact_id
        )
    ).scalar_one_or_none()
    left = None
    if event.places is not None:
        taken = connection.execute(
            select(func.count()).where(_of_event(visit), r.answer == RsvpAnswer.YES)
        ).scalar_one()
        left = max(0, event.places - taken)
    return Invitation(
        visit=visit,
        event=event,
        answer=None if known is None else RsvpAnswer(known),
        left=left,
        is_open=_is_open(visit, event, store.clock.now()),
    )


def _of_event(visit: Visit) -> ColumnElement[bool]:
    return and_(rsvps.c.plan == visit.plan.plan, rsvps.c.event == visit.step.rsvp)


def _is_open(visit: Visit, event: Event, now: datetime) -> bool:
    if event.closes is not None:
        midnight = datetime.combine(event.closes + timedelta(days=1), datetime.min.time(), tzinfo=visit.plan.zone)
        if now >= midnight:
            return False
    return visit.is_open(event.open_for, now)
