"""Several renderers at once, this process and others, whose work comes back in the order of the snapshot.

The others only read the store; what they render travels over a pipe to the one that writes.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from commplan.errors import RunError
from commplan.ledger.run import Run
from commplan.rendering.renderer import Rendered, Renderer
from commplan.settings import Settings, as_environment
from commplan.store import Store

#: Fewer people than this are rendered by this process: starting others would take longer.
WORTH_A_PROCESS = 10_000
#: Ranges that a renderer is given ahead, and most that are kept here until their turn comes.
_AHEAD = 2
#: Bytes of a pipe: as many as Linux gives to anybody.
_PIPE = 2**20


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
                while worker.waiting < _AHEAD and following < len(ranges):
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


class _Worker:
    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        paths = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
        self._process = subprocess.Popen(  # noqa: S603 (our own module, with a run's key)
            command,
            env={**os.environ, **as_environment(settings), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Room for a whole answer: the renderer goes on while this process is busy.
            pipesize=_PIPE,
        )
        #: Ranges it was given and has not been asked for.
        self.waiting = 0

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

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
        """Whether an answer has begun to arrive, or the worker has ended."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def answer(self) -> Rendered:
        """Return what the earliest range it was given is rendered as."""
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)  # noqa: S301 (from our own child)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        assert isinstance(found, Rendered)
        self.waiting -= 1
        return found

    def _died(self) -> RunError:
        status = self._process.wait()
        return RunError(f"a renderer ended with status {status}; nothing was sent; start the run again")
