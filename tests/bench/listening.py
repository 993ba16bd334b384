"""How fast the receiver takes signed posts: kept durably, and applied to the ledger.

``python -m tests.bench.listening FD`` is the receiver, with the settings of its environment; what it keeps is applied
by the one who measures, so that each of the two is timed by itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from commplan import tracking
from commplan.campaign import Campaign
from commplan.ids import MessageRef, TokenPurpose
from commplan.receipts.sendgrid import SIGNATURE_HEADER, TIMESTAMP_HEADER
from commplan.settings import Settings, as_environment, load_settings
from commplan.store import open_store
from commplan.store.tables import messages
from commplan.web.app import create_app
from tests.bench.stage import stage

#: Events in a post, and connections they come on at once.
EVENTS, CONNECTIONS = 1_000, 4
KINDS = ("processed", "delivered", "open", "click")


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Events a second: kept durably, from the first post to the last answer; and applied, all of them."""

    kept: float
    applied: float


def listen(address: str, *, people: int, store_url: str | None = None) -> Heard:
    """Send a campaign, then post four signed events for each of its mails to a receiver in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        set_up = stage(Path(folder), address=address, channel="email", people=people, store_url=store_url)
        key, settings = keyed(set_up.settings)
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{folder}/crm.sqlite"
        running = set_up.campaign()
        running.resolve_audience()
        running.render()
        running.dispatch(1)
        posts = [signed(key, body) for body in bodies(running, at=int(time.time()))]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            receiver = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.listening", str(listening.fileno())],
                pass_fds=[listening.fileno()],
                env={**os.environ, **as_environment(settings)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            _post(port, posts[:1])
            events = EVENTS * len(posts)
            began = time.perf_counter()
            shares = [posts[1 + number :: CONNECTIONS] for number in range(CONNECTIONS)]
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                for share in [pool.submit(_post, port, share) for share in shares]:
                    share.result()
            kept = time.perf_counter() - began
        finally:
            receiver.terminate()
            receiver.wait(30)
        began = time.perf_counter()
        while tracking.apply_inbox(running.store).posts:
            pass
        applied = time.perf_counter() - began
        with running.store.read() as connection:
            clicked = connection.execute(select(func.count()).where(messages.c.clicked_at.is_not(None))).scalar_one()
        running.close()
        running.store.dispose()
    if clicked != EVENTS * len(posts) // len(KINDS):
        raise SystemExit(f"receipts: {clicked} clicks are in the ledger: no figure is worth it")
    return Heard(kept=EVENTS * len(posts[1:]) / kept, applied=events / applied)


def keyed(settings: Settings) -> tuple[ec.EllipticCurvePrivateKey, Settings]:
    """Return a key to sign with, and settings that know it."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    email = settings.email.model_copy(update={"webhook_keys": (b64encode(public).decode(),)})
    return key, settings.model_copy(update={"email": email})


def bodies(running: Campaign, *, at: int) -> Iterator[bytes]:
    """Return whole posts about a campaign's mails: for each of them one event of every kind, from `at` on."""
    with running.store.read() as connection:
        sent = connection.execute(
            select(messages.c.seq, messages.c.attempt_id)
            .where(messages.c.run_id == running.run.run_id)
            .order_by(messages.c.seq)
        ).all()
    share = EVENTS // len(KINDS)
    for first in range(0, len(sent) - len(sent) % share, share):
        rows = sent[first : first + share]
        refs = [MessageRef(running.run.run_id, 1, row.seq) for row in rows]
        tokens = running.store.keyring.tokens(TokenPurpose.MESSAGE, refs)
        events = [
            {
                "event": kind,
                "email": f"p{row.seq}@person.example.com",
                "timestamp": at + 60 * number,
                "sg_event_id": f"{kind}-{row.seq}",
                "sg_message_id": f"m{row.seq}.recvd-1",
                "cp_m": token,
                "cp_a": row.attempt_id,
                "ip": "192.0.2.7",
                "useragent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
                "url": f"https://shop.example.com/set-up/{row.seq}",
            }
            for row, token in zip(rows, tokens, strict=True)
            for number, kind in enumerate(KINDS)
        ]
        yield json.dumps(events).encode()


def signed(key: ec.EllipticCurvePrivateKey, body: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a post with the headers that SendGrid would send."""
    timestamp = str(int(time.time()))
    signature = key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    headers = {SIGNATURE_HEADER: b64encode(signature).decode(), TIMESTAMP_HEADER: timestamp}
    return body, headers | {"Content-Type": "application/json"}


def _post(port: int, posts: Sequence[tuple[bytes, dict[str, str]]]) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    for body, headers in posts:
        connection.request("POST", "/hooks/sendgrid/events", body=body, headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise SystemExit(f"the receiver answered {answer.status}")
    connection.close()


def main(descriptor: int) -> None:
    """Keep what is posted, until told to end."""
    settings = load_settings()
    store = open_store(settings, create=False)
    config = uvicorn.Config(create_app(store, settings, applies=False), access_log=False, log_config=None)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
