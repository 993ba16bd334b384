"""Hours in which a message may arrive, on the recipient's own clock.

Only computes moments, and never guesses a zone: who is where is the audience's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from commplan.errors import quoted

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d) ?[-–] ?(?:([01]\d|2[0-3]):([0-5]\d)|24:00)", re.ASCII)
_DAY = timedelta(days=1)
#: How far ahead hours that several zones have in common are looked for.
_HORIZON = timedelta(days=2)

#: From an instant (included) to an instant (excluded), in UTC.
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Window:
    """Local hours from `start` (included) to `end` (excluded); an `end` at or before `start` is the next day's."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """Return the window written as ``09:00-20:00``; ValueError ``rule; remedy`` otherwise.

        ``20:00-02:00`` spans midnight, ``20:00-24:00`` ends with the day, ``00:00-24:00`` is every hour.
        """
        match = _HOURS.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{quoted(text)} is not a window of hours; write it like 09:00-20:00")
        start = time(int(match[1]), int(match[2]))
        end = time(int(match[3]), int(match[4])) if match[3] else time()
        if start == end and not (match[3] is None and start == time()):
            raise ValueError(f'"{text.strip()}" begins where it ends; write 00:00-24:00 for every hour')
        return cls(start, end)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-" + (f"{self.end:%H:%M}" if self.end != time() else "24:00")

    @property
    def is_whole_day(self) -> bool:
        """Tell whether every hour is inside."""
        return self.start == self.end

    @property
    def length(self) -> timedelta:
        """How long it is open on a day without a change of the clocks."""
        begin, end = (timedelta(hours=at.hour, minutes=at.minute) for at in (self.start, self.end))
        return end - begin if end > begin else end - begin + _DAY

    def contains(self, local: time) -> bool:
        """Tell whether a recipient whose clock shows `local` is inside."""
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def span(self, moment: datetime, zone: ZoneInfo) -> Span:
        """Return the opening that contains `moment`, else the next one, as UTC instants.

        The recipient's clock decides: an opening begins when it first shows an hour inside and ends when it no longer
        does, also where summer time skips or repeats the start or the end; an opening that is skipped as a whole is
        passed over, one that the repeated hour interrupts is two.
        """
        day = moment.astimezone(zone).date() - _DAY
        while True:
            for opens, closes in _openings(self, zone, day):
                if moment < closes:
                    return opens, closes
            day += _DAY


@lru_cache(maxsize=10_000)
def _openings(window: Window, zone: ZoneInfo, day: date) -> tuple[Span, ...]:
    """Return when the opening that begins on a local `day` is open: once, or twice, or not at all."""
    last = day if window.end > window.start else day + _DAY
    edges = sorted(
        _instants(datetime.combine(day, window.start), zone) | _instants(datetime.combine(last, window.end), zone)
    )
    spans: list[Span] = []
    for opens, closes in pairwise(edges):
        if not window.contains(opens.astimezone(zone).time()):
            continue
        if spans and spans[-1][1] == opens:
            spans[-1] = (spans[-1][0], closes)
        else:
            spans.append((opens, closes))
    return tuple(spans)


def _instants(local: datetime, zone: ZoneInfo) -> set[datetime]:
    """Return when the clock passes `local`: once; twice, with the change between; or, if skipped, at the change."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return {first}
    change = _change(min(first, second), max(first, second), zone)
    return {first, change, second} if first < second else {change}


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant, to the second, at which the zone's offset changes between two instants."""
    old = before.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        if (before + timedelta(seconds=middle)).astimezone(zone).utcoffset() == old:
            low = middle
        else:
            high = middle
    return before + timedelta(seconds=high)


#: Hours of an SMS whose step gives none.
SMS_HOURS = Window(time(9), time(20))


def next_open(window: Window | None, moment: datetime, zones: Sequence[ZoneInfo]) -> tuple[datetime, datetime | None]:
    """Return the earliest instant at or after `moment` when the window is open in every zone, and when it closes.

    Several zones stand for a recipient whose zone is not known: the zones of the country. If their hours have nothing
    in common within two days, the hours of the first zone count. No window, or one of the whole day: `moment` itself
    and None. ValueError without any zone.
    """
    if window is None or window.is_whole_day:
        return moment, None
    if not zones:
        raise ValueError("a window needs the zone of the recipient")
    candidate = moment
    while candidate <= moment + _HORIZON:
        spans = [window.span(candidate, zone) for zone in zones]
        opens = max(candidate, *(start for start, _ in spans))
        closes = min(end for _, end in spans)
        if opens < closes:
            return opens, closes
        candidate = opens
    opens, closes = window.span(moment, zones[0])
    return max(opens, moment), closes
