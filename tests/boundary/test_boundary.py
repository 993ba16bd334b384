"""A campaign killed, or stopped beyond its lease, at every boundary it crosses: nobody twice, nobody lost.

The boundaries are the commits of transactions and the reads and writes of the transport, counted from outside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from commplan import campaign
from tests.boundary.drill import ended_well, started
from tests.boundary.harness import Crossing

#: So many workers can share the boundaries; each makes a folder of its own.
PARTS = 2
in_parts = pytest.mark.parametrize(
    "part", [pytest.param(n, marks=pytest.mark.xdist_group(f"boundary {n}")) for n in range(PARTS)]
)

ROOT = Path(campaign.__file__).parents[2]


def run(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.boundary.drill", str(folder), *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planned installation, and the crossings of a run that nobody disturbed."""
    made = tmp_path_factory.mktemp("boundary")
    run(made, "count")
    return made


@pytest.fixture(scope="module")
def crossings(folder: Path) -> list[Crossing]:
    return Crossing.read(folder / "crossings")


def require_well(folder: Path, what: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Kill or stop at these crossings; what went wrong is told with the folder in which everything of it is kept."""
    told = [json.loads(line) for line in run(folder, what, ",".join(map(str, numbers))).splitlines()]
    wrong = [f"{what} at {one['number']}, kept in {one['place']}:\n{one['wrong']}" for one in told if one["wrong"]]
    assert not wrong, "\n".join(wrong)
    assert len(told) == len(numbers)
    return told


@pytest.mark.xdist_group("boundary 0")
def test_a_run_crosses_every_kind_of_boundary_that_there_is(crossings: list[Crossing]) -> None:
    assert [one.number for one in crossings] == list(range(1, len(crossings) + 1))
    requests = {
        f"{what}: {about}"
        for what in ("before write", "half written", "after write", "after read")
        for about in ("email", "sms")
    }
    commits = {one.about for one in crossings if one.what == "before commit"}
    names = {one.name for one in crossings}
    assert requests <= names
    assert names == requests | {f"{when} commit: {about}" for when in ("before", "after") for about in commits}
    # A claim, a last look, an answer and an end of a batch; receipts kept and applied; the end of the run.
    for written in (
        "insert batches",
        "insert attempts",
        "update enrolments",
        "update batches, update attempts",
        "insert inbox",
        "insert receipts",
        "insert evaluations",
    ):
        assert any(written in about for about in commits), f"nothing was written by {written}"


@pytest.mark.timeout(1800)
@in_parts
def test_a_run_killed_at_any_boundary_writes_to_nobody_twice_and_loses_nobody(
    folder: Path, crossings: list[Crossing], part: int
) -> None:
    told = require_well(folder, "kill", [one.number for one in crossings[part::PARTS]])
    assert sum(one["killed"] for one in told) > len(told) - 3, "few runs were killed: the boundaries have moved"
    assert sum(one["in_doubt"] > 0 for one in told) > len(told) / 2, "hardly any kill met a request in flight"


@pytest.mark.long
@pytest.mark.timeout(1800)
@in_parts
def test_a_run_stopped_beyond_its_lease_and_woken_sends_nothing_that_another_has_taken_over(
    folder: Path, crossings: list[Crossing], part: int
) -> None:
    told = require_well(folder, "stop", [one.number for one in crossings[part::PARTS]])
    assert sum(one["killed"] for one in told) > len(told) - 3, "few runs were stopped: the boundaries have moved"


def test_a_drill_that_fails_leaves_no_process_behind_not_even_a_stopped_one(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), ExitStack() as stack:
        sleeper = started(stack, lambda: os.kill(os.getpid(), signal.SIGSTOP), log=tmp_path / "log")
        ended = started(stack, lambda: None, log=tmp_path / "log")
        assert os.WIFSTOPPED(os.waitpid(sleeper, os.WUNTRACED)[1])
        ended_well(ended)
        raise AssertionError
    for pid in (sleeper, ended):
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
