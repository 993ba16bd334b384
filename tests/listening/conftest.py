"""A run with messages on their way, written straight into the tables, and the posts of providers about them."""

from __future__ import annotations

import json
import socket
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr
from sqlalchemy import Row, insert, select
from twilio.request_validator import RequestValidator

from commplan import tracking
from commplan.ids import AttemptId, MessageRef, RunId, TokenPurpose, new_attempt_id
from commplan.ledger.run import start_run
from commplan.planfile import parse_plan
from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.store.tables import attempts, batches, messages, recipients, suppressions
from commplan.terms import MessageState
from commplan.tracking import Applied, PostKind
from commplan.web.app import create_app
from tests.conftest import PLAIN
from tests.listening.receiver import Receiver

PLAN = """
plan: onboarding
title: Welcome new customers
purpose: service
topic: getting-started
owner: crm
team: {crm: {}}
goals:
  - {id: reach, metric: delivered_rate, target: at least 95%}
audience:
  people: customers
  source: {url: env:CRM_DATABASE_URL, sql: select * from customers}
  contact: {id: customer_id, email: email, phone: mobile, consent: {sms: sms_opt_in, email: email_opt_in}}
sequence:
  - {step: welcome, channel: email, content: welcome}
  - {step: nudge, channel: sms, after: welcome, wait: P2D, content: nudge}
  - {step: survey, channel: email, after: welcome, wait: P5D, content: survey,
     ask: {scale: csat, question: {en: How was your first week?, zh: 您的第一周感觉如何？}}}
"""
WELCOME, NUDGE, SURVEY = 1, 2, 3
EMAIL_STEPS = (WELCOME, SURVEY)
#: Where the signed settings say that we are reached.
PUBLIC = "https://mail.sender.example.com/cp"


@dataclass
class World:
    """One run, its people (1 … `people`) and what providers say about their messages."""

    store: Store
    run_id: RunId
    people: int
    start: datetime
    locales: Sequence[str | None] = field(default_factory=list)

    def email(self, seq: int) -> str:
        return f"p{seq}@person.example.com"

    def phone(self, seq: int) -> str:
        return f"+1202555{seq:04d}"

    def ref(self, seq: int = 1, step_no: int = WELCOME) -> MessageRef:
        return MessageRef(self.run_id, step_no, seq)

    def token(self, seq: int = 1, step_no: int = WELCOME, purpose: TokenPurpose = TokenPurpose.MESSAGE) -> str:
        return self.store.keyring.token(purpose, self.ref(seq, step_no))

    def send(
        self,
        seqs: Iterable[int] | None = None,
        *,
        step_no: int = WELCOME,
        state: MessageState = MessageState.ACCEPTED,
        at: datetime | None = None,
        attempt_id: AttemptId | None = None,
    ) -> AttemptId:
        """Write the rows that a sender leaves behind whose one request is in `state`."""
        chosen = list(seqs or range(1, self.people + 1))
        attempt, wire = attempt_id or new_attempt_id(), at or self.start
        channel = "email" if step_no in EMAIL_STEPS else "sms"
        taken = state not in (MessageState.SENDING, MessageState.UNKNOWN)
        outcome = {MessageState.SENDING: "open", MessageState.UNKNOWN: "unknown"}.get(state, "accepted")
        key = self.store.keyring.address_key
        with self.store.write() as connection:
            batch = connection.execute(
                insert(batches).values(
                    run_id=self.run_id, step_no=step_no, worker="w", claimed=len(chosen), lease_machine=4e9
                )
            ).inserted_primary_key[0]
            connection.execute(
                insert(attempts).values(
                    attempt_id=attempt,
                    batch_id=batch,
                    run_id=self.run_id,
                    step_no=step_no,
                    channel=channel,
                    messages=len(chosen),
                    wire_at=wire,
                    wire_machine=0.0,
                    outcome=outcome,
                )
            )
            connection.execute(
                insert(messages),
                [
                    {
                        "run_id": self.run_id,
                        "step_no": step_no,
                        "seq": seq,
                        "channel": channel,
                        "state": state,
                        "address_key": key(channel, self.email(seq) if channel == "email" else self.phone(seq)),
                        "batch_id": batch,
                        "attempt_id": attempt,
                        "accepted_at": wire if taken else None,
                    }
                    for seq in chosen
                ],
            )
        return attempt

    def event(
        self, name: str, seq: int = 1, *, attempt: str, step_no: int = WELCOME, after: float = 60.0, **more: Any
    ) -> dict[str, Any]:
        """Return an event as SendGrid posts it, `after` seconds after the start."""
        return {
            "event": name,
            "email": self.email(seq),
            "timestamp": int((self.start + timedelta(seconds=after)).timestamp()),
            "smtp-id": f"<{seq}@geopod-ismtpd>",
            "sg_event_id": f"{name}-{seq}-{after}",
            "sg_message_id": f"Xj5LrecvdX{attempt[:6]}.recvd-85abf8d92c-3qfgp-2-7890E356-43C.{seq}",
            "cp_m": self.token(seq, step_no),
            "cp_a": attempt,
            **more,
        }

    def told(self, *events: Mapping[str, Any]) -> Applied:
        """Let SendGrid post events, and apply them."""
        tracking.append(self.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=json.dumps(events).encode() + b"\r\n")
        return tracking.apply_inbox(self.store)

    def status(self, status: str, seq: int = 1, *, attempt: str, step_no: int = NUDGE, **more: str) -> Applied:
        """Let Twilio post a status callback, and apply it."""
        form = {"MessageSid": f"SM{seq:032d}", "To": self.phone(seq), **more, "MessageStatus": status}
        query = {"m": self.token(seq, step_no), "a": attempt}
        tracking.append(self.store, kind=PostKind.TWILIO_STATUS, query=query, body=urlencode(form).encode())
        return tracking.apply_inbox(self.store)

    def text(self, body: str, seq: int = 1, *, sid: str | None = None, **more: str) -> Applied:
        """Let a person write back, and apply it."""
        self._texts = getattr(self, "_texts", 0) + 1
        form = {"MessageSid": sid or f"SM{self._texts:032x}", "From": self.phone(seq), "Body": body, **more}
        tracking.append(self.store, kind=PostKind.TWILIO_INBOUND, query={}, body=urlencode(form).encode())
        return tracking.apply_inbox(self.store)

    def row(self, seq: int = 1, step_no: int = WELCOME) -> Row[Any]:
        with self.store.read() as connection:
            return connection.execute(
                select(messages).where(
                    messages.c.run_id == self.run_id, messages.c.step_no == step_no, messages.c.seq == seq
                )
            ).one()

    def rows(self) -> list[tuple[Any, ...]]:
        with self.store.read() as connection:
            return [tuple(row) for row in connection.execute(select(messages).order_by(*messages.primary_key))]

    def suppressed(self) -> set[tuple[str, str, str, str]]:
        """Return (channel, address key, scope, reason) of what is in force about addresses."""
        with self.store.read() as connection:
            return {
                tuple(row)
                for row in connection.execute(
                    select(
                        suppressions.c.channel,
                        suppressions.c.address_key,
                        suppressions.c.scope,
                        suppressions.c.reason,
                    ).where(suppressions.c.lifted_at.is_(None), suppressions.c.people.is_(None))
                )
            }

    def people_suppressed(self) -> set[tuple[str, int, str, str]]:
        """Return (channel, person, scope, reason) of what is in force about people."""
        with self.store.read() as connection:
            return {
                (row.channel, int(row.contact_id.removeprefix("c")), row.scope, row.reason)
                for row in connection.execute(
                    select(suppressions).where(suppressions.c.lifted_at.is_(None), suppressions.c.people == "customers")
                )
            }

    def email_suppressed(self, seq: int, scope: str, reason: str) -> tuple[str, str, str, str]:
        return ("email", self.store.keyring.address_key("email", self.email(seq)), scope, reason)

    def sms_suppressed(self, seq: int, scope: str, reason: str) -> tuple[str, str, str, str]:
        return ("sms", self.store.keyring.address_key("sms", self.phone(seq)), scope, reason)


def make_world(
    store: Store, *, people: int = 3, plan_text: str = PLAN, locales: Sequence[str | None] = (), occurrence: str = "1"
) -> World:
    """Return a new run of `plan_text` with people, and no message yet."""
    plan = parse_plan(plan_text, "plan.yaml")
    run = start_run(store, plan=plan, occurrence=occurrence, files={"plan.yaml": plan_text})
    world = World(store=store, run_id=run.run_id, people=people, start=store.clock.now() - timedelta(hours=1))
    key = store.keyring.address_key
    with store.write() as connection:
        connection.execute(
            insert(recipients),
            [
                {
                    "run_id": run.run_id,
                    "seq": seq,
                    "people": "customers",
                    "contact_id": f"c{seq}",
                    "email": world.email(seq),
                    "email_key": key("email", world.email(seq)),
                    "phone": world.phone(seq),
                    "phone_key": key("sms", world.phone(seq)),
                    "locale": locales[seq - 1] if seq <= len(locales) else None,
                    "columns": "{}",
                }
                for seq in range(1, people + 1)
            ],
        )
    return world


@pytest.fixture
def world(store: Store) -> World:
    return make_world(store)


@pytest.fixture
def plan_text() -> str:
    return PLAN


@pytest.fixture
def build():  # type: ignore[no-untyped-def]
    return make_world


class Signer:
    """Signs posts the way the providers do."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.auth_token = "12345"
        self.private_key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        public = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key = b64encode(public).decode()

    def sendgrid(self, body: bytes, timestamp: str = "1764554400") -> dict[str, str]:
        signature = self._key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return {
            "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        }

    def twilio(self, url: str, form: Mapping[str, str]) -> dict[str, str]:
        signature = RequestValidator(self.auth_token).compute_signature(url, dict(form))
        return {"X-Twilio-Signature": signature, "Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


@contextmanager
def serving(store: Store, settings: Settings, *, applies: bool = False) -> Iterator[httpx.Client]:
    """Run the real server on a free port; what it keeps is applied by the test, unless it `applies` it itself."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(store, settings, applies=applies)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="on", proxy_headers=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, **PLAIN, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def serve():  # type: ignore[no-untyped-def]
    return serving


@pytest.fixture
def client(store: Store, signed_settings: Settings) -> Iterator[httpx.Client]:
    with serving(store, signed_settings) as opened:
        yield opened


@pytest.fixture
def signed_settings(settings: Settings, signer: Signer) -> Settings:
    """Settings that know the signer's keys."""
    return settings.model_copy(
        update={
            "public_url": PUBLIC,
            "email": settings.email.model_copy(
                update={"webhook_keys": (Signer().public_key, signer.public_key), "from_name": "Example Co"}
            ),
            "sms": settings.sms.model_copy(update={"auth_token": SecretStr(signer.auth_token)}),
        }
    )


@pytest.fixture
def on_disk(settings: Settings) -> Iterator[Store]:
    """The store of a receiver in a process of its own."""
    opened = open_store(settings.model_copy(update={"secret_key": SecretStr("a secret of the tests")}))
    yield opened
    opened.dispose()


@pytest.fixture
def receiver(settings: Settings, signer: Signer) -> Iterator[Receiver]:
    """The receiver as a process, not started yet."""
    made = Receiver(settings.home, public_url=PUBLIC, public_key=signer.public_key, auth_token=signer.auth_token)
    yield made
    made.close()
