"""Work done in a thread of its own, so that whoever waits for it can stop waiting.

Never keeps the process alive: what hangs in a driver is left behind, not waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The time for a task was over before the task was; it goes on by itself."""


class Aside:
    """A thread that does one task after another: all that is done with one connection."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()

    def do(self, task: Callable[[], T], *, seconds: float) -> T:
        """Return what `task` returns, or raise what it raises; LateError when that is not known in time."""
        outcome: Future[T] = Future()
        self._tasks.put((task, outcome))
        if not wait([outcome], max(seconds, 0)).done:
            raise LateError
        return outcome.result()

    def end(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (given := self._tasks.get()) is not None:
            task, outcome = given
            try:
                outcome.set_result(task())
            except BaseException as error:
                outcome.set_exception(error)
            del given, task, outcome
