"""Several renderers at once, this process and others, whose work comes back in the order of the snapshot.

The others only read the store; what they render travels over a pipe to the one that writes.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from commplan.errors import RunError
from commplan.ledger.run import Run
from commplan.rendering.renderer import Rendered, Renderer
from commplan.settings import Settings, as_environment
from commplan.store import Store

#: Fewer people than this are rendered by this process: starting others would take longer.
WORTH_A_PROCESS = 10_000
#: Ranges that a renderer is given ahead, so that it goes on while this process writes what there is.
_AHEAD = 6


def rendered(
    store: Store, settings: Settings, run: Run, ranges: Sequence[tuple[int, int]], *, people: int
) -> Iterator[Rendered]:
    """Yield what each range of people is rendered as, in order; RunError when a renderer dies."""
    begins = store.clock.now()
    if people < WORTH_A_PROCESS or settings.processes == 1:
        renderer = Renderer(store, settings, run, begins=begins)
        for first, last in ranges:
            yield renderer.render(first, last)
        return
    with ExitStack() as stack:
        command = [sys.executable, "-m", "commplan.rendering", run.run_key, begins.isoformat()]
        crew = [stack.enter_context(_Worker(command, settings)) for _ in range(settings.processes - 1)]
        yield from _in_order(crew, Renderer(store, settings, run, begins=begins), ranges)


def _in_order(crew: Sequence[_Worker], own: Renderer, ranges: Sequence[tuple[int, int]]) -> Iterator[Rendered]:
    """Share the ranges out as workers become free; what would be waited for otherwise is rendered here."""
    given: dict[int, _Worker] = {}
    ready: dict[int, Rendered] = {}
    following = 0
    for number in range(len(ranges)):
        while number not in ready:
            for worker in crew:
                while worker.waiting < _ahead(len(ranges) - following, len(crew) + 1):
                    worker.ask(*ranges[following])
                    given[following] = worker
                    following += 1
            worker = given[number]
            if worker.has_answered or following == len(ranges) or len(ready) > _AHEAD:
                ready[number] = worker.answer()
            else:
                ready[following] = own.render(*ranges[following])
                following += 1
        yield ready.pop(number)


def _ahead(left: int, renderers: int) -> int:
    """Return how many ranges a renderer is to have before it: few when few are left, so that all end at once."""
    return min(_AHEAD, -(-left // renderers))


class _Worker:
    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        paths = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
        self._process = subprocess.Popen(  # noqa: S603 (our own module, with a run's key)
            command,
            env={**os.environ, **as_environment(settings), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        #: Ranges it was given and has not been asked for.
        self.waiting = 0
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        # A pipe holds less than one answer: unread, it would keep the renderer from going on.
        self._reader = Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Worker:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()

    def ask(self, first: int, last: int) -> None:
        """Give it a range to render."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{first} {last}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        self.waiting += 1

    @property
    def has_answered(self) -> bool:
        """Whether an answer is there, or the worker has ended."""
        return not self._answers.empty()

    def answer(self) -> Rendered:
        """Return what the earliest range it was given is rendered as."""
        answer = self._answers.get()
        if answer is None:
            raise self._died()
        found = pickle.loads(answer)  # noqa: S301 (from our own child)
        assert isinstance(found, Rendered)
        self.waiting -= 1
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        while len(length := self._process.stdout.read(8)) == 8:
            size = int.from_bytes(length, "big")
            if len(answer := self._process.stdout.read(size)) < size:
                break
            self._answers.put(answer)
        self._answers.put(None)

    def _died(self) -> RunError:
        status = self._process.wait()
        return RunError(f"a renderer ended with status {status}; nothing was sent; start the run again")
