"""Several processes are one receiver: whichever is killed, nothing is lost, and nothing counts twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import func, select

from commplan import tracking
from commplan.store import open_store
from commplan.store.tables import inbox, messages, receipts
from commplan.terms import MessageState
from tests.conftest import PLAIN
from tests.listening.conftest import PUBLIC
from tests.listening.receiver import Receiver, eventually

_PEOPLE, _BATCH = 400, 10
_TOKEN = "a token of sixteen letters or more"


class Crew(Receiver):
    """`commplan serve --processes 2`, on a socket that outlives it."""

    def start(self) -> None:
        handle = self._listener.fileno()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "commplan", "serve", "--processes", "2", "--fd", str(handle)],
                env={**self._environment, "COMMPLAN_METRICS_TOKEN": _TOKEN},
                pass_fds=[handle],
                stderr=log,
            )
        eventually(lambda: len(self.members()) == 2)
        eventually(lambda: self.figure("commplan_store_readable") == 1)

    def members(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return {int(pid) for pid in children.split()}

    def figure(self, name: str, **labels: str) -> float:
        headers = {"Authorization": f"Bearer {_TOKEN}"}
        answer = httpx.get(f"{self.url}/metrics", headers=headers, timeout=60, **PLAIN)
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def crew(settings, signer) -> Iterator[Crew]:  # type: ignore[no-untyped-def]
    made = Crew(settings.home, public_url=PUBLIC, public_key=signer.public_key, auth_token=signer.auth_token)
    yield made
    made.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_killed_in_the_middle_costs_nothing_and_another_takes_its_place(
    settings, build, signer, crew
) -> None:
    store = open_store(settings)
    world = build(store, people=_PEOPLE)
    attempt = world.send(state=MessageState.SENDING)
    bodies = [
        json.dumps([world.event("delivered", seq, attempt=attempt) for seq in range(first, first + _BATCH)]).encode()
        for first in range(1, _PEOPLE, _BATCH)
    ]

    def kept() -> int:
        with store.read() as connection:
            return int(connection.execute(select(func.count()).select_from(inbox)).scalar_one())

    crew.start()
    before = crew.members()
    with ThreadPoolExecutor(4) as pool:
        posts = [pool.submit(crew.post_until_taken, body, signer.sendgrid(body)) for body in bodies]
        eventually(lambda: kept() >= len(bodies) // 4)
        os.kill(min(before), signal.SIGKILL)
        for post in posts:
            post.result(timeout=120)
    eventually(lambda: tracking.waiting(store) == 0)
    with store.read() as connection:
        states = connection.execute(select(messages.c.state, func.count()).group_by(messages.c.state)).all()
        facts = connection.execute(select(func.count()).select_from(receipts)).scalar_one()
    assert [tuple(row) for row in states] == [("delivered", _PEOPLE)]
    assert facts == _PEOPLE
    eventually(lambda: len(crew.members() - before) == 1)
    # What the dead one counted is not forgotten, and whichever process answers tells it all.
    path = "/hooks/sendgrid/events"
    assert crew.figure("commplan_answers_total", path=path, code="204") >= len(bodies)
    assert crew.figure("commplan_waiting_posts") == 0
    assert crew.end(signal.SIGTERM)[0] == 0
    assert not any(is_alive(pid) for pid in before)
    store.dispose()


def test_the_processes_end_with_the_one_that_started_them_whatever_ends_it(settings, crew) -> None:
    crew.start()
    members = crew.members()
    crew.end(signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in members))
