"""The report as markdown, for the Prefect UI: tables, folded details, and charts inside the text itself.

Refers to nothing outside itself, and lets nothing that a planner wrote become markup.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping

from commplan import charts as drawing
from commplan.evaluation import Evaluation
from commplan.report.outline import facts, sections
from commplan.report.section import Mark, Section, Table, Value
from commplan.terms import Verdict

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")
_MARKS = {Verdict.MET: "✔ **met**", Verdict.MISSED: "✘ **missed**", Verdict.INCONCLUSIVE: "**inconclusive**"}
_ALT = {"funnel": "How far people came, as bars", "segments": "Each goal by segment, with intervals"}


def to_markdown(evaluation: Evaluation, *, charts: bool = True) -> str:
    """Return the report as markdown; with `charts` the figures are in it as data URIs (about 100 KB)."""
    figures = draw(evaluation) if charts else {}
    return "\n".join(_lines(evaluation, figures)).rstrip() + "\n"


def draw(evaluation: Evaluation) -> dict[str, str]:
    """Return every figure of the report as SVG, by the name that sections call it."""
    figures = {"funnel": drawing.funnel(evaluation)}
    if evaluation.segments and any(goal.numerator is not None for goal in evaluation.goals):
        figures["segments"] = drawing.by_segment(evaluation)
    return figures


def escape(text: str) -> str:
    """Return text that markdown shows as it stands, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _lines(evaluation: Evaluation, figures: Mapping[str, str]) -> Iterator[str]:
    yield f"# {escape(evaluation.title)}"
    yield ""
    if evaluation.sandbox:
        yield "> **SANDBOX**: a rehearsal with simulated recipients. No real person was written to."
        yield ""
    for name, value in facts(evaluation):
        yield f"- {name}: {escape(value)}"
    yield ""
    for section in sections(evaluation):
        yield from _section(section, figures)


def _section(section: Section, figures: Mapping[str, str]) -> Iterator[str]:
    has_chart = section.chart is not None and section.chart in figures
    if not (has_chart or section.lead or section.table or section.items):
        return
    if section.folded:
        yield f"<details><summary><strong>{section.title}</strong></summary>"
    else:
        yield f"## {section.title}"
    yield ""
    if section.lead:
        yield escape(section.lead)
        yield ""
    if section.chart is not None and has_chart:
        image = b64encode(figures[section.chart].encode()).decode("ascii")
        yield f"![{_ALT[section.chart]}](data:image/svg+xml;base64,{image})"
        yield ""
    if section.table is not None:
        yield from _table(section.table)
        yield ""
    if section.items:
        for item in section.items:
            yield f"- {escape(item)}"
        yield ""
    if section.folded:
        yield "</details>"
        yield ""


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(escape(name) for name in table.head) + " |"
    yield "|" + "|".join("---:" if place in table.numeric else "---" for place in range(len(table.head))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"


def _cell(value: Value) -> str:
    if isinstance(value, Mark):
        return _MARKS[value.verdict] + (" (provisional)" if value.provisional else "")
    return escape(value)
