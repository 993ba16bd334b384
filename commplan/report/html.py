"""The report as one HTML page that stands alone: no script, no font, no picture from elsewhere.

Everything a planner wrote is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from commplan.evaluation import Evaluation
from commplan.evaluation.wording import figure
from commplan.feedback import Item
from commplan.report.markdown import draw
from commplan.report.outline import facts, headline, sections
from commplan.report.voice import voices

_TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "shared" / "report"


def to_html(evaluation: Evaluation, *, charts: bool = True, items: Sequence[Item] = ()) -> str:
    """Return the report as a page for light and dark screens, phones and paper; `items` is what people said."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown = sections(evaluation)
    # Where the figures of answers are; how they were computed comes last.
    place = next((at for at, section in enumerate(shown, 1) if section.title == "Feedback"), len(shown) - 1)
    shown[place:place] = voices(items, run_key=evaluation.run_key, zone=evaluation.zone)
    figures = draw(evaluation) if charts else {}
    return environment.get_template("evaluation.html.j2").render(
        evaluation=evaluation,
        facts=facts(evaluation),
        headline=headline(evaluation),
        sections=shown,
        figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 (drawn by charts, text escaped there)
        figure=figure,
    )
