"""What the ledger holds about one person in one run: what was decided, sent, heard, and by which rule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import time
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, or_, select

from commplan import consent
from commplan.audience.evidence import Evidence, read_evidence
from commplan.clock import Clock
from commplan.consent import Contact, Suppression
from commplan.content import fill
from commplan.explain.explanation import RULES, Decision, Message, Part
from commplan.ids import MessageRef, RunId, TokenPurpose
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import zones_of
from commplan.plan import Plan, Touch
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import (
    answers,
    attempts,
    batches,
    conversions,
    enrolments,
    message_values,
    messages,
    receipts,
    replies,
    rsvps,
    skeletons,
)
from commplan.suppression import active
from commplan.terms import Channel, MessageState, Reason

_YES_NO = {True: "yes", False: "no", None: "nothing on record"}
_RESPONSES = ("opened_at", "clicked_at", "replied_at", "answered_at", "opted_out_at", "complained_at")


class Teller:
    """Tells what one store holds about people, in one read."""

    def __init__(self, connection: Connection, store: Store, settings: Settings) -> None:
        self._connection = connection
        self._store = store
        self._public = settings.public_url

    def part(self, row: Row[Any]) -> Part:
        """Return the person of a recipient's row in its run."""
        plan = plan_of(self._connection, RunId(row.run_id))
        rows = self._connection.execute(
            select(messages)
            .where(messages.c.run_id == row.run_id, messages.c.seq == row.seq)
            .order_by(messages.c.step_no)
        ).all()
        return Part(
            run_key=row.run_key,
            state=row.run_state,
            people=row.people,
            contact_id=row.contact_id,
            addresses=tuple(filter(None, (row.email, row.phone))),
            decisions=tuple(self._of_run(plan, row)),
            messages=tuple(self._message(plan, row, message) for message in rows),
        )

    def _of_run(self, plan: Plan, row: Row[Any]) -> Iterator[Decision]:
        audience, at = plan.audience, row.snapshot_at
        yield Decision(at=at, what="found in the audience", rule="audience.source")
        rule = next((f"if: {each.condition}" for each in audience.segments if each.name == row.segment), "")
        segment = f"segment {row.segment}" if row.segment else "in no segment"
        yield Decision(at=at, what=segment, rule=rule or "audience.segments: nothing else matched")
        for channel, found, record in (
            (Channel.EMAIL, row.email_consent, audience.contact.consent.email),
            (Channel.SMS, row.sms_consent, audience.contact.consent.sms),
        ):
            need = consent.needs(plan.purpose, channel, plan.basis)
            told = "" if record is None else _evidence(read_evidence(record, json.loads(row.columns), plan.zone), found)
            source = f"column {record.given}" if record is not None else "no column of the source says it"
            what = f"consent to {channel}: {_YES_NO[found]}{told} ({source})"
            yield Decision(at=at, what=what, rule=f"a {plan.purpose} message by {channel} needs {need.value}")
        place = self._connection.execute(
            select(enrolments).where(
                enrolments.c.plan == row.plan,
                enrolments.c.people == row.people,
                enrolments.c.contact_id == row.contact_id,
            )
        ).one_or_none()
        if place is not None:
            whose = "this run" if place.run_id == row.run_id else "another run"
            what = f"place in the plan {place.state} for {whose}"
            yield Decision(at=place.at, what=what, rule=f"audience.enroll: {audience.enroll}")
        if row.excluded is not None:
            yield Decision(at=at, what="left out of the whole run", rule=RULES[Reason(row.excluded)])
        if row.left_at is not None:
            yield Decision(at=row.left_at, what="left the audience", rule=RULES[Reason.LEFT_AUDIENCE])
        for answer in self._connection.execute(
            select(rsvps).where(
                rsvps.c.plan == row.plan, rsvps.c.people == row.people, rsvps.c.contact_id == row.contact_id
            )
        ):
            what = f"answered the invitation to {answer.event}: {answer.answer}"
            yield Decision(at=answer.changed_at, what=what, rule=f"events.{answer.event}")
        for found in self._connection.execute(
            select(conversions).where(conversions.c.run_id == row.run_id, conversions.c.seq == row.seq)
        ):
            yield Decision(at=found.at, what=f"converted: {found.name}", rule=f"conversions.{found.name}")

    def _message(self, plan: Plan, row: Row[Any], message: Row[Any]) -> Message:
        touch = plan.touch(message.step_no, row.segment)
        happened = [*self._sending(message), *self._heard(message)]
        subject, text = self._text(message)
        return Message(
            step=touch.step,
            channel=Channel(message.channel),
            state=MessageState(message.state),
            decisions=(
                *self._planned(plan, touch, row, message),
                *sorted(happened, key=lambda one: one.at or row.snapshot_at),
                self._outcome(row, message),
            ),
            subject=subject,
            text=text,
            stop=self._stop(message),
        )

    def _planned(self, plan: Plan, touch: Touch, row: Row[Any], message: Row[Any]) -> Iterator[Decision]:
        zones = zones_of(row.zone, row.country, plan.zone)
        if touch.window is not None:
            known = "their own" if row.zone else f"{len(zones)} that they may be in" if len(zones) > 1 else "the plan's"
            where = f"{zones[0]}" + (" …" if len(zones) > 1 else "")
            yield Decision(at=None, what=f"may arrive {touch.window} in {where}", rule=f"window; zone: {known}")
        step = plan.sequence[message.step_no - 1]
        if step.when is not None:
            yield Decision(at=None, what=f"only if {step.when}", rule="when")
        if message.due_at is not None:
            waits = plan.follows(message.step_no)
            after = f"wait after {plan.sequence[waits - 1].step}" if waits is not None else "start of the run"
            yield Decision(at=message.due_at, what="due", rule=f"{after}, moved into the window")
        if message.not_after is not None:
            yield Decision(at=message.not_after, what="not to be sent after this", rule="not_after")

    def _sending(self, message: Row[Any]) -> Iterator[Decision]:
        clock: Clock = self._store.clock
        if message.batch_id is not None:
            batch = self._connection.execute(
                select(batches).where(batches.c.batch_id == message.batch_id)
            ).one_or_none()
            if batch is not None:
                what = f"in batch {batch.batch_id} with {batch.claimed - 1:,} others, by {batch.worker}"
                yield Decision(at=None, what=what, rule="claimed when due; last look passed before each request")
        mine = and_(
            receipts.c.run_id == message.run_id, receipts.c.step_no == message.step_no, receipts.c.seq == message.seq
        )
        told = select(receipts.c.attempt_id).where(mine)
        for row in self._connection.execute(
            select(attempts)
            .where(or_(attempts.c.attempt_id == message.attempt_id, attempts.c.attempt_id.in_(told)))
            .order_by(attempts.c.wire_machine)
        ):
            said = [f"status {row.status}" if row.status else "", f"code {row.code}" if row.code else ""]
            said.append(f"provider id {row.provider_id}" if row.provider_id else "")
            what = ", ".join(filter(None, [f"request {row.attempt_id}: {row.outcome}", *said]))
            closed = f"answered {clock.at(row.closed_machine):%H:%M:%S}" if row.closed_machine else "no answer"
            yield Decision(at=row.wire_at, what=what, rule=f"carried {row.messages:,} messages; {closed}")

    def _heard(self, message: Row[Any]) -> Iterator[Decision]:
        def mine(table: Any) -> ColumnElement[bool]:
            return and_(
                table.c.run_id == message.run_id, table.c.step_no == message.step_no, table.c.seq == message.seq
            )

        for row in self._connection.execute(select(receipts).where(mine(receipts)).order_by(receipts.c.at)):
            what = f"{row.provider} says {row.kind}" + (f", code {row.code}" if row.code else "")
            what += f" on the link {row.url_key}" if row.provider == "page" and row.url_key else ""
            what += f", by a machine ({row.machine_why})" if row.machine_why else ""
            yield Decision(at=row.at, what=what, rule=f"receipt, received {row.received_at:%Y-%m-%d %H:%M} UTC")
        for row in self._connection.execute(select(replies).where(mine(replies)).order_by(replies.c.at)):
            said = "replied" if row.auto_why is None else "a machine answered"
            signs = [
                f"by its {row.auto_why}" if row.auto_why else "",
                "inferred from the sender" if row.inferred else "",
            ]
            yield Decision(at=row.at, what=f"{said}: {row.text}", rule=", ".join(filter(None, ["reply", *signs])))
        for row in self._connection.execute(select(answers).where(mine(answers))):
            said = " ".join(filter(None, [None if row.score is None else str(row.score), row.text]))
            yield Decision(at=row.changed_at, what=f"answered: {said}", rule="ask")
        for name in _RESPONSES:
            at = getattr(message, name)
            if at is not None:
                yield Decision(at=at, what=f"counts as {name.removesuffix('_at').replace('_', ' ')}", rule="first told")

    def _outcome(self, row: Row[Any], message: Row[Any]) -> Decision:
        moments = {
            MessageState.ACCEPTED: message.accepted_at,
            MessageState.DELIVERED: message.delivered_at,
            MessageState.FAILED: message.failed_at,
            MessageState.EXCLUDED: row.snapshot_at,
        }
        rule = RULES[Reason(message.reason)] if message.reason else ""
        key = message.address_key or (row.email_key if message.channel == Channel.EMAIL else row.phone_key)
        if message.reason in consent.BLOCKS and key is not None:
            listed = active(
                self._connection,
                channel=Channel(message.channel),
                address_key=key,
                contact=Contact(people=row.people, contact_id=row.contact_id),
                now=self._store.clock.now(),
            )
            rule += _now(listed)
        return Decision(at=moments.get(MessageState(message.state)), what=f"is {message.state}", rule=rule)

    def _text(self, message: Row[Any]) -> tuple[str | None, str | None]:
        row = self._connection.execute(
            select(skeletons.c.subject, skeletons.c.text, skeletons.c.placeholders, message_values.c.slot_values)
            .join(message_values, message_values.c.run_id == skeletons.c.run_id)
            .where(
                skeletons.c.run_id == message.run_id,
                skeletons.c.skeleton_no == message.skeleton_no,
                message_values.c.step_no == message.step_no,
                message_values.c.seq == message.seq,
            )
        ).one_or_none()
        if row is None:
            return None, None
        placeholders, values = json.loads(row.placeholders), json.loads(row.slot_values)
        return fill(row.subject, placeholders, values) or None, fill(row.text, placeholders, values)

    def _stop(self, message: Row[Any]) -> str:
        if message.channel == Channel.SMS:
            return "a reply of STOP ends texts to the number"
        ref = MessageRef(RunId(message.run_id), message.step_no, message.seq)
        token = self._store.keyring.token(TokenPurpose.UNSUBSCRIBE, ref)
        return f"{self._public}/u/{token} is their unsubscribe page"


def _evidence(evidence: Evidence, found: bool | None) -> str:
    """Return where, when and to what the consent was given; only of the answer that still holds."""
    if evidence.given is not found:
        return f", changed since the snapshot, which had {_YES_NO[evidence.given]}"
    source = f" from {evidence.source}" if evidence.source is not None else ""
    at = ""
    if evidence.at is not None:
        is_day = evidence.at.time() == time()
        at = f" on {evidence.at:%Y-%m-%d}" if is_day else f" on {evidence.at:%Y-%m-%d %H:%M} {evidence.at.tzinfo}"
    elif evidence.unread is not None:
        at = f" at a time that cannot be read, {evidence.unread!r}"
    text = f": {evidence.text!r}" if evidence.text is not None else ""
    return f",{source}{at}{text}" if source or at or text else ""


def _now(listed: Sequence[Suppression]) -> str:
    return "; in force now: " + ", ".join(entry.reason for entry in listed) if listed else "; nothing in force now"
