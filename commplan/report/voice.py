"""What people said, as a part of the report in HTML alone: for the owner's eyes, and never for the Prefect UI."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

from commplan.evaluation.wording import moment
from commplan.feedback import Item
from commplan.report.outline import channel_name
from commplan.report.section import Section, Table

#: Most of what people said that a report shows.
MOST = 500


def voices(items: Sequence[Item], *, run_key: str, zone: str) -> list[Section]:
    """Return the section that lists what people said, newest first; none if nobody said anything."""
    if not items:
        return []
    local = ZoneInfo(zone)
    return [
        Section(
            title="What people said",
            lead=f"The newest {MOST:,}; commplan feedback {run_key} lists all."
            if len(items) >= MOST
            else "Newest first.",
            table=Table(
                head=("When", "Step", "Channel", "Who", "Score", "Words", "Everything about them"),
                rows=tuple(
                    (
                        moment(item.at, local),
                        item.step,
                        channel_name(item.channel),
                        item.contact,
                        score(item),
                        " ".join(filter(None, [item.text, *remarks(item)])) or "–",
                        f"commplan explain {run_key} --contact {item.contact}",
                    )
                    for item in items
                ),
            ),
            folded=len(items) > 12,
        )
    ]


def score(item: Item) -> str:
    """Return a score with its scale, a dash for what has none."""
    if item.score is None or item.scale is None:
        return "–"
    return f"{item.scale.upper()} {item.score}" + (" (low)" if item.is_low else "")


def remarks(item: Item) -> list[str]:
    """Return what has to be known beside the words."""
    said = {"may ask us to stop": item.objects, "by the sender's address, not by what it answers": item.inferred}
    return [f"[{remark}]" for remark, holds in said.items() if holds]
