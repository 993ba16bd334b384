"""The receiver killed again and again at random moments, while the sandbox posts as SendGrid does: late, out of order,
twice, and again and again until it is taken, each time with other event ids.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from commplan import tracking
from commplan.clock import Clock
from commplan.ids import AttemptId
from commplan.sandbox import SandboxConfig, Switches
from commplan.sandbox.client import Client
from commplan.sandbox.schedule import Schedule
from commplan.sandbox.webhook import EventFeed
from commplan.store.tables import inbox, messages, receipts
from tests.listening.conftest import World
from tests.listening.receiver import eventually

#: People about whom there is something to tell between one kill and the next, and what it is, with its second.
_SHARE = 40
_TOLD = (("processed", 10), ("delivered", 30), ("open", 300), ("click", 600))


@contextmanager
def _posting(config: SandboxConfig) -> Iterator[tuple[Schedule, Callable[..., None]]]:
    """Let SendGrid's event webhook run; yields what it has still to do, and what emits events in its own thread."""
    begun, loop = threading.Event(), asyncio.new_event_loop()
    schedule, client = Schedule(config.clock), Client()
    feed = EventFeed(config, schedule, client)

    async def run() -> None:
        await client.open()
        running = asyncio.create_task(schedule.run())
        begun.set()
        await ended.wait()
        running.cancel()
        await schedule.close()
        await client.close()

    ended = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    begun.wait(30)

    def emit(events: list[dict[str, Any]], over: float) -> None:
        for number, event in enumerate(events):
            loop.call_soon_threadsafe(schedule.after, over * number / len(events), lambda event=event: feed.emit(event))

    try:
        yield schedule, emit
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)
        loop.close()
    assert schedule.failures == 0


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(7_200)])])
def test_a_receiver_killed_at_random_moments_loses_no_event_and_counts_none_twice(
    on_disk, build, receiver, signer, kills
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    world: World = build(on_disk, people=_SHARE * (kills + 1))
    attempt = world.send()
    config = SandboxConfig(
        api_key="SG.of-the-tests",
        account_sid="AC" + "1" * 32,
        auth_token=signer.auth_token,
        webhook_private_key=signer.private_key,
        public_url=receiver.url,
        clock=Clock(origin=world.start, anchor=time.time(), factor=3_600),
        seed=seed,
        switches=Switches(stray_share=0.0, duplicate_share=0.2, foreign_share=0.1),
    )

    def kept() -> int:
        with on_disk.read() as connection:
            return int(connection.execute(select(func.count()).select_from(inbox)).scalar_one())

    with _posting(config) as (schedule, emit):
        for number in range(kills + 1):
            before, first = kept(), 1 + number * _SHARE
            emit(_events(world, range(first, first + _SHARE), attempt), over=dice.uniform(0, 3))
            receiver.start()
            if number == kills:
                break
            if dice.random() < 0.75:
                eventually(lambda least=before: kept() > least, seconds=240)
            time.sleep(dice.uniform(0, 1))
            assert receiver.end(signal.SIGKILL)[0] == -signal.SIGKILL
        eventually(lambda: schedule.pending == 0 and tracking.waiting(on_disk) == 0, seconds=240)
    with on_disk.read() as connection:
        told = connection.execute(select(receipts.c.seq, receipts.c.kind, receipts.c.at)).all()
        rows = connection.execute(
            select(messages.c.state, messages.c.delivered_at, messages.c.opened_at, messages.c.clicked_at)
        ).all()
    kinds = {"processed": "processed", "delivered": "delivered", "open": "opened", "click": "clicked"}
    assert sorted(tuple(row) for row in told) == sorted(
        (seq, kinds[name], _at(world, second)) for seq in range(1, world.people + 1) for name, second in _TOLD
    )
    assert {tuple(row) for row in rows} == {("delivered", *(_at(world, second) for _, second in _TOLD[1:]))}


def _at(world: World, second: int) -> datetime:
    return datetime.fromtimestamp(int(world.start.timestamp()) + second, world.start.tzinfo)


def _events(world: World, seqs: range, attempt: AttemptId) -> list[dict[str, Any]]:
    return [
        world.event(name, seq, attempt=attempt, after=second, url="https://shop.example.com/set-up")
        for seq in seqs
        for name, second in _TOLD
    ]
