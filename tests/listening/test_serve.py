"""The receiver as a process: killed at any moment it loses nothing; told to end it ends."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select

from commplan import tracking
from commplan.errors import InputError
from commplan.store.tables import inbox, messages, receipts
from commplan.terms import MessageState
from commplan.web.serve import serve
from tests.conftest import PLAIN
from tests.listening.receiver import eventually

_PEOPLE, _BATCH = 600, 20


def test_a_receiver_killed_in_the_middle_loses_nothing_and_counts_nothing_twice(
    on_disk, build, signer, receiver
) -> None:
    world = build(on_disk, people=_PEOPLE)
    attempt = world.send(state=MessageState.SENDING)
    bodies = [
        json.dumps(
            [
                world.event(name, seq, attempt=attempt, after=after)
                for seq in range(first, first + _BATCH)
                for name, after in (("delivered", 30), ("click", 600))
            ]
        ).encode()
        for first in range(1, _PEOPLE, _BATCH)
    ]

    def kept() -> int:
        with on_disk.read() as connection:
            return int(connection.execute(select(func.count()).select_from(inbox)).scalar_one())

    receiver.start()
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(receiver.post_until_taken, body, signer.sendgrid(body)) for body in bodies]
        for enough in (len(bodies) // 4, len(bodies) // 2):
            eventually(lambda least=enough: kept() >= least)
            assert receiver.end(signal.SIGKILL)[0] == -signal.SIGKILL
            receiver.start()
        for post in posts:
            post.result(timeout=60)
    eventually(lambda: tracking.waiting(on_disk) == 0)
    with on_disk.read() as connection:
        states = connection.execute(select(messages.c.state, func.count()).group_by(messages.c.state)).all()
        clicked = connection.execute(select(func.count(messages.c.clicked_at))).scalar_one()
        facts = connection.execute(select(func.count()).select_from(receipts)).scalar_one()
    assert [tuple(row) for row in states] == [("delivered", _PEOPLE)]
    assert clicked == _PEOPLE
    assert facts == 2 * _PEOPLE
    assert kept() >= len(bodies)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_receiver_told_to_end_ends_well_and_says_nothing_of_whom_it_met(on_disk, build, receiver, how) -> None:
    world = build(on_disk, people=1)
    world.send()
    receiver.start()
    for path in ("/healthz", f"/u/{world.token()}", "/u/p1@person.example.com"):
        httpx.get(receiver.url + path, timeout=30, **PLAIN)
    code, told = receiver.end(how)
    assert code == 0
    assert world.token() not in told
    assert "person.example.com" not in told
    assert "Traceback" not in told


def test_a_port_in_use_is_said_plainly_before_anything_is_opened(settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen there"):
        serve(settings, port=taken.getsockname()[1])
    assert not settings.home.exists()
