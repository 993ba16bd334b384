"""Rendering a run: every step for everybody, frozen before the first message goes out.

Only composes: who may be written to is consent's rule, the text is content's, the rows are the ledger's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, select

from commplan import consent, suppression
from commplan.audience.planning import Planning
from commplan.consent import Contact
from commplan.content import Library, TemplateFault
from commplan.errors import Finding, InputError, RunError
from commplan.fence import allowed_addresses
from commplan.ids import AddressKey, MessageRef, TokenPurpose
from commplan.ledger.enqueue import Draft, Enqueuer
from commplan.ledger.run import Run, frozen_files, plan_of
from commplan.ledger.schedule import due_in, zones_of
from commplan.plan import Plan, Touch
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import recipients
from commplan.suppression import Listed
from commplan.terms import Channel, Reason

_CHUNK = 1_000


def render_run(store: Store, settings: Settings, run: Run, *, progress: Callable[[int], None] | None = None) -> int:
    """Write every message of a run to the ledger with its frozen content; return the number of people.

    Starts from nothing each time, so an interrupted rendering is simply done again. InputError lists each fault of
    the templates with the number of people it hits. RunError unless the people are those of one complete audience
    that was this run's throughout.
    """
    with store.read() as connection:
        planning, audience_size = Planning.of_complete(connection, run.run_id)
        plan = plan_of(connection, run.run_id)
        files = frozen_files(connection, run.run_id)
    allowed = allowed_addresses(store, plan, settings)
    renderer = _Renderer(
        store, settings, run, plan=plan, library=Library(plan, files, run.placeholder), allowed=allowed
    )
    enqueuer = Enqueuer(store, run.run_id)
    enqueuer.clear()
    people = 0
    for chunk in _people(store, run):
        drafts = renderer.draft(chunk)
        if not renderer.faults:
            enqueuer.write(drafts)
        people += len(chunk)
        with store.write() as connection:
            planning.hold(connection)
        if progress is not None:
            progress(len(chunk))
    if renderer.faults:
        enqueuer.clear()
        raise InputError(
            [
                replace(fault, rule=f"{fault.rule} ({hit:,} of {people:,} people)")
                for fault, hit in sorted(renderer.faults.items(), key=lambda item: item[0].place)
            ]
        )
    if people != audience_size:
        raise RunError(
            f"the audience of this run was counted as {audience_size:,} people, and {people:,} are there; "
            "start the run again"
        )
    enqueuer.finish()
    with store.write() as connection:
        planning.hold(connection)
    return people


def _people(store: Store, run: Run) -> Iterator[Sequence[Row[Any]]]:
    last = 0
    while True:
        with store.read() as connection:
            chunk = connection.execute(
                select(recipients)
                .where(recipients.c.run_id == run.run_id, recipients.c.seq > last)
                .order_by(recipients.c.seq)
                .limit(_CHUNK)
            ).all()
        if not chunk:
            return
        last = chunk[-1].seq
        yield chunk


class _Renderer:
    def __init__(
        self,
        store: Store,
        settings: Settings,
        run: Run,
        *,
        plan: Plan,
        library: Library,
        allowed: frozenset[AddressKey] | None,
    ) -> None:
        self._store = store
        self._public = settings.public_url
        self._run = run
        self._plan = plan
        self._library = library
        self._allowed = allowed
        self._begins = store.clock.now()
        self._touches: dict[tuple[int, str | None], Touch] = {}
        self.faults: Counter[Finding] = Counter()

    def draft(self, people: Sequence[Row[Any]]) -> list[Draft]:
        """Return the drafts of every step for a chunk of people."""
        listed = self._listed(people)
        columns = [json.loads(person.columns) for person in people]
        drafts = []
        for step_no in range(1, len(self._plan.sequence) + 1):
            refs = [MessageRef(self._run.run_id, step_no, person.seq) for person in people]
            stops = self._store.keyring.tokens(TokenPurpose.UNSUBSCRIBE, refs)
            surveys = self._store.keyring.tokens(TokenPurpose.SURVEY, refs)
            for person, values, stop, survey in zip(people, columns, stops, surveys, strict=True):
                links = {"unsubscribe": f"{self._public}/u/{stop}", "survey": f"{self._public}/s/{survey}"}
                draft = self._draft_one(step_no, person, values, links, listed)
                if draft is not None:
                    drafts.append(draft)
        return drafts

    def _touch(self, step_no: int, segment: str | None) -> Touch:
        found = self._touches.get((step_no, segment))
        if found is None:
            found = self._touches[step_no, segment] = self._plan.touch(step_no, segment)
        return found

    def _draft_one(
        self,
        step_no: int,
        person: Row[Any],
        columns: Mapping[str, object],
        links: Mapping[str, str],
        listed: Listed,
    ) -> Draft | None:
        touch = self._touch(step_no, person.segment)
        reason = self._exclusion(touch, person, listed)
        if reason is not None:
            return Draft(step_no=step_no, seq=person.seq, channel=touch.channel, reason=reason)
        try:
            rendered = self._library.render(
                touch,
                locale=person.locale,
                columns=columns,
                contact={"id": person.contact_id, "locale": person.locale, "segment": person.segment},
                links=links,
            )
        except TemplateFault as fault:
            self.faults[fault.finding] += 1
            return None
        due = late = None
        if self._plan.follows(step_no) is None:
            zones = zones_of(person.zone, person.country, self._plan.zone)
            due, late = due_in(touch, self._begins, zones, self._plan.sequence[step_no - 1].not_after)
        return Draft(
            step_no=step_no,
            seq=person.seq,
            channel=touch.channel,
            address_key=address_key_of(person, touch.channel),
            due_at=due,
            not_after=late,
            skeleton=rendered.skeleton,
            values=rendered.values,
            parts=rendered.parts,
        )

    def _exclusion(self, touch: Touch, person: Row[Any], listed: Listed) -> Reason | None:
        if person.excluded is not None:
            return Reason(person.excluded)
        if touch.skip:
            return Reason.SKIPPED_SEGMENT
        email = touch.channel is Channel.EMAIL
        bad = person.email_reason if email else person.phone_reason
        if bad is not None:
            return Reason(bad)
        key = address_key_of(person, touch.channel)
        reason = consent.exclusion(
            purpose=self._plan.purpose,
            topic=self._plan.topic,
            channel=touch.channel,
            consent=person.email_consent if email else person.sms_consent,
            basis=self._plan.basis,
            suppressions=listed.of(touch.channel, key, Contact(people=person.people, contact_id=person.contact_id)),
        )
        if reason is not None:
            return reason
        if self._allowed is not None and key not in self._allowed:
            return Reason.NOT_ON_ALLOW_LIST
        return None

    def _listed(self, people: Sequence[Row[Any]]) -> Listed:
        keys = {key for person in people for key in (person.email_key, person.phone_key) if key is not None}
        contacts = {Contact(people=person.people, contact_id=person.contact_id) for person in people}
        with self._store.read() as connection:
            return suppression.look_up(connection, address_keys=keys, contacts=contacts)


def address_key_of(person: Row[Any], channel: Channel) -> AddressKey:
    """Return the key of a recipient's address on a channel; the recipient has one."""
    return AddressKey(person.email_key if channel is Channel.EMAIL else person.phone_key)
