"""Several senders at once, senders that are killed at any moment, and senders that sleep through their lease."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import func, select

from commplan import campaign
from commplan.campaign import Campaign
from commplan.dispatch import Tally
from commplan.ledger import close
from commplan.store.tables import batches
from tests.campaign.conftest import BOTH, LETTER, PAIR, TEXT, Rehearsal, crowd, until

ROOT = Path(campaign.__file__).parents[2]
#: Texts that one worker has on the wire at once, and emails in one request.
TOGETHER, BATCH = 8, 5


class Nursery:
    """Sending processes of one installation, each forked in a few milliseconds."""

    def __init__(self, here: Rehearsal, stack: ExitStack) -> None:
        self._children: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.sender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **here.environment()},
        )
        stack.callback(self._end)

    def _end(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.communicate(timeout=60)

    def _ask(self, line: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def send(self, running: Campaign, step_no: int, *, lease: float = 60) -> int:
        """Start a sender and return its process id."""
        child = self._ask(f"{running.run.run_key} {step_no} {lease}")
        self._children.append(child)
        return child

    def any_alive(self) -> bool:
        """Tell whether a sender has not ended yet."""
        states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in self._children]
        return any(state != "Z" for state in states)

    def wait(self) -> int:
        """Wait until every sender has ended; return how many ended in an error."""
        self._children.clear()
        return self._ask("")


@pytest.fixture
def nursery() -> Iterator[Callable[[Rehearsal], Nursery]]:
    with ExitStack() as stack:
        yield lambda here: Nursery(here, stack)


def at_work(here: Rehearsal) -> int:
    """Return how many batches are open."""
    with here.store.read() as connection:
        return int(connection.execute(select(func.count()).where(batches.c.closed_machine.is_(None))).scalar_one())


def swept(here: Rehearsal, running: Campaign) -> bool:
    """Take back what is to be taken back; tell whether no batch is open any more."""
    close.sweep(here.store, running.run.run_id)
    return at_work(here) == 0


def require_nobody_twice(here: Rehearsal) -> None:
    refs = [one["ref"] for one in here.truth()]
    assert len(refs) == len(set(refs))


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_two_processes_and_two_threads_send_each_message_once(rehearse, nursery, plan):
    here = rehearse(crowd(60), batch=BATCH)
    running = here.ready(plan)
    senders = nursery(here)
    senders.send(running, 1)
    senders.send(running, 1)
    threads = [threading.Thread(target=here.send_due, args=[running]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert senders.wait() == 0
    assert here.send_due(running).batches == 0
    assert {row.state for row in here.rows().values()} == {"accepted"}
    assert len(here.truth()) == 60
    here.require_balance(running)


def test_receipts_that_come_while_a_text_is_being_sent_are_never_in_its_way(rehearse):
    here = rehearse(crowd(120), day=3_600, batch=60)
    running = here.ready(TEXT)
    assert here.send_due(running) == Tally(batches=2, accepted=120)
    here.catch_up()
    here.require_balance(running)


def test_a_sender_that_is_killed_at_any_moment_loses_nothing_and_repeats_nothing(rehearse, nursery):
    here = rehearse(crowd(120), batch=BATCH)
    running = here.ready(BOTH)
    senders = nursery(here)
    chance = random.Random(4)
    in_doubt = killed = 0
    for _ in range(12):
        step_no = chance.choice([1, 2])
        child = senders.send(running, step_no, lease=0.3)
        until(lambda: at_work(here) or not senders.any_alive(), poll=0.001, why="that the sender began")
        time.sleep(chance.uniform(0, 0.03))  # the moment of the kill, not something that is waited for
        os.kill(child, signal.SIGKILL)
        senders.wait()
        killed += at_work(here)
        until(lambda: swept(here, running), why="that the lease ended")
        unknown = sum(row.state == "unknown" for row in here.rows().values())
        assert unknown - in_doubt <= max(BATCH, TOGETHER)
        in_doubt = unknown
        assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0
        require_nobody_twice(here)
    assert killed > 3, "no sender was killed at work: the moments are badly chosen"
    here.send_until_quiet(running)
    states = [row.state for row in here.rows().values()]
    assert set(states) <= {"accepted", "unknown", "not_due"}
    # Evidence settles what is in doubt, and then the rest follows.
    here.deliver_all()
    here.send_until_quiet(running)
    here.deliver_all()
    require_nobody_twice(here)
    here.require_balance(running)
    rows = here.rows()
    sent = {one["ref"] for one in here.truth()}
    assert sent == {ref for ref, row in rows.items() if row.state == "delivered"}
    # Who got nothing is in doubt, or waits for somebody's answer; nobody is forgotten in between.
    assert {row.state for row in rows.values()} <= {"delivered", "unknown", "not_due"}
    assert sum(row.state == "unknown" for row in rows.values()) <= killed * max(BATCH, TOGETHER)


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_sender_that_sleeps_through_its_lease_sends_nothing_that_another_has_taken_over(rehearse, nursery, plan):
    here = rehearse(crowd(30), batch=15, slow_seconds=1)
    running = here.ready(plan)
    senders = nursery(here)
    # Put to sleep while it waits for an answer: with texts, it has claimed more than it has on the wire.
    here.fault("email" if plan is LETTER else "sms", "slow", 1 if plan is LETTER else TOGETHER)
    on_wire = 15 if plan is LETTER else TOGETHER
    sleeper = senders.send(running, 1, lease=0.3)
    until(lambda: len(here.truth()) >= on_wire, poll=0.001, why="that the requests arrived")
    os.kill(sleeper, signal.SIGSTOP)
    until(lambda: swept(here, running), why="that the lease ended")
    assert sorted(row.state for row in here.rows().values()) == ["queued"] * (30 - on_wire) + ["unknown"] * on_wire
    assert here.send_due(running).accepted == 30 - on_wire
    os.kill(sleeper, signal.SIGCONT)
    assert senders.wait() == 0
    assert running.next_due() is None
    # What it had on the wire was accepted, and it heard so when it woke up.
    assert {row.state for row in here.rows().values()} == {"accepted"}
    assert len(here.truth()) == 30
    here.require_balance(running)


def test_a_run_whose_first_step_was_killed_goes_on_without_waiting_for_the_next_step(rehearse, nursery):
    here = rehearse(crowd(40), batch=40)
    running = here.ready(PAIR)
    senders = nursery(here)
    child = senders.send(running, 1, lease=2)
    until(lambda: at_work(here), poll=0.001, why="that the sender began")
    os.kill(child, signal.SIGKILL)
    senders.wait()
    again = here.start(PAIR)
    here.send_until_quiet(again)
    states = {row.state for ref, row in here.rows().items() if ref.step_no == 1}
    assert states <= {"accepted", "unknown"}
    require_nobody_twice(here)


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_limited_sender_takes_a_second_s_worth_at_most_and_sends_everything(rehearse, plan):
    here = rehearse(crowd(25))
    limited = {"email": here.settings.email.model_copy(update={"rate": 10})}
    limited["sms"] = here.settings.sms.model_copy(update={"rate": 10})
    running = here.ready(plan, settings=here.settings.model_copy(update=limited))
    assert here.send_due(running).accepted == 25
    with here.store.read() as connection:
        claimed = connection.execute(select(batches.c.claimed)).scalars().all()
    assert sum(claimed) == 25
    assert max(claimed) <= 10
    here.require_balance(running)
