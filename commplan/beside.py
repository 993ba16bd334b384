"""Work that is repeated beside a block, in a thread that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(work: Callable[[], float], *, after: float, name: str) -> Iterator[None]:
    """Do `work` again and again while the block lasts, first `after` so many machine seconds.

    `work` returns the machine seconds until the next time, and raises nothing. The block's end waits for one under way.
    """
    ended = threading.Event()

    def repeat() -> None:
        pause = after
        while not ended.wait(pause):
            pause = work()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
