"""What is on record about one person's consent: where it was given, to which words, and when.

Reads the columns that the snapshot has frozen; never decides whether anybody may be written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from commplan.audience.person import read_consent, read_moment
from commplan.plan import ConsentRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The answer the evidence belongs to (None: nothing on record), and what the plan has columns for.

    `at` is in the zone it was asked for in; `unread` is what stands in its place when that is no time.
    """

    given: bool | None
    source: str | None = field(repr=False)
    text: str | None = field(repr=False)
    at: datetime | None
    unread: str | None = field(repr=False)


def read_evidence(record: ConsentRecord, columns: Mapping[str, object], zone: ZoneInfo) -> Evidence:
    """Return what a row of the snapshot says of one channel's consent; times without a zone are of `zone`."""
    given = columns.get(record.given)
    moment = None if record.at is None else columns.get(record.at)
    at = None if moment in (None, "") else read_moment(moment, zone)
    return Evidence(
        given=None if given in (None, "") else read_consent(given),
        source=_text(columns, record.source),
        text=_text(columns, record.text),
        at=at,
        unread=None if at is not None or moment in (None, "") else str(moment),
    )


def _text(columns: Mapping[str, object], column: str | None) -> str | None:
    value = None if column is None else columns.get(column)
    return None if value is None else str(value).strip() or None
