"""Child processes of one command: started with an environment made for them, watched, and ended with it.

Never touches a process it did not start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from commplan.errors import CommplanError

#: What a child inherits from the user's environment; everything else is given to it on purpose.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM", "SYSTEMROOT", "LD_LIBRARY_PATH")


#: Seconds after which a child counts as having come up, and the longest pause before it is started again.
_LIVED = 60.0
_LONGEST_PAUSE = 60.0
#: Seconds that what a child left behind has to end when it is asked to.
_ORPHANS_PATIENCE = 5.0


class ChildError(CommplanError):
    """A child process did not come up or ended before its time."""


def clean_environment(extra: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment without the user's Prefect settings, provider keys and proxies, plus `extra`."""
    kept = {name: environ[name] for name in _INHERITED if name in environ}
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "NO_PROXY": "*", **extra}


def listen(port: int = 0) -> socket.socket:
    """Return a socket bound to a loopback port, a free one if none is asked for, for the child that will answer there.

    OSError when the port is taken.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    bound.listen(256)
    bound.set_inheritable(True)
    return bound


def free_port() -> int:
    """Return a port that is free now; for a child that cannot take a bound socket, so be ready to try again."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Child:
    """One started process, the file that its output goes to, and how it is started again if it is to stay."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    again: Callable[[], subprocess.Popen[bytes]] | None = None
    began: float = field(default_factory=time.monotonic)
    #: Times in a row that it ended soon after it was started, and when it is started next.
    failures: int = 0
    due: float | None = None

    def require_alive(self) -> None:
        """Raise ChildError with where to look, if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ChildError(f"{self.name} ended with status {code}; see {self.log}")


@dataclass(slots=True)
class Supervisor:
    """Starts children and ends them all, whatever way the block is left: normally, Ctrl-C, SIGTERM or an error."""

    logs: Path
    children: list[Child] = field(default_factory=list)
    #: Highest resident memory seen of each child and its descendants, in bytes.
    peaks: dict[str, int] = field(default_factory=dict)
    #: Every process seen below our children, with its start, by which it is told from a later one of the same id.
    _families: set[tuple[int, int]] = field(default_factory=set)
    _before: dict[int, Callable[[int, FrameType | None], object] | int | None] = field(default_factory=dict)

    def __enter__(self) -> Supervisor:
        # A command started with `&` by a shell inherits SIGINT ignored, and so would every child.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._interrupt)
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self.stop()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        fds: Sequence[int] = (),
        stays: bool = False,
    ) -> Child:
        """Start a process in a session of its own; its output goes to ``<logs>/<name>.log``.

        One that `stays` is started again by `tend` when it has ended; sockets in `fds` must stay open for that.
        """
        log = self.logs / f"{name}.log"

        def spawn() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(  # noqa: S603 (our own commands)
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=cwd,
                    pass_fds=tuple(fds),
                    start_new_session=True,
                )

        child = Child(name, spawn(), log, again=spawn if stays else None)
        self.children.append(child)
        return child

    def tend(self) -> list[str]:
        """Start again what was to stay and has ended; return the names of those that were. Call it every second.

        The pause before it doubles from one second to a minute while a child ends within a minute of its start.
        """
        started = []
        for child in self.children:
            if child.again is None or child.process.poll() is None:
                continue
            now = time.monotonic()
            if child.due is None:
                child.failures = child.failures + 1 if now - child.began < _LIVED else 0
                child.due = now + min(2.0**child.failures, _LONGEST_PAUSE)
            if now >= child.due:
                # What it left behind may hold its port. Flow runs have sessions of their own and go on.
                _signal(child, signal.SIGKILL)
                child.process, child.began, child.due = child.again(), now, None
                started.append(child.name)
        self._note_families()
        return started

    def wait_for(self, child: Child, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Return when a child is ready; ChildError when it ends first or takes longer than `seconds`."""
        until = time.monotonic() + seconds
        while not is_ready():
            child.require_alive()
            if time.monotonic() > until:
                raise ChildError(f"{child.name} is not ready after {seconds:.0f} s; see {child.log}")
            time.sleep(0.1)

    def sample(self) -> None:
        """Note the memory of every child and its descendants, where the system tells (Linux)."""
        parents = _parents()
        for child in self.children:
            for pid in _family(child.process.pid, parents):
                name = child.name if pid == child.process.pid else f"{child.name} › {_command(pid)}"
                self.peaks[name] = max(self.peaks.get(name, 0), _peak(pid))

    def stop(self, *, patience: float = 8.0) -> None:
        """End every child, one after the other and the newest first, since the newer ones talk to the older.

        Interrupt, then terminate, then kill; what is left of a child's session is killed in any case.
        """
        self._note_families()
        for child in reversed(self.children):
            child.again = None
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                _signal(child, number)
                try:
                    child.process.wait(patience)
                    break
                except subprocess.TimeoutExpired:
                    continue
            _signal(child, signal.SIGKILL)
        self.children.clear()
        self._end_families()

    def _note_families(self) -> None:
        parents = _parents()
        seen = {pid for child in self.children for pid in _family(child.process.pid, parents)}
        self._families = {(pid, start) for pid, start in self._families if _start_of(pid) == start}
        self._families |= {(pid, start) for pid in seen if (start := _start_of(pid)) is not None}

    def _end_families(self) -> None:
        """End what our children left behind: the flow runs of a worker that was killed, say."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = [pid for pid, start in self._families if _start_of(pid) == start]
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            until = time.monotonic() + _ORPHANS_PATIENCE
            while any(_start_of(pid) is not None for pid in left) and time.monotonic() < until:
                time.sleep(0.05)


def _signal(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _parents() -> dict[int, int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return parents


def _start_of(pid: int) -> int | None:
    """Return when a process was started, in ticks since boot; None when it has ended or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _family(pid: int, parents: Mapping[int, int]) -> list[int]:
    found = [pid]
    for member in found:
        found.extend(child for child, parent in parents.items() if parent == member)
    return found


def end_descendants() -> None:
    """Terminate every process that this one has started, and theirs, where the system tells (Linux)."""
    for pid in _family(os.getpid(), _parents())[1:]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return "gone"
    return "flow run" if any("prefect" in word for word in words) else Path(words[0]).name


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def python(*words: str) -> list[str]:
    """Return a command that runs Python as this process does."""
    return [sys.executable, *words]
