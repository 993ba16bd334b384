"""Asking the source again about a run's own people: who has left, whose address or consent has changed.

Never adds a person, and never changes what was frozen: seq, segment, language, and the columns that texts are made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select, update

from commplan.audience.person import Person
from commplan.audience.snapshot import known, open_source, read
from commplan.errors import InputError
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import recipients

#: What a refresh may change of a recipient.
FIELDS = (
    "email",
    "email_key",
    "email_reason",
    "phone",
    "phone_key",
    "phone_reason",
    "country",
    "email_consent",
    "sms_consent",
)
#: Fewer people than this may always leave at once.
FEW = 5
_SWEEP = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh found: people of the run still there, gone since, back again, and with something changed."""

    present: int
    left: int
    returned: int
    changed: int


def refresh(
    store: Store,
    *,
    run_id: RunId,
    plan: Plan,
    since: datetime | None,
    source_url: str,
    default_region: str,
    now: datetime,
    max_leaving: float = 0.2,
) -> Refreshed:
    """Run the audience's query again, with the `since` of the snapshot, and bring the run's recipients up to date.

    Who is gone gets `left_at` = `now`, who is back loses it, who has another address, number or consent gets the new
    one (also a bad one: then the reason is set and the address is None). Short transactions of its own; if the source
    cannot be read to its end, or lacks more than the share `max_leaving` of those who were still there (and at least
    `FEW`), an InputError is raised and nobody is marked as gone: a database that is being reloaded looks like that,
    and a message that is cancelled because somebody left is cancelled for good.
    """
    with store.read() as connection:
        last = connection.execute(
            select(func.max(recipients.c.seq)).where(recipients.c.run_id == run_id)
        ).scalar_one_or_none()
    here = bytearray((last or 0) + 1)
    changed = 0
    with (
        open_source(plan, source_url) as source,
        closing(read(store, source, plan, since=since, default_region=default_region)) as chunks,
    ):
        for reader, chunk in chunks:
            people: dict[str, Sequence[Any]] = {}
            for row in chunk:
                contact_id = reader.contact_id(row.values)
                if contact_id is not None:
                    people.setdefault(contact_id, row.values)
            with store.read() as connection:
                rows = known(connection, run_id, list(people), recipients.c.seq, *(recipients.c[f] for f in FIELDS))
            changes = []
            for row in rows:
                if not here[row.seq]:
                    here[row.seq] = 1
                    person = reader.read(people[row.contact_id], row.contact_id)
                    changes += _changes(row, person)
            changed += len(changes)
            if changes:
                with store.write() as connection:
                    _apply(connection, run_id, changes)
    _refuse_exodus(store, plan, run_id, here, max_leaving=max_leaving)
    left, returned = _mark(store, run_id, here, now=now)
    return Refreshed(present=sum(here), left=left, returned=returned, changed=changed)


def _changes(row: Any, person: Person) -> list[Mapping[str, object]]:
    new = {field: getattr(person, field) for field in FIELDS}
    if all(getattr(row, field) == value for field, value in new.items()):
        return []
    return [{"at_seq": row.seq, **new}]


def _apply(connection: Connection, run_id: RunId, changes: Sequence[Mapping[str, object]]) -> None:
    connection.execute(
        update(recipients)
        .where(recipients.c.run_id == run_id, recipients.c.seq == bindparam("at_seq"))
        .values({field: bindparam(field) for field in FIELDS}),
        list(changes),
    )


def _refuse_exodus(store: Store, plan: Plan, run_id: RunId, here: bytearray, *, max_leaving: float) -> None:
    of_run = and_(recipients.c.run_id == run_id, recipients.c.left_at.is_(None))
    there = missing = 0
    with store.read() as connection:
        for row in connection.execution_options(yield_per=_SWEEP).execute(select(recipients.c.seq).where(of_run)):
            there += 1
            missing += not here[row.seq]
    nobody = there > 0 and not any(here)
    if nobody or (missing >= FEW and missing > max_leaving * there):
        raise InputError.one(
            plan.plan,
            f"the query lacks {missing:,} of the {there:,} people of this run who were still there",
            "see whether the database is being reloaded; if they have really left, raise COMMPLAN_MAX_LEAVING",
            "audience.source.sql",
        )


def _mark(store: Store, run_id: RunId, here: bytearray, *, now: datetime) -> tuple[int, int]:
    """Set and clear `left_at` by what was seen; return how many left and how many came back."""
    left = returned = 0
    for first in range(1, len(here), _SWEEP):
        with store.write() as connection:
            rows = connection.execute(
                select(recipients.c.seq, recipients.c.left_at).where(
                    recipients.c.run_id == run_id, recipients.c.seq.between(first, first + _SWEEP - 1)
                )
            ).all()
            gone = [row.seq for row in rows if row.left_at is None and not here[row.seq]]
            back = [row.seq for row in rows if row.left_at is not None and here[row.seq]]
            for seqs, value in ((gone, now), (back, None)):
                if seqs:
                    connection.execute(
                        update(recipients)
                        .where(recipients.c.run_id == run_id, recipients.c.seq == bindparam("at_seq"))
                        .values(left_at=value),
                        [{"at_seq": seq} for seq in seqs],
                    )
        left += len(gone)
        returned += len(back)
    return left, returned
