"""Hours in which a message may arrive, on the recipient's own clock (RULES R12).

Only computes moments; who is in which zone is the audience's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_HOURS = re.compile(r"^([01]\d|2[0-3]):([0-5]\d) ?[-–] ?([01]\d|2[0-4]):([0-5]\d)$")


@dataclass(frozen=True, slots=True)
class Window:
    """Local hours from `start` (included) to `end` (excluded); an `end` at or before `start` is the next day."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window written as ``09:00-20:00`` (``20:00-02:00`` spans midnight); ValueError otherwise."""
        match = _HOURS.match(text.strip())
        if not match or (match[3] == "24" and match[4] != "00"):
            raise ValueError(f"{text!r} is not a window of hours; write it like 09:00-20:00")
        start = time(int(match[1]), int(match[2]))
        end = time(int(match[3]) % 24, int(match[4]))
        if start == end:
            raise ValueError(f"{text!r} is empty; leave the window out to allow every hour")
        return cls(start, end)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def span(self, moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
        """Return the opening that contains `moment`, else the next one, as UTC instants.

        Computed on the local calendar, so a window keeps its local hours over a change to or from summer time; an
        opening that such a change leaves empty is skipped.
        """
        day = moment.astimezone(zone).date() - timedelta(days=1)
        while True:
            last = day if self.end > self.start else day + timedelta(days=1)
            opens = datetime.combine(day, self.start, zone).astimezone(UTC)
            closes = datetime.combine(last, self.end, zone).astimezone(UTC)
            if moment < closes and opens < closes:
                return opens, closes
            day += timedelta(days=1)


#: Hours of an SMS whose step gives none.
SMS_HOURS = Window(time(9), time(20))


def next_open(window: Window | None, moment: datetime, zones: Sequence[ZoneInfo]) -> tuple[datetime, datetime | None]:
    """Return the earliest instant at or after `moment` when the window is open in every zone, and when it closes.

    Several zones stand for a recipient whose zone is not known: the zones of the country. If their hours have
    nothing in common, the hours of the first zone count. No window: `moment` itself and None.
    """
    if window is None:
        return moment, None
    candidate = moment
    for _ in range(8 * max(1, len(zones))):
        spans = [window.span(candidate, zone) for zone in zones]
        opens = max([candidate, *(start for start, _ in spans)])
        closes = min(end for _, end in spans)
        if opens < closes:
            return opens, closes
        candidate = opens
    opens, closes = window.span(moment, zones[0])
    return max(opens, moment), closes
