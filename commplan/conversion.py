"""Conversions: what a run's people did in the organisation's own systems, copied into the store at each gathering.

Never keeps anything about people outside the run, and never forgets that a gathering failed.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.audience.person import no_column, read_id
from commplan.audience.snapshot import known, open_source
from commplan.audience.source import Source, as_utc
from commplan.audience.statement import Statement
from commplan.errors import Finding, InputError
from commplan.ids import RunId
from commplan.plan import Conversion, Plan
from commplan.store import Store
from commplan.store.tables import conversions, gatherings, recipients, runs

_LOG = logging.getLogger("commplan.conversion")
_SWEEP = 20_000


def gather(store: Store, *, run_id: RunId, plan: Plan, source_url: str, now: datetime) -> dict[str, int]:
    """Copy every conversion of the run's people from the organisation's database; return how many, by name.

    Replaces what was gathered before: what the database no longer reports is removed, what it reports twice counts
    once, so gathering again changes nothing. Of gatherings that overlap, only the one that began last removes what the
    others have found. Each conversion leaves a row in `gatherings`, succeeded or not; all are
    tried, and an InputError with what went wrong is raised after that. Short transactions of its own.
    """
    findings: list[Finding] = []
    counts: dict[str, int] = {}
    for name in plan.conversions:
        try:
            counts[name] = _gather_one(store, run_id, plan, name, source_url=source_url)
        except InputError as error:
            findings += error.findings
        _note(store, run_id, name, now=now, succeeded=name in counts)
    _LOG.info("conversions gathered", extra={"run": run_id, "failed": len(plan.conversions) - len(counts), **counts})
    if findings:
        raise InputError(findings)
    return counts


def _gather_one(store: Store, run_id: RunId, plan: Plan, name: str, *, source_url: str) -> int:
    number = _begin(store, run_id)
    with (
        open_source(plan, source_url, field=f"conversions.{name}.sql") as source,
        closing(_read(source, plan, name)) as chunks,
    ):
        for chunk in chunks:
            with store.write() as connection:
                seqs = {row.contact_id: row.seq for row in known(connection, run_id, _ids(chunk), recipients.c.seq)}
                rows = [
                    {"run_id": run_id, "name": name, "seq": seqs[contact_id], "at": at, "gathering": number}
                    for contact_id, at in chunk
                    if contact_id in seqs
                ]
                if rows:
                    _keep(connection, rows)
    return _forget_others(store, run_id, name, number)


def _begin(store: Store, run_id: RunId) -> int:
    """Return the number of a gathering that begins now; numbers only grow."""
    with store.write() as connection:
        number: int = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id)
            .values(gathering=runs.c.gathering + 1)
            .returning(runs.c.gathering)
        ).scalar_one()
    return number


def _keep(connection: Connection, rows: list[dict[str, object]]) -> None:
    """Write what a gathering found; what a later one has found already stays the later one's."""
    upsert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(conversions)
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=list(conversions.primary_key),
            set_={"gathering": upsert.excluded.gathering},
            where=conversions.c.gathering < upsert.excluded.gathering,
        ),
        rows,
    )


def columns_of(source: Source, statement: Statement, conversion: Conversion) -> tuple[int, int]:
    """Return where a conversion's query, opened at its own field, returns the person and the time.

    InputError, with every finding, for a query that cannot be used.
    """
    if statement.uses_since:
        raise source.wrong("the query uses :since", "select every conversion; the goal's `within` counts", word="since")
    columns = source.columns(statement, since=None)
    findings = [
        no_column(column, columns, place=source.place, field=f"{source.field.removesuffix('sql')}{field}")
        for field, column in (("contact", conversion.contact), ("at", conversion.at))
        if column not in columns
    ]
    if findings:
        raise InputError(findings)
    return columns.index(conversion.contact), columns.index(conversion.at)


def _read(source: Source, plan: Plan, name: str) -> Generator[list[tuple[str, datetime]], None, None]:
    """Yield who converted when, in chunks; rows without a person or a time are no conversions."""
    conversion = plan.conversions[name]
    statement = source.statement(conversion.sql)
    who, when = columns_of(source, statement, conversion)
    with closing(source.stream(statement)) as chunks:
        for rows in chunks:
            try:
                converted = [
                    (contact_id, as_utc(row[when], plan.audience.source.zone))
                    for row in rows
                    if row[when] is not None and (contact_id := read_id(row[who])) is not None
                ]
            except ValueError as error:
                raise InputError.one(
                    source.place,
                    f"column {conversion.at!r} holds {error}",
                    "return times such as 2026-12-01 09:30:00, and say in audience.source.zone where they count",
                    f"conversions.{name}.at",
                ) from None
            yield converted


def _ids(chunk: list[tuple[str, datetime]]) -> list[str]:
    return list({contact_id for contact_id, _ in chunk})


def _forget_others(store: Store, run_id: RunId, name: str, number: int) -> int:
    """Remove what only earlier gatherings have found; return how many conversions there are."""
    ours = and_(conversions.c.run_id == run_id, conversions.c.name == name)
    with store.read() as connection:
        last = connection.execute(select(func.max(conversions.c.seq)).where(ours)).scalar_one_or_none() or 0
    count = 0
    for first in range(1, last + 1, _SWEEP):
        span = and_(ours, conversions.c.seq.between(first, first + _SWEEP - 1))
        with store.write() as connection:
            connection.execute(delete(conversions).where(span, conversions.c.gathering < number))
            count += connection.execute(select(func.count()).select_from(conversions).where(span)).scalar_one()
    return count


def _note(store: Store, run_id: RunId, name: str, *, now: datetime, succeeded: bool) -> None:
    upsert = (sqlite if store.is_sqlite else postgresql).insert(gatherings)
    with store.write() as connection:
        connection.execute(
            upsert.values(run_id=run_id, name=name, at=now, succeeded=succeeded).on_conflict_do_update(
                index_elements=[gatherings.c.run_id, gatherings.c.name, gatherings.c.at],
                set_={"succeeded": succeeded},
            )
        )
