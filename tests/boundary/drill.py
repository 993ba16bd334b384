"""Kills or stops a campaign at one boundary after the other, each time in a fresh copy, and proves what came of it.

    python -m tests.boundary.drill FOLDER count
    python -m tests.boundary.drill FOLDER kill|stop N,N,…

`count` makes the installation in FOLDER and writes down every crossing of an undisturbed run. The others print a line
of JSON for each N: what was crossed there, what was in doubt then, and what went wrong, if anything.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# A sandbox imports them when it starts; here once, so that no fork has to.
import uvicorn.lifespan.on
import uvicorn.loops.auto  # noqa: F401
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine

from commplan import campaign
from commplan.sandbox import Switches
from commplan.store import Store, open_store
from tests.boundary.carry import carry
from tests.boundary.harness import Crossing, Harness
from tests.boundary.installation import Installation, end, fork
from tests.campaign.conftest import crowd

PEOPLE = 40
#: Machine seconds: of a process that is left behind, and of one that is not disturbed.
SHORT, LONG = 1.5, 60.0
#: Runs at once: most of the time they wait for a lease to end.
AT_ONCE = 4
TAKEN = ("accepted", "delivered")


def installation(folder: Path) -> Installation:
    # Whoever is woken reads the answer that has come meanwhile, however long it slept.
    return Installation(folder=folder, store_url=f"sqlite:///{folder / 'store.sqlite'}", timeout=25.0)


def plan(here: Installation) -> None:
    """Freeze audience and content, so that the run may send."""
    here.enter()
    store = open_store(here.settings)
    running = here.start(store)
    running.resolve_audience()
    running.render()
    store.dispose()


def harnessed(here: Installation, log: Path, at: int | None, number: int | None, lease: float) -> None:
    Harness(log, at=at, signal=number).install()
    carry(here, lease=lease)


def count(folder: Path) -> None:
    """Make the installation, plan the run, and write down the crossings of a run in a copy that nobody disturbs."""
    template = installation(folder / "template")
    template.make(crowd(PEOPLE))
    ended_well(fork(partial(plan, template)))
    with ExitStack() as stack:
        here = copy(template, folder / "undisturbed", stack)
        ended_well(fork(partial(harnessed, here, folder / "crossings", None, None, LONG), log=here.folder / "log"))
        require_proven(here, in_doubt=set())


def copy(template: Installation, folder: Path, stack: ExitStack) -> Installation:
    here, sandbox = template.copy(folder).open_sandbox(Switches.calm())
    stack.callback(end, sandbox)
    return here


def started(stack: ExitStack, work: Callable[[], object], *, log: Path) -> int:
    """Fork a process that is gone when the drill is over, even one that is stopped while the drill fails."""
    pid = fork(work, log=log)
    stack.callback(put_down, pid)
    return pid


def put_down(pid: int) -> None:
    """Kill a process of ours unless it has ended."""
    with suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            end(pid)


def ended_well(pid: int) -> None:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"a process ended with status {status}"


def kill(folder: Path, number: int) -> dict[str, Any]:
    """Kill the run at a crossing, carry it on in another process, and prove it."""
    with ExitStack() as stack:
        here = copy(installation(folder / "template"), folder / f"kill-{number}", stack)
        log = here.folder / "crossings"
        child = started(stack, partial(harnessed, here, log, number, signal.SIGKILL, SHORT), log=here.folder / "log")
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "the run failed before it was killed"
        in_doubt = requests_in_doubt(here)
        ended_well(started(stack, partial(carry, here, lease=SHORT), log=here.folder / "log"))
        require_proven(here, in_doubt=in_doubt)
    return told(log, number, killed=os.WIFSIGNALED(status), in_doubt=len(in_doubt))


def stop(folder: Path, number: int) -> dict[str, Any]:
    """Stop the run at a crossing beyond its lease, let another process go on, wake it, and prove it."""
    with ExitStack() as stack:
        here = copy(installation(folder / "template"), folder / f"stop-{number}", stack)
        log = here.folder / "crossings"
        sleeper = started(stack, partial(harnessed, here, log, number, signal.SIGSTOP, SHORT), log=here.folder / "log")
        status = os.waitpid(sleeper, os.WUNTRACED)[1]
        stopped = os.WIFSTOPPED(status)
        in_doubt = requests_in_doubt(here)
        if stopped:
            # Who sleeps inside a transaction keeps SQLite's one write lock, and another thread of a process that sends
            # texts may be in one whatever was crossed: the other waits for it.
            holds_the_lock = is_locked(here.folder / "store.sqlite")
            other = started(stack, partial(carry, here, lease=SHORT), log=here.folder / "log")
            if holds_the_lock:
                time.sleep(2 * SHORT)  # how long it sleeps, not something that is waited for
            else:
                ended_well(other)
            os.kill(sleeper, signal.SIGCONT)
            if holds_the_lock:
                ended_well(other)
            ended_well(sleeper)
            ended_well(started(stack, partial(carry, here, lease=SHORT), log=here.folder / "log"))
        require_proven(here, in_doubt=in_doubt)
    return told(log, number, killed=stopped, in_doubt=len(in_doubt))


def is_locked(file: Path) -> bool:
    """Tell whether somebody is in a transaction that may write."""
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def told(log: Path, number: int, **more: object) -> dict[str, Any]:
    crossed = next((one.name for one in Crossing.read(log) if one.number == number), None)
    return {"number": number, "what": crossed, "wrong": None, **more}


def requests_in_doubt(here: Installation) -> set[str]:
    """Return the requests that are on record and have no answer, at this moment."""
    # Only looks: somebody may sleep in the middle of a transaction.
    with closing(sqlite3.connect(here.folder / "store.sqlite")) as connection:
        rows = connection.execute("SELECT attempt_id, channel FROM messages WHERE state = 'sending'").fetchall()
    found, channels = {row[0] for row in rows}, {row[1] for row in rows}
    assert len(channels) <= 1
    assert len(found) <= (1 if channels == {"email"} else here.connections), "more in doubt than were in flight"
    return found


def require_proven(here: Installation, *, in_doubt: set[str]) -> None:
    """Assert from the sandbox's own account that nobody got a step twice, nobody is lost, and the books balance.

    `in_doubt`: the only requests that nobody may know of; whatever of them arrived is known by now.
    """
    store = open_store(here.settings)
    books = campaign.prove(store, here.settings, here.run_key)
    off = [(check.what, check.expected, check.found) for check in books.checks if check.difference]
    assert (books.difference, off) == (0, []), f"the books do not balance: {books.difference} {off}"
    refs = [one["ref"] for one in here.truth(store)]
    assert len(refs) == len(set(refs)), "somebody got a step twice"
    rows = here.rows(store)
    assert len(rows) == 2 * PEOPLE, f"{len(rows)} rows instead of {2 * PEOPLE}"
    assert {ref for ref, row in rows.items() if row.state in TAKEN} == set(refs), "the ledger and the sandbox differ"
    for ref, row in rows.items():
        assert row.state in (*TAKEN, "unknown", "cancelled"), f"{ref} is {row.state}"
        if row.state == "unknown":
            assert row.attempt_id in in_doubt, f"{ref} is unknown, and its request had an answer"
        if row.state == "cancelled":
            assert row.reason == "run_ended", f"{ref} is cancelled: {row.reason}"
            # Who wakes too late to write finds that nothing was sent, when the run is over.
            if not has_never_left(store, in_doubt):
                assert ref.step_no == 2, f"{ref} was given up"
                earlier = rows[replace(ref, step_no=1)]
                assert earlier.attempt_id in in_doubt, f"{ref} was given up, and the earlier message was never in doubt"
    require_finished(store)
    store.dispose()


def has_never_left(store: Store, requests: set[str]) -> bool:
    """Tell whether any of these requests was not written after all."""
    with store.read() as connection:
        found = connection.exec_driver_sql("SELECT attempt_id FROM attempts WHERE outcome = 'never_left'").scalars()
        return bool(requests & set(found))


def require_finished(store: Store) -> None:
    with store.read() as connection:
        states = connection.exec_driver_sql("SELECT state FROM runs").scalars().all()
        left = connection.exec_driver_sql("SELECT count(*) FROM batches WHERE closed_machine IS NULL").scalar_one()
    assert (states, left) == (["finished"], 0)


def main(folder: Path, what: str, numbers: list[int]) -> None:
    """Do as the module says, a few at a time; what went well is removed, what went wrong stays."""
    if what == "count":
        count(folder)
        return
    drill = {"kill": kill, "stop": stop}[what]
    warm_up(folder)
    waiting, running = list(numbers), {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number = waiting.pop(0)
            running[fork(partial(report, drill, folder, number))] = number
        pid, _ = os.wait()
        number = running.pop(pid)
        print((folder / f"{what}-{number}.json").read_text(encoding="utf-8"), flush=True)  # noqa: T201


class Compiled(dict[Hashable, Any]):
    """The compiled statements of every engine: SQLAlchemy keeps them apart, and each fork opens engines of its own."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(self._anywhere(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(self._anywhere(key), value)

    def _anywhere(self, key: tuple[Hashable, ...]) -> Hashable:
        return tuple(type(part) if isinstance(part, Dialect) else part for part in key)

    def install(self) -> None:
        """Give these to every connection of this process and its forks."""

        @event.listens_for(Engine, "engine_connect")
        def _give(connection: Connection) -> None:
            connection.execution_options(compiled_cache=self)


def warm_up(folder: Path) -> None:
    """Carry a run that nobody disturbs in this process: what it loads and compiles, no fork has to load again."""
    Compiled().install()
    with ExitStack() as stack:
        here = copy(installation(folder / "template"), folder / f"warm-{os.getpid()}", stack)
        carry(here, lease=LONG)
        require_proven(here, in_doubt=set())
    shutil.rmtree(here.folder)
    assert threading.active_count() == 1, "a fork would find locks that nobody lets go"
    # A collection in a fork would write to every object of this process, and so copy its memory.
    gc.collect()
    gc.freeze()


def report(drill: Any, folder: Path, number: int) -> None:
    place = folder / f"{drill.__name__}-{number}"
    try:
        found = drill(folder, number)
        shutil.rmtree(place)
    except Exception:
        found = {"number": number, "wrong": traceback.format_exc(), "place": str(place)}
    place.with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(one) for one in sys.argv[3].split(",")] if len(sys.argv) > 3 else [])
