"""Several renderers at once, each a process of its own, whose work comes back in the order of the snapshot.

They only read the store; what they render travels over a pipe to the one that writes.
"""

from __future__ import annotations

import os
import pickle
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
#: Ranges that a renderer is given ahead of the one that is waited for.
_AHEAD = 2


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
        crew = [stack.enter_context(_Worker(command, settings)) for _ in range(min(settings.processes, len(ranges)))]
        ahead = len(crew) * _AHEAD
        for number in range(len(ranges) + ahead):
            if number < len(ranges):
                crew[number % len(crew)].ask(*ranges[number])
            if number >= ahead:
                yield crew[(number - ahead) % len(crew)].answer()


class _Worker:
    def __init__(self, command: Sequence[str], settings: Settings) -> None:
        paths = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
        self._process = subprocess.Popen(  # noqa: S603 (our own module, with a run's key)
            command,
            env={**os.environ, **as_environment(settings), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

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

    def answer(self) -> Rendered:
        """Return what the earliest range it was given is rendered as."""
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)  # noqa: S301 (from our own child)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        assert isinstance(found, Rendered)
        return found

    def _died(self) -> RunError:
        status = self._process.wait()
        return RunError(f"a renderer ended with status {status}; nothing was sent; start the run again")
