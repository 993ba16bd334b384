"""The parts that a report is made of, whatever form it takes.

Knows neither what a report says nor how it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from commplan.terms import Verdict


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict in a table, to be shown as such."""

    verdict: Verdict
    provisional: bool


#: What stands in a table: text, or a verdict.
Value = str | Mark


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a head; the columns in `numeric` are set flush right."""

    head: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report; `chart` names the figure to show there, `folded` parts are opened by who wants them."""

    title: str
    lead: str = ""
    chart: str | None = None
    table: Table | None = None
    items: tuple[str, ...] = ()
    folded: bool = False
