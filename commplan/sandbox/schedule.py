"""What is going to happen, in order of time, and the task that makes it happen.

Never loses an action: when there is too much to do it falls behind, and says by how much.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count

from commplan.clock import Clock

log = logging.getLogger("commplan.sandbox")

#: An action either acts at once, or returns something to await (a request over the network).
Action = Callable[[], Awaitable[None] | None]

#: Requests of simulated people and webhooks in flight at once.
_IN_FLIGHT = 32
#: Actions between two turns of the event loop, so that requests are answered meanwhile.
_PER_TURN = 100


class Schedule:
    """Actions by machine time; belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = count()
        self._earlier = asyncio.Event()
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._running: set[asyncio.Future[None]] = set()
        #: Actions that ended in an error of the sandbox itself; anything but 0 is a defect.
        self.failures = 0

    @property
    def pending(self) -> int:
        """Actions still to come, and those that are under way."""
        return len(self._heap) + len(self._running)

    @property
    def next_due(self) -> datetime | None:
        """Plan time of the next action; None when there is none."""
        return self._clock.at(self._heap[0][0]) if self._heap else None

    @property
    def lag(self) -> float:
        """Machine seconds by which the next action is late."""
        return max(0.0, time.time() - self._heap[0][0]) if self._heap else 0.0

    def at(self, moment: float, action: Action) -> None:
        """Do something at a plan time, in seconds since the epoch."""
        self._push(self._clock.machine(datetime.fromtimestamp(moment, UTC)), action)

    def after(self, seconds: float, action: Action) -> None:
        """Do something when that many machine seconds have passed."""
        self._push(time.time() + seconds, action)

    def _push(self, due: float, action: Action) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), action))
        if self._heap[0][0] == due:
            self._earlier.set()

    async def run(self) -> None:
        """Make everything happen when it is due, until cancelled."""
        while True:
            self._earlier.clear()
            done = 0
            while self._heap and self._heap[0][0] <= time.time():
                await self._start(heapq.heappop(self._heap)[2])
                done += 1
                if done % _PER_TURN == 0:
                    await asyncio.sleep(0)
            # A day at most: a clock that hardly moves makes due times that no timer can hold.
            wait = min(86_400.0, max(0.0, self._heap[0][0] - time.time())) if self._heap else None
            # Not `wait_for`: before Python 3.12 it takes no notice of being cancelled while what it waits for comes.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._earlier.wait()

    async def _start(self, action: Action) -> None:
        await self._slots.acquire()
        try:
            under_way = action()
        except Exception as error:
            self._slots.release()
            self._failed(error)
            return
        if under_way is None:
            self._slots.release()
            return
        task = asyncio.ensure_future(self._finish(under_way))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _finish(self, under_way: Awaitable[None]) -> None:
        try:
            await under_way
        except Exception as error:
            self._failed(error)
        finally:
            self._slots.release()

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        log.error("an action of the sandbox failed", extra={"error": type(error).__name__})

    async def close(self) -> None:
        """End what is under way."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
