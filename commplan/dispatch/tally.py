"""What became of the messages of one dispatch, by count."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts that add up over batches, threads and processes."""

    batches: int = 0
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    #: Refused unprocessed until patience ran out; queued for a later try.
    postponed: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self
