"""The receiver as a process: killed at any moment it loses nothing; told to end it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from commplan import tracking
from commplan.errors import InputError
from commplan.store import Store, open_store
from commplan.store.tables import inbox, messages, receipts
from commplan.terms import MessageState
from commplan.web.serve import serve
from tests.conftest import PLAIN

_PROGRAM = """
import socket, sys
from commplan.logs import set_up
from commplan.settings import load_settings
from commplan.web.serve import serve
set_up()
serve(load_settings(), sock=socket.socket(fileno=int(sys.argv[1])))
"""
_PEOPLE, _BATCH = 600, 20


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Receiver:
    """`serve` in a process of its own, on a socket that outlives it."""

    def __init__(self, home: Path, public_key: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COMMPLAN_")},
            "COMMPLAN_HOME": str(home),
            "COMMPLAN_SECRET_KEY": "a secret of the tests",
            "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([public_key]),
            "PYTHONWARNINGS": "error",
        }
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        handle = self._listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(handle)],
            env=self._environment,
            pass_fds=[handle],
            stderr=subprocess.PIPE,
        )

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        _, told = self.process.communicate(timeout=30)
        return self.process.returncode, told.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._listener.close()

    def post_until_taken(self, body: bytes, headers: dict[str, str]) -> None:
        """Post as a provider does: again and again, until somebody says 2xx."""
        while True:
            try:
                answer = httpx.post(
                    f"{self.url}/hooks/sendgrid/events", content=body, headers=headers, timeout=20, **PLAIN
                )
            except httpx.TransportError:
                continue
            if answer.is_success:
                return


@pytest.fixture
def on_disk(settings) -> Iterator[Store]:  # type: ignore[no-untyped-def]
    opened = open_store(settings.model_copy(update={"secret_key": SecretStr("a secret of the tests")}))
    yield opened
    opened.dispose()


@pytest.fixture
def receiver(settings, signer) -> Iterator[Receiver]:  # type: ignore[no-untyped-def]
    made = Receiver(settings.home, signer.public_key)
    yield made
    made.close()


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
