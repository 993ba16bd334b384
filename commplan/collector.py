"""The garbage collector among a great many people: what is made for each of them is in no circle, and soon gone.

Looking for circles as often as Python does by default took a quarter of the processor's time of a campaign.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Objects made until the youngest are looked through, and how many such looks until older ones are.
_SELDOM = (10_000, 20, 100)


def leave_alone() -> None:
    """Have what is there by now never looked through again, and what comes seldom: for a process of our own."""
    gc.freeze()
    gc.set_threshold(*_SELDOM)


@contextmanager
def left_alone() -> Iterator[None]:
    """The same for as long as the block, or the function, lasts: for a process that is also somebody else's."""
    before = gc.get_threshold()
    leave_alone()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
