"""Children that are to stay are started again, and nothing outlives its supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from commplan.supervisor import Supervisor, clean_environment, python

_ROOT = Path(__file__).resolve().parents[1]
_SLEEPS = "import time; time.sleep(600)"


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_that_stays_is_started_again_and_another_is_not(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        stays, goes = (
            supervisor.start(
                name, python("-c", _SLEEPS), environment=clean_environment({}), cwd=tmp_path, stays=name == "stays"
            )
            for name in ("stays", "goes")
        )
        before = stays.process.pid
        for child in (stays, goes):
            os.kill(child.process.pid, signal.SIGKILL)
            child.process.wait()
        started: list[str] = []
        until(lambda: started.extend(supervisor.tend()) or started)
        assert started == ["stays"]
        assert stays.process.pid != before
        assert is_alive(stays.process.pid)
        # It ended soon after its start, so the next pause would be longer.
        assert stays.failures == 1
    assert not is_alive(stays.process.pid)


def test_what_a_killed_child_leaves_behind_ends_with_the_supervisor(tmp_path: Path) -> None:
    started = tmp_path / "started"
    parent = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {_SLEEPS!r}], start_new_session=True)\n"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    with Supervisor(tmp_path) as supervisor:
        child = supervisor.start("parent", python("-c", parent), environment=clean_environment({}), cwd=tmp_path)
        until(lambda: started.exists() and started.read_text())
        orphan = int(started.read_text())
        supervisor.tend()
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        assert is_alive(orphan), "a flow run goes on without its worker"
    until(lambda: not is_alive(orphan))


def test_up_says_which_port_is_taken_and_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "commplan", "up", "--port", str(port)],
            env=os.environ | {"COMMPLAN_HOME": str(tmp_path / "home"), "PYTHONPATH": str(_ROOT)},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == f"127.0.0.1:{port}: the Prefect server cannot listen there; choose another with --port\n"
    assert list((tmp_path / "home" / "logs").iterdir()) == []
