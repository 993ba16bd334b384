"""Plan time: the clock that waits, windows, event times and reports read.

Never used for time-outs, leases, rate limits or signatures: those run on machine time, which nothing scales.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


def boottime() -> float:
    """Return machine seconds that also pass while the machine sleeps, where the system can tell; for durations only."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Plan time as a straight line through machine time: `origin` at machine second `anchor`, `factor` times as fast.

    The demo and the tests set a factor; a live store refuses any but 1.
    """

    origin: datetime
    anchor: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.origin.tzinfo is None:
            raise ValueError("a clock's origin needs a zone")
        if self.factor <= 0:
            raise ValueError("a clock's factor is positive")

    @classmethod
    def real(cls) -> Clock:
        """Return the clock on which plan time is machine time."""
        return cls(origin=datetime(1970, 1, 1, tzinfo=UTC), anchor=0.0)

    @property
    def is_real(self) -> bool:
        """Tell whether plan time is machine time."""
        return self == Clock.real()

    def now(self) -> datetime:
        """Return the present plan time, aware, in UTC."""
        return self.at(time.time())

    def at(self, machine: float) -> datetime:
        """Return the plan time at a machine time (seconds since the epoch)."""
        return self.origin.astimezone(UTC) + timedelta(seconds=(machine - self.anchor) * self.factor)

    def machine(self, moment: datetime) -> float:
        """Return the machine time (seconds since the epoch) at which plan time reaches `moment`."""
        return self.anchor + (moment - self.origin).total_seconds() / self.factor

    def seconds_until(self, moment: datetime) -> float:
        """Return machine seconds from now until plan time reaches `moment`; 0 if it has passed."""
        return max(0.0, self.machine(moment) - time.time())
