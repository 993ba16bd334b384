"""Work that is repeated beside a block, in a thread that ends with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger("commplan.beside")


@contextmanager
def beside(work: Callable[[], float], *, after: float, name: str) -> Iterator[None]:
    """Do `work` again and again while the block lasts, first `after` so many machine seconds.

    `work` returns the machine seconds until the next time; if it raises, which is logged by its kind alone, it is done
    again after as long as before. The block's end waits for one under way.
    """
    ended = threading.Event()

    def repeat() -> None:
        pause = after
        while not ended.wait(pause):
            try:
                pause = work()
            except Exception as error:  # whatever it is, the block goes on, and the work with it
                _LOG.error("work beside a run failed", extra={"what": name, "why": type(error).__name__})

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
