"""Trying a plan against its source: whatever the database would refuse is known before anybody is read or written to.

Reads no person, and writes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, time

from commplan import conversion
from commplan.audience.person import find_columns
from commplan.audience.snapshot import columns_of, open_source, query, with_segment
from commplan.audience.source import Source
from commplan.audience.statement import Statement
from commplan.errors import Finding, InputError, UnreachableError
from commplan.plan import Audience, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a plan's source says of its queries; `columns` are those of the audience, none if its query is unusable.

    `advice` is about the source itself, and no fault of the plan.
    """

    columns: tuple[str, ...]
    findings: tuple[Finding, ...]
    advice: tuple[Finding, ...] = ()


def try_source(plan: Plan, *, source_url: str) -> Trial:
    """Ask the plan's database about every query, column and segment of the plan, without a row of any of them.

    Its findings name fields of the plan. UnreachableError when the database does not answer.
    """
    findings: list[Finding] = []
    columns: tuple[str, ...] = ()
    with open_source(plan, source_url) as source, _noting(findings):
        statement = source.statement(query(plan.audience))
        columns = columns_of(source, statement, since=_since(plan))
        with _noting(findings):
            find_columns(columns, plan.audience.contact, place=plan.plan)
        with _noting(findings):
            _try_segments(plan, source, statement, columns)
    advice = source.advice
    for name, one in plan.conversions.items():
        with open_source(plan, source_url, field=f"conversions.{name}.sql") as source, _noting(findings):
            conversion.columns_of(source, source.statement(one.sql), one)
    return Trial(columns=columns, findings=tuple(findings), advice=advice)


@contextmanager
def _noting(findings: list[Finding]) -> Iterator[None]:
    """Add what turns out to be wrong to `findings`, and go on; a database that does not answer ends it all."""
    try:
        yield
    except UnreachableError:
        raise
    except InputError as error:
        findings += error.findings


def _since(plan: Plan) -> datetime | None:
    """Return a moment that ``:since`` may stand for."""
    start = plan.audience.start
    return None if start is None else datetime.combine(start, time(), plan.zone)


def _try_segments(plan: Plan, source: Source, statement: Statement, columns: Sequence[str]) -> None:
    """Raise InputError with what is wrong with the segments: with their text, else what the database says of each."""

    def ask(audience: Audience) -> None:
        select = with_segment(audience, columns, source)
        source.columns(statement, select=select, since=_since(plan))

    with_segment(plan.audience, columns, source)
    findings: list[Finding] = []
    with _noting(findings):
        ask(plan.audience)
    if not findings:
        return
    refused: list[Finding] = []
    for number, one in enumerate(plan.audience.segments):
        alone: list[Finding] = []
        with _noting(alone):
            ask(plan.audience.model_copy(update={"segments": (one,)}))
        field = f"audience.segments[{number}].if"
        refused += [
            replace(found, field=field, rule=found.rule.replace("the query", "this condition")) for found in alone
        ]
    raise InputError(refused or findings)
