"""Resolving an audience: everyone the source returns, as rows of the run's snapshot.

Drops nobody silently: who cannot become a row is counted by reason and listed in the rejects file.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, delete, func, select, text

from commplan import segment
from commplan.audience.enrolment import enrol, release
from commplan.audience.person import Person, Reader
from commplan.audience.planning import Planning, lost
from commplan.audience.source import Source
from commplan.audience.statement import Statement
from commplan.errors import InputError, RunError
from commplan.ids import RunId
from commplan.plan import Audience, Plan
from commplan.store import Store
from commplan.store.bulk import insert_rows
from commplan.store.tables import recipients
from commplan.terms import Channel, Reason

#: Recipients removed in one transaction.
_SWEEP = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What became of the source's rows; ids and counts only.

    `returned` rows are `audience` people plus the `rejected` rows, by reason (``no_id``, ``repeated_id``).
    `unreachable` counts people per reason why a channel has no address; `unread` counts values that were left empty
    because they could not be understood, by column of `audience.contact`; `excluded` counts people who are left out
    of every step. `segments` counts people by segment, None being those in no segment.
    """

    returned: int
    audience: int
    rejected: Mapping[str, int]
    unreachable: Mapping[Reason, int]
    unread: Mapping[str, int]
    excluded: Mapping[Reason, int]
    segments: Mapping[str | None, int]


class SourceRow(NamedTuple):
    """A row of the source: its number from 1, its segment, and its columns."""

    number: int
    segment: str | None
    values: Sequence[Any]

    def __repr__(self) -> str:
        return f"SourceRow(number={self.number})"


#: What `Person` and the table of recipients have in common.
_PERSON = (
    "contact_id",
    "email",
    "email_key",
    "email_reason",
    "phone",
    "phone_key",
    "phone_reason",
    "country",
    "locale",
    "zone",
    "email_consent",
    "sms_consent",
)
_of_person = attrgetter(*_PERSON)
_COLUMNS = ("run_id", "seq", "people", "segment", "columns", *_PERSON)


def open_source(plan: Plan, source_url: str, *, field: str | None = None) -> Source:
    """Open the database a plan's people come from; `field` is where its query is, None: the audience's own."""
    source = plan.audience.source
    own = "audience.source.contacts" if source.sql is None else "audience.source.sql"
    return Source(
        source_url,
        timeout=source.timeout,
        row_limit=source.row_limit,
        zone=source.zone,
        place=plan.plan,
        field=field or own,
    )


def query(audience: Audience) -> str:
    """Return the SELECT that an audience is: its own, or all of the imported contacts."""
    source = audience.source
    return source.sql if source.sql is not None else f'SELECT * FROM "{source.contacts}"'


def columns_of(source: Source, statement: Statement, *, since: datetime | None) -> tuple[str, ...]:
    """Return the columns that the audience's query returns; InputError if one has a name that we need ourselves."""
    columns = source.columns(statement, since=since)
    if segment.SEGMENT_COLUMN in columns:
        raise source.wrong(
            f"the query returns a column {segment.SEGMENT_COLUMN}", "rename it with AS", word=segment.SEGMENT_COLUMN
        )
    return columns


def with_segment(audience: Audience, columns: Sequence[str], source: Source) -> str:
    """Return what to select from the audience's query: every column, then the segment. InputError for a bad segment."""
    expression = segment.compile(audience, columns=source.spelt(columns), dialect=source.dialect)
    return f"s.*, {expression or 'NULL'} AS {segment.SEGMENT_COLUMN}".replace(":", "\\:")


def read(
    store: Store, source: Source, plan: Plan, *, since: datetime | None, default_region: str
) -> Generator[tuple[Reader, list[SourceRow]], None, None]:
    """Yield the reader of the source's rows with each chunk of them; the reader knows the query's columns."""
    statement = source.statement(query(plan.audience))
    columns = columns_of(source, statement, since=since)
    reader = Reader(
        columns, plan.audience.contact, default_region=default_region, keyring=store.keyring, place=source.place
    )
    select = with_segment(plan.audience, columns, source)
    number = 0
    with closing(source.stream(statement, select=select, since=since)) as chunks:
        for chunk in chunks:
            yield reader, [SourceRow(number + at, row[-1], row[:-1]) for at, row in enumerate(chunk, 1)]
            number += len(chunk)


def rejects_path(home: Path, run_key: str) -> Path:
    """Return the file that lists who of a run's source could not be used."""
    return home / "rejects" / f"{quote(run_key, safe='@+=:')}.csv"


def resolve(
    store: Store,
    *,
    run_id: RunId,
    plan: Plan,
    since: datetime | None,
    source_url: str,
    default_region: str,
    now: datetime,
    home: Path,
    run_key: str,
    progress: Callable[[int], None] | None = None,
) -> Resolution:
    """Write the run's snapshot: one recipient per person, numbered from 1 in the source's order, then enrolment.

    Writes in short transactions, memory stays flat, and `progress` is told the rows read so far. What an earlier
    attempt of the same run left is removed first; after an error nothing of this one stays. Rows that are nobody, and
    people who can be reached on no channel, are listed in ``rejects/<run key>.csv`` under `home` (mode 0600; ids and
    reasons, no addresses). Raises InputError for a query, a segment or a source that cannot be used.

    One process at a time resolves the audiences of one plan; whoever begins takes over from one that is stalled.
    RunError, with nothing more written and nothing of the other's removed, for who was taken over from; and when the
    run already has messages.
    """
    with store.write() as connection:
        planning = Planning.begin(connection, run_id)
        release(connection, run_id)
    tally = _Tally(run_id, plan)
    try:
        _clear(store, planning)
        with (
            open_source(plan, source_url) as source,
            closing(read(store, source, plan, since=since, default_region=default_region)) as chunks,
            _rejects_file(rejects_path(home, run_key), sandbox=store.is_sandbox) as reject,
        ):
            for reader, chunk in chunks:
                with store.write() as connection:
                    planning.hold(connection)
                    rows = tally.recipients(connection, reader, chunk, reject)
                    insert_rows(connection, recipients, _COLUMNS, rows)
                if progress is not None:
                    progress(tally.returned)
        enrol(store, planning=planning, plan=plan, people=tally.audience, now=now)
        with store.write() as connection:
            planning.complete(connection, size=tally.audience, since=since, at=now)
    except BaseException as error:
        if not _undo(store, planning) and isinstance(error, InputError):
            # Whoever hears of an unusable audience discards the run, and it is another process's now.
            raise lost() from None
        raise
    return tally.resolution(store)


def _undo(store: Store, planning: Planning) -> bool:
    """Remove what this planning has written; False, and nothing removed, if another process has taken over."""
    try:
        with store.write() as connection:
            planning.hold(connection)
            release(connection, planning.run_id)
        _clear(store, planning)
    except RunError:
        return False
    return True


def _clear(store: Store, planning: Planning) -> None:
    of_run = recipients.c.run_id == planning.run_id
    with store.read() as connection:
        last = connection.execute(select(func.max(recipients.c.seq)).where(of_run)).scalar_one_or_none()
    for first in range(1, (last or 0) + 1, _SWEEP):
        with store.write() as connection:
            planning.hold(connection)
            connection.execute(delete(recipients).where(of_run, recipients.c.seq.between(first, first + _SWEEP - 1)))


def known(connection: Connection, run_id: RunId, contact_ids: Sequence[str], *columns: Any) -> Sequence[Any]:
    """Return the rows of a run's recipients with these ids: `contact_id` and the columns asked for."""
    if connection.dialect.name == "postgresql":
        chosen = text("SELECT unnest(CAST(:ids AS text[]))").bindparams(ids=list(contact_ids))
    else:
        chosen = text("SELECT value FROM json_each(:ids)").bindparams(ids=json.dumps(list(contact_ids)))
    statement = select(recipients.c.contact_id, *columns).where(
        recipients.c.run_id == run_id, recipients.c.contact_id.in_(chosen)
    )
    return connection.execute(statement).all()


@contextmanager
def _rejects_file(path: Path, *, sandbox: bool) -> Iterator[Callable[[int, str | None, str], None]]:
    """Open the list of who could not be used; yields what adds a line: row, id, reason."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        mark = ["SANDBOX"] if sandbox else []
        writer.writerow(["row", "contact id", "reason", *mark])
        yield lambda number, contact_id, reason: writer.writerow([number, contact_id or "", reason, *mark])


class _Tally:
    """Turns chunks of rows into recipients, and counts what becomes of every row."""

    def __init__(self, run_id: RunId, plan: Plan) -> None:
        self._run_id = run_id
        self._people = plan.audience.people
        self._channels = plan.channels
        self.returned = 0
        self.audience = 0
        self._rejected: Counter[str] = Counter()
        self._unreachable: Counter[Reason] = Counter()
        self._unread: Counter[str] = Counter()
        self._segments: Counter[str | None] = Counter()

    def recipients(
        self,
        connection: Connection,
        reader: Reader,
        chunk: Sequence[SourceRow],
        reject: Callable[[int, str | None, str], None],
    ) -> list[tuple[object, ...]]:
        """Return the recipients to insert, numbered on from those before; ids seen in any chunk are rejected."""
        ids = [reader.contact_id(row.values) for row in chunk]
        seen = {row.contact_id for row in known(connection, self._run_id, [i for i in ids if i is not None])}
        rows: list[tuple[object, ...]] = []
        for row, contact_id in zip(chunk, ids, strict=True):
            self.returned += 1
            if contact_id is None or contact_id in seen:
                reason = "no_id" if contact_id is None else "repeated_id"
                self._rejected[reason] += 1
                reject(row.number, contact_id, reason)
                continue
            seen.add(contact_id)
            self.audience += 1
            person = reader.read(row.values, contact_id)
            self._count(person, row, reject)
            rows.append(
                (
                    self._run_id,
                    self.audience,
                    self._people,
                    row.segment,
                    reader.as_json(row.values),
                    *_of_person(person),
                )
            )
        return rows

    def _count(self, person: Person, row: SourceRow, reject: Callable[[int, str | None, str], None]) -> None:
        self._segments[row.segment] += 1
        if person.unread:
            self._unread.update(person.unread)
        reasons = [person.email_reason] if Channel.EMAIL in self._channels else []
        reasons += [person.phone_reason] if Channel.SMS in self._channels else []
        missing = [reason for reason in reasons if reason is not None]
        if missing:
            self._unreachable.update(missing)
        if len(missing) == len(reasons):
            reject(row.number, person.contact_id, " ".join(missing))

    def resolution(self, store: Store) -> Resolution:
        """Return the counts, those of enrolment read back from the store."""
        with store.read() as connection:
            excluded = connection.execute(
                select(recipients.c.excluded, func.count())
                .where(recipients.c.run_id == self._run_id, recipients.c.excluded.is_not(None))
                .group_by(recipients.c.excluded)
            ).all()
        return Resolution(
            returned=self.returned,
            audience=self.audience,
            rejected=dict(self._rejected),
            unreachable=dict(self._unreachable),
            unread=dict(self._unread),
            excluded={Reason(reason): count for reason, count in excluded},
            segments=dict(self._segments),
        )
