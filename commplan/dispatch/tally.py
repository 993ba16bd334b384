"""What became of the messages of one dispatch, by count, and of its batches."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum, auto


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


class Ending(Enum):
    """How the sending of a batch ended."""

    #: With its last acceptance, and written down together with it.
    CLOSED = auto()
    #: With nothing left to send; the batch is open still.
    DONE = auto()
    #: Its provider took nothing for too long: what is left is for a later try.
    IMPATIENT = auto()
