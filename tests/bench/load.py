"""How soon the receiver answers under load: signed batches on many connections at once, while a campaign is sending.

The receiver is `commplan serve` as it is, which applies what it keeps meanwhile. Everything is signed before the clock
starts. No figure if one event was lost, or counted twice.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select, type_coerce
from sqlalchemy.types import BigInteger

from commplan import tracking
from commplan.campaign import Campaign, start
from commplan.clock import Clock
from commplan.settings import Settings, as_environment
from commplan.store import open_store
from commplan.store.tables import inbox, messages, receipts
from tests.bench import poster
from tests.bench.listening import EVENTS, KINDS, bodies, keyed, signed
from tests.bench.stage import Stage, stage

CONNECTIONS = 8
#: One post of this many is made twice, as providers do.
_REPEATED = 20


@dataclass(frozen=True, kw_only=True)
class Load:
    """Milliseconds until an answer; events a second, from the first post to the last answer, and until all of them were
    applied; and the share of that first time in which a campaign was sending.
    """

    p50: float
    p99: float
    longest: float
    kept: float
    applied: float
    sending: float


def load(address: str, *, events: int, store_url: str | None = None) -> Load:
    """Send a campaign, then post so many events about it (whole posts), while another is sending to the same people."""
    with tempfile.TemporaryDirectory() as folder:
        people = events // EVENTS * EVENTS // len(KINDS)
        set_up = stage(Path(folder), address=address, channel="email", people=people, store_url=store_url)
        key, settings = keyed(set_up.settings)
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{folder}/crm.sqlite"
        told, sending = set_up.campaign(), _another(set_up)
        for each in (told, sending):
            each.resolve_audience()
            each.render()
        told.dispatch(1)
        at = int(time.time())
        files = [Path(folder) / f"{number}.posts" for number in range(CONNECTIONS)]
        posts = poster.write(files, _posts(key, bodies(told, at=at)))
        found = _measure(settings, sending, files, told)
        _compare(told, at=at, posts=posts)
        for each in (told, sending):
            each.close()
            each.store.dispose()
    return found


def _another(set_up: Stage) -> Campaign:
    """Start another campaign in the same store, to the same people."""
    path = set_up.folder / "another"
    shutil.copytree(set_up.folder / "bench", path)
    plan = (path / "plan.yaml").read_text(encoding="utf-8").replace("plan: bench", "plan: another")
    (path / "plan.yaml").write_text(plan, encoding="utf-8")
    store = open_store(set_up.settings)
    return start(store, set_up.settings, path=path / "plan.yaml", occurrence="1", scheduled=Clock.real().now())


def _posts(key: ec.EllipticCurvePrivateKey, made: Iterator[bytes]) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    for number, body in enumerate(made):
        yield from [("/hooks/sendgrid/events", *signed(key, body))] * (2 if number % _REPEATED == 0 else 1)


def _measure(settings: Settings, sending: Campaign, files: list[Path], told: Campaign) -> Load:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, ThreadPoolExecutor(1) as pool:
        descriptor, port = listening.fileno(), listening.getsockname()[1]
        receiver = subprocess.Popen(
            [sys.executable, "-m", "commplan", "serve", "--fd", str(descriptor)],
            pass_fds=[descriptor],
            env={**os.environ, **as_environment(settings)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await(port)
            sent = pool.submit(_sent, sending)
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.poster", str(port), *map(str, files)],
                check=True,
                stdout=subprocess.PIPE,
            )
            while tracking.waiting(told.store):
                time.sleep(0.1)
            applied = time.perf_counter() - began
            ended = sent.result()
        finally:
            receiver.terminate()
            receiver.wait(60)
    answers = json.loads(done.stdout)
    took, kept = [1000 * each for each in answers["took"]], answers["seconds"]
    events = EVENTS * len(took)
    return Load(
        p50=statistics.median(took),
        p99=statistics.quantiles(took, n=100, method="inclusive")[98],
        longest=max(took),
        kept=events / kept,
        applied=events / applied,
        sending=min(1.0, (ended - began) / kept),
    )


def _sent(sending: Campaign) -> float:
    """Send all of a campaign; return when that ended."""
    sending.dispatch(1)
    return time.perf_counter()


def _await(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        if b" 200 " not in connection.recv(100):
            raise SystemExit("the receiver does not answer: no figure is worth it")


def _compare(told: Campaign, *, at: int, posts: int) -> None:
    """See that each event is one receipt, about the message and of the moment that it tells, and there is no other."""
    with told.store.read() as connection:
        people = connection.execute(
            select(func.count()).select_from(messages).where(messages.c.run_id == told.run.run_id)
        ).scalar_one()
        kept = connection.execute(select(func.count()).select_from(inbox).where(inbox.c.unreadable == 0)).scalar_one()
        told_of = connection.execution_options(yield_per=10_000).execute(
            select(receipts.c.seq, type_coerce(receipts.c.at, BigInteger))
            .where(receipts.c.run_id == told.run.run_id)
            .order_by(receipts.c.seq, receipts.c.at)
        )
        moments = [(at + 60 * number) * 1_000_000 for number in range(len(KINDS))]
        expected = ((seq, moment) for seq in range(1, people + 1) for moment in moments)
        if any(tuple(row) != one for row, one in zip(told_of, expected, strict=True)):
            raise SystemExit("receipts: what is in the ledger is not what was posted: no figure is worth it")
        moved = connection.execute(
            select(*(func.count(messages.c[name]) for name in ("delivered_at", "opened_at", "clicked_at"))).where(
                messages.c.run_id == told.run.run_id
            )
        ).one()
    if kept != posts or set(moved) != {people}:
        raise SystemExit(f"receipts: {kept} of {posts} posts kept, {tuple(moved)} of {people}: no figure is worth it")
