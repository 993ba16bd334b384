"""The schedule: everything happens, in order, late rather than never."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from commplan.clock import Clock
from commplan.sandbox.schedule import Schedule

NOON = datetime(2026, 12, 1, 2, tzinfo=UTC)


async def drain(schedule):
    running = asyncio.create_task(schedule.run())
    while schedule.pending:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_actions_happen_in_the_order_of_their_time_even_when_all_are_late():
    async def scenario():
        schedule = Schedule(Clock(origin=NOON, anchor=time.time(), factor=86_400))
        happened = []
        start = NOON.timestamp() - 3_600
        for number in (3, 1, 2):
            schedule.at(start + number, lambda number=number: happened.append(number))
        assert schedule.next_due is not None
        assert abs(schedule.next_due.timestamp() - start - 1) < 1
        assert schedule.lag > 0
        await drain(schedule)
        assert happened == [1, 2, 3]
        assert (schedule.next_due, schedule.lag) == (None, 0.0)

    asyncio.run(scenario())


def test_an_action_that_fails_is_counted_and_stops_nothing():
    async def scenario():
        schedule = Schedule(Clock.real())
        happened = []

        async def fail():
            raise ValueError

        async def succeed():
            happened.append("later")

        schedule.after(0, lambda: 1 / 0)
        schedule.after(0, fail)
        schedule.after(0.01, succeed)
        await drain(schedule)
        assert happened == ["later"]
        assert schedule.failures == 2

    asyncio.run(scenario())


def test_an_earlier_action_is_not_kept_waiting_by_a_later_one():
    async def scenario():
        schedule = Schedule(Clock.real())
        running = asyncio.create_task(schedule.run())
        schedule.after(60, lambda: None)
        await asyncio.sleep(0)
        soon = asyncio.Event()
        schedule.after(0, soon.set)
        await asyncio.wait_for(soon.wait(), 5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_requests_in_flight_have_a_limit_and_all_of_them_end():
    async def scenario():
        schedule = Schedule(Clock.real())
        at_once = most = ended = 0

        async def work():
            nonlocal at_once, most, ended
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1
            ended += 1

        for _ in range(300):
            schedule.after(0, work)
        await drain(schedule)
        assert ended == 300
        assert 1 < most <= 32

    asyncio.run(scenario())
