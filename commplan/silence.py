"""Silence: what a condition takes from the fact that somebody did nothing.

Never judges whether the silence is real: that is the feed's to prove.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from commplan.condition import And, Claim, Condition, Not, Or

#: So long after the end of a gap of the feed, whatever providers kept back has come, and silence is proven again.
PROVEN_AGAIN = timedelta(hours=25)
#: What people do, or do not do. Whether a message arrived is the provider's to say.
_DEEDS = frozenset({"responded", "opened", "clicked", "replied", "answered", "converted"})


def silences(condition: Condition | None, *, denied: bool = False) -> Iterator[Claim]:
    """Yield the claims of a condition whose absence can make it hold: those that are denied, left to right.

    One that is denied twice is not among them. `denied`: the condition stands inside a `not`.
    """
    match condition:
        case Claim(verb, _):
            if denied and verb in _DEEDS:
                yield condition
        case Not(part):
            yield from silences(part, denied=not denied)
        case And(parts) | Or(parts):
            for part in parts:
                yield from silences(part, denied=denied)
