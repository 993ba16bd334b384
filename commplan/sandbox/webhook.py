"""Posting to the receiver: SendGrid's signed batches of events, Twilio's signed callbacks.

Never forgets an event: a batch is posted again until the receiver takes it. A callback is given up when the rules
that its URL carries say so, as Twilio does.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commplan.sandbox.client import Client, NoAnswerError, NotReachedError
from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.dice import Dice
from commplan.sandbox.schedule import Schedule

#: SendGrid posts what has gathered in 30 seconds or 768 KB.
_BATCH_SECONDS = 30.0
_BATCH_BYTES = 768_000
#: A scaled clock makes 30 seconds vanish; the receiver is not called more often than this, in machine seconds.
_SHORTEST_BATCH = 0.2
#: Machine seconds between tries of one event POST: doubling from the first to the longest.
_FIRST_RETRY, _LONGEST_RETRY = 0.5, 60.0
_EVENT_TIMEOUT = 10.0
#: Twilio's time-outs and the time after which it gives a callback up.
_CALLBACK_CONNECT, _CALLBACK_READ, _CALLBACK_TOTAL = 5.0, 15.0, 15.0
_FIRST_CALLBACK_RETRY = 0.2

Event = dict[str, object]


#: The setting that an event is switched on by, where it is not called like the event.
_SETTING_OF = {"spamreport": "spam_report"}


class EventFeed:
    """SendGrid's event webhook: what is emitted gathers, and goes out in signed POSTs."""

    def __init__(self, config: SandboxConfig, schedule: Schedule, client: Client) -> None:
        self._config = config
        self._switches = config.switches
        self._schedule = schedule
        self._client = client
        #: Where events are posted, and the key that verifies them.
        self.url = config.public_url.rstrip("/") + "/hooks/sendgrid/events"
        key = serialization.load_pem_private_key(config.webhook_private_key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the event webhook signs with an elliptic curve key; make one with generate_key()")
        self._key = key
        self.public_key = b64encode(
            key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        ).decode("ascii")
        self._interval = min(_BATCH_SECONDS, max(_SHORTEST_BATCH, _BATCH_SECONDS / config.clock.factor))
        self._gathered: list[Event] = []
        self._posts = 0
        self._emitted = 0
        #: Events emitted and not yet taken by the receiver.
        self.unposted = 0
        #: Whether the way to the receiver is cut: what is posted gets no connection.
        self.is_down = False

    def emit(self, event: Event) -> None:
        """Report one event; it goes out with the next POST, or somewhat later when disorder is on.

        One that is switched off is told to nobody, then or later.
        """
        if _SETTING_OF.get(str(event["event"]), str(event["event"])) in self._switches.events_off:
            return
        self._emitted += 1
        dice = Dice(self._config.seed, "event", self._emitted)
        self._gather_soon(event, dice, "late")
        if dice.chance("duplicate", self._switches.duplicate_share):
            again = dict(event)
            if self._switches.event_ids_change and dice.chance("another id", 0.5):
                again["sg_event_id"] = new_event_id()
            self._schedule.after(dice.between("again", 0, 5 * self._interval), partial(self._gather, again))

    def _gather_soon(self, event: Event, dice: Dice, question: str) -> None:
        if self._switches.disorder and dice.chance(question, 0.1):
            self._schedule.after(dice.between("how late", 0, 5 * self._interval), partial(self._gather, event))
        else:
            self._gather(event)

    def _gather(self, event: Event) -> None:
        if not self._gathered:
            self._schedule.after(self._interval, self._flush)
        self._gathered.append(event)
        self.unposted += 1

    def _flush(self) -> None:
        events, self._gathered = self._gathered, []
        if self._switches.disorder:
            # The ids are random, so this is a shuffle.
            events.sort(key=lambda event: str(event["sg_event_id"]))
        for batch in _split(events):
            self._posts += 1
            dice = Dice(self._config.seed, "post", self._posts)
            if dice.chance("foreign", self._switches.foreign_share):
                batch.append(_foreign_event(self._config, self._posts))
                self.unposted += 1
            post = partial(self._post, batch, None, _FIRST_RETRY)
            if dice.chance("stray", self._switches.stray_share):
                hours = dice.between("absence", 0, self._switches.stray_hours)
                self._schedule.after(max(2 * self._interval, hours * 3600 / self._config.clock.factor), post)
            else:
                self._schedule.after(0, post)

    def test(self, url: str) -> None:
        """Post an invented event to `url` at once, signed, and never again: a test is not repeated."""
        event: Event = {
            "email": "example@test.com",
            "timestamp": int(self._config.now()),
            "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
            "event": "processed",
            "category": ["cat facts"],
            "sg_event_id": new_event_id(),
            "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        }

        async def post() -> None:
            await self._send(url, [event], self._config.stamp())

        self._schedule.after(0, post)

    async def _send(self, url: str, batch: list[Event], stamp: str) -> int:
        """Post events and return the status of the answer, 0 for none."""
        if self.is_down:
            return 0
        body = await asyncio.to_thread(_serialised, batch)
        signature = self._key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "SendGrid Event API",
            "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode("ascii"),
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        }
        try:
            answer = await self._client.send(
                "POST", url, body=body, headers=headers, connect=_EVENT_TIMEOUT, read=_EVENT_TIMEOUT
            )
        except (NotReachedError, NoAnswerError):
            return 0
        return answer.status

    async def _post(self, batch: list[Event], stamp: str | None, wait: float) -> None:
        if stamp is None or self._switches.retries_resigned:
            stamp = self._config.stamp()
        status = await self._send(self.url, batch, stamp)
        if 200 <= status < 300:
            self.unposted -= len(batch)
            return
        if self._switches.event_ids_change:
            batch = [{**event, "sg_event_id": new_event_id()} for event in batch]
        again = partial(self._post, batch, stamp, min(2 * wait, _LONGEST_RETRY))
        self._schedule.after(wait, again)


class Callbacks:
    """Twilio's webhooks: one signed form POST each, repeated as the fragment of its URL says."""

    def __init__(self, config: SandboxConfig, schedule: Schedule, client: Client) -> None:
        self._config = config
        self._schedule = schedule
        self._client = client
        self._called = 0
        #: Callbacks that were given up: the receiver never learned of them.
        self.given_up = 0
        #: Whether the way to the receiver is cut: what is posted gets no connection.
        self.is_down = False

    def call(self, url: str, params: Mapping[str, str]) -> None:
        """Post a form to `url`; the fragment ``#rc=…&rp=…`` overrides how it is retried."""
        self._called += 1
        dice = Dice(self._config.seed, "callback", self._called)
        if dice.chance("lost", self._config.switches.callbacks_lost):
            self.given_up += 1
            return
        target, _, fragment = url.partition("#")
        callback = _Callback(
            url=target,
            params=dict(params),
            rules=_RetryRules(fragment),
            token=secrets.token_hex(16),
            started=time.monotonic(),
        )
        post = partial(self._post, callback, 0)
        late = self._config.switches.disorder and dice.chance("late", 0.1)
        self._schedule.after(dice.between("how late", 0, 0.5) if late else 0, post)
        if dice.chance("duplicate", self._config.switches.duplicate_share):
            self._schedule.after(dice.between("again", 0, 1), post)

    async def _post(self, callback: _Callback, tried: int) -> None:
        body = urlencode(callback.params).encode("ascii")
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "TwilioProxy/1.1",
            "I-Twilio-Idempotency-Token": callback.token,
            "X-Twilio-Signature": twilio_signature(self._config.auth_token, callback.url, callback.params),
        }
        try:
            if self.is_down:
                raise NotReachedError
            answer = await self._client.send(
                "POST", callback.url, body=body, headers=headers, connect=_CALLBACK_CONNECT, read=_CALLBACK_READ
            )
        except NotReachedError:
            failure = "ct"
        except NoAnswerError:
            failure = "rt"
        else:
            if answer.status < 400:
                return
            failure = "4xx" if answer.status < 500 else "5xx"
        wait = _FIRST_CALLBACK_RETRY * 2**tried
        if callback.rules.allow(failure, tried) and time.monotonic() - callback.started + wait < _CALLBACK_TOTAL:
            self._schedule.after(wait, partial(self._post, callback, tried + 1))
        else:
            self.given_up += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Callback:
    """One callback and how it is retried; `token` is the same on every try, `started` is machine time."""

    url: str = field(repr=False)
    params: dict[str, str] = field(repr=False)
    rules: _RetryRules
    token: str
    started: float


class _RetryRules:
    """Twilio's connection overrides: ``rc`` tries more, upon the failures ``rp`` (ct, rt, 4xx, 5xx, all)."""

    def __init__(self, fragment: str) -> None:
        given = dict(parse_qsl(fragment))
        count = given.get("rc", "1")
        self._count = min(5, int(count)) if count.isdigit() else 1
        self._upon = frozenset(given.get("rp", "ct").split(","))

    def allow(self, failure: str, tried: int) -> bool:
        return tried < self._count and ("all" in self._upon or failure in self._upon)


def twilio_signature(auth_token: str, url: str, params: Mapping[str, str]) -> str:
    """Return ``X-Twilio-Signature`` of a form POST: HMAC-SHA1 over the URL and the sorted parameters, base64."""
    signed = url + "".join(name + params[name] for name in sorted(params))
    return b64encode(hmac.new(auth_token.encode(), signed.encode(), sha1).digest()).decode("ascii")


def new_event_id() -> str:
    """Return a fresh ``sg_event_id``."""
    return secrets.token_urlsafe(16)


def _serialised(events: Sequence[Event]) -> bytes:
    # Real payloads end with CR LF, and the signature covers it.
    lines = (json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events)
    return ("[" + ",\r\n".join(lines) + "]\r\n").encode()


def _split(events: list[Event]) -> list[list[Event]]:
    batches: list[list[Event]] = []
    room = 0
    for event in events:
        size = 2 * sum(len(str(value)) + 12 for value in event.values())
        if not batches or size > room:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(event)
        room -= size
    return batches


def _foreign_event(config: SandboxConfig, number: int) -> Event:
    domain = urlsplit(config.public_url).hostname or "localhost"
    return {
        "email": f"elsewhere{number}@person.example.com",
        "event": "delivered",
        "timestamp": int(config.now()),
        "sg_event_id": new_event_id(),
        "sg_message_id": f"{secrets.token_urlsafe(16)}.recvd-0-0-0-0.0",
        "smtp-id": f"<{secrets.token_hex(8)}@{domain}>",
        "response": "250 OK",
        "category": "another-system",
    }
