"""Rendering people: what each of them gets in every step, or why they get nothing.

Only composes: who may be written to is consent's rule, the text is content's. Writes nothing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Row, select

from commplan import consent, suppression
from commplan.consent import Contact
from commplan.content import Library, TemplateFault
from commplan.content import Rendered as Message
from commplan.errors import Finding
from commplan.fence import allowed_addresses
from commplan.ids import AddressKey, LinkRef, MessageRef, TokenPurpose
from commplan.ledger.enqueue import Draft, Header
from commplan.ledger.run import Run, frozen_files, plan_of
from commplan.ledger.schedule import due_in, zones_of
from commplan.plan import Touch
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import recipients
from commplan.suppression import Listed
from commplan.terms import Channel, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The drafts of a range of people, and the faults of the templates by the number of messages they hit."""

    people: int
    drafts: Sequence[Draft]
    faults: Counter[Finding]


#: The pages a message may link to: their names in templates, their paths, and what their tokens are for.
_PAGES = (
    ("unsubscribe", "u", TokenPurpose.UNSUBSCRIBE),
    ("preferences", "p", TokenPurpose.PREFERENCES),
    ("stranger", "w", TokenPurpose.STRANGER),
    ("survey", "s", TokenPurpose.SURVEY),
    ("rsvp", "r", TokenPurpose.RSVP),
)


_PRINTED = re.compile(r"\blinks\.(\w+)")
_AT_LARGE = re.compile(r"\blinks\b(?!\.\w)")


def _printed(files: Mapping[str, str]) -> list[tuple[str, str, TokenPurpose]]:
    """Return the pages that templates may link to, the others need no tokens; an opt-out is looked for in any case."""
    texts = [text for file, text in files.items() if file.endswith(".j2")]
    names = {"unsubscribe"}.union(*(_PRINTED.findall(text) for text in texts))
    if any(_AT_LARGE.search(text) for text in texts):
        return list(_PAGES)
    return [page for page in _PAGES if page[0] in names]


class _Occasion(NamedTuple):
    """What is alike for everybody of one segment in one place: what they get in a step, from when, and until when."""

    touch: Touch
    header: Header


class Renderer:
    """Renders the people of one run; used by one thread at a time.

    `settings` has the public address the run was started with; what is due at once is due at `begins`.
    """

    def __init__(self, store: Store, settings: Settings, run: Run, *, begins: datetime) -> None:
        with store.read() as connection:
            self._plan = plan_of(connection, run.run_id)
            files = frozen_files(connection, run.run_id)
        self._store = store
        self._public = settings.public_url
        self._run = run
        self._pages = _printed(files)
        self._short = f"{settings.public_url}/l/"
        self._library = Library(self._plan, files, run.placeholder, links=self._short)
        self._allowed = allowed_addresses(store, self._plan, settings)
        self._begins = begins
        self._occasions: dict[tuple[int, str | None, str | None, str | None], _Occasion] = {}
        self._faults: Counter[Finding] = Counter()

    def render(self, first: int, last: int) -> Rendered:
        """Return every step's draft for the people from position `first` to `last` of the snapshot."""
        with self._store.read() as connection:
            people = connection.execute(
                select(recipients)
                .where(recipients.c.run_id == self._run.run_id, recipients.c.seq.between(first, last))
                .order_by(recipients.c.seq)
            ).all()
            now = self._store.clock.now()
            listed = suppression.of_recipients(connection, self._run.run_id, first, last, now=now)
        self._faults = Counter()
        return Rendered(people=len(people), drafts=self._drafts(people, listed), faults=self._faults)

    def _drafts(self, people: Sequence[Row[Any]], listed: Listed) -> list[Draft]:
        columns = [json.loads(person.columns) for person in people]
        drafts: list[Draft] = []
        linked: list[tuple[int, Message]] = []
        for step_no in range(1, len(self._plan.sequence) + 1):
            refs = [MessageRef(self._run.run_id, step_no, person.seq) for person in people]
            invites = self._plan.sequence[step_no - 1].rsvp is not None
            pages = [page for page in self._pages if invites or page[2] is not TokenPurpose.RSVP]
            tokens = (self._store.keyring.tokens(purpose, refs) for _, _, purpose in pages)
            for person, values, *own in zip(people, columns, *tokens, strict=True):
                links = {
                    name: f"{self._public}/{path}/{token}" for (name, path, _), token in zip(pages, own, strict=True)
                }
                draft, message = self._draft_one(step_no, person, values, links, listed)
                if draft is None:
                    continue
                if message is not None and message.links:
                    linked.append((len(drafts), message))
                drafts.append(draft)
        self._sign(drafts, linked)
        return drafts

    def _sign(self, drafts: list[Draft], linked: Sequence[tuple[int, Message]]) -> None:
        """Put each message's own tokens into its counted links."""
        refs = [
            LinkRef(MessageRef(self._run.run_id, drafts[at].header.step_no, drafts[at].seq), number)
            for at, message in linked
            for number in range(len(message.links))
        ]
        tokens = iter(self._store.keyring.links(refs) if refs else ())
        for at, message in linked:
            values = list(message.values)
            for link in message.links:
                values[link.place] = self._short + next(tokens)
            targets = [link.target for link in message.links]
            drafts[at] = drafts[at]._replace(
                values=orjson.dumps(values).decode(), targets=orjson.dumps(targets).decode()
            )

    def _draft_one(
        self,
        step_no: int,
        person: Row[Any],
        columns: Mapping[str, object],
        links: Mapping[str, str],
        listed: Listed,
    ) -> tuple[Draft | None, Message | None]:
        """Return what is to be written of one person's step, and the message in it; no draft if it is at fault."""
        occasion = self._occasion(step_no, person.segment, person.zone, person.country)
        touch = occasion.touch
        key = person.email_key if touch.channel is Channel.EMAIL else person.phone_key
        reason = self._exclusion(touch, person, key, listed)
        if reason is not None:
            return Draft(header=occasion.header, seq=person.seq, reason=reason), None
        try:
            message = self._library.render(
                touch,
                locale=person.locale,
                columns=columns,
                contact={"id": person.contact_id, "locale": person.locale, "segment": person.segment},
                links=links,
            )
        except TemplateFault as fault:
            self._faults[fault.finding] += 1
            return None, None
        draft = Draft(
            header=occasion.header,
            seq=person.seq,
            address_key=AddressKey(key),
            skeleton=message.skeleton,
            values=orjson.dumps(message.values).decode(),
            parts=message.parts,
        )
        return draft, message

    def _occasion(self, step_no: int, segment: str | None, zone: str | None, country: str | None) -> _Occasion:
        found = self._occasions.get((step_no, segment, zone, country))
        if found is None:
            touch = self._plan.touch(step_no, segment)
            due = late = None
            if self._plan.follows(step_no) is None:
                lateness = self._plan.sequence[step_no - 1].lateness
                due, late = due_in(touch, self._begins, zones_of(zone, country, self._plan.zone), lateness)
            found = _Occasion(touch, Header(step_no, touch.channel, due_at=due, not_after=late))
            self._occasions[step_no, segment, zone, country] = found
        return found

    def _exclusion(self, touch: Touch, person: Row[Any], key: str | None, listed: Listed) -> Reason | None:
        if person.excluded is not None:
            return Reason(person.excluded)
        if touch.skip:
            return Reason.SKIPPED_SEGMENT
        email = touch.channel is Channel.EMAIL
        bad = person.email_reason if email else person.phone_reason
        if bad is not None or key is None:
            return Reason(bad)
        contact = Contact(people=person.people, contact_id=person.contact_id) if listed else None
        reason = consent.exclusion(
            purpose=self._plan.purpose,
            topic=self._plan.topic,
            care=self._plan.care,
            channel=touch.channel,
            consent=person.email_consent if email else person.sms_consent,
            basis=self._plan.basis,
            suppressions=listed.of(touch.channel, AddressKey(key), contact) if listed else (),
        )
        if reason is not None:
            return reason
        if self._allowed is not None and key not in self._allowed:
            return Reason.NOT_ON_ALLOW_LIST
        return None
