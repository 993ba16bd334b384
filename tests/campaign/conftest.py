"""Rehearsals: a whole installation in one process, with a CRM of named people, and the sandbox as the only witness."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Row, insert, select
from uvicorn import Server

from commplan import campaign, pulse
from commplan.campaign import Campaign
from commplan.clock import Clock
from commplan.dispatch import Tally
from commplan.ids import MessageRef, RunId, TokenPurpose
from commplan.ledger.claim import Shard
from commplan.ledger.proof import Proof
from commplan.sandbox import Role, SandboxConfig, Switches, generate_key, running
from commplan.settings import ClockSettings, EmailSettings, Settings, SmsSettings
from commplan.store import Store, open_store
from commplan.store.tables import attempts, feed_beats, messages, recipients
from commplan.tracking import PostKind, append, waiting
from commplan.watch import watching
from commplan.web.serve import make_server
from tests.conftest import NOON, PLAIN

#: Texts in flight at once.
CONNECTIONS = 8
PRIVATE, PUBLIC = generate_key()
API_KEY, ACCOUNT, AUTH_TOKEN = "SG.of-the-tests", "AC" + "1" * 32, "an-auth-token"
TEMPLATES = Path(campaign.__file__).parents[2] / "templates"

#: Welcome by email, a text to the silent, a survey, and a text to whoever still says nothing.
PLAN = """
plan: onboarding
title: Welcome new customers
purpose: service
topic: getting-started
owner: crm
team: {crm: {}}
goals:
  - {id: arrive, metric: delivered_rate, step: welcome, target: at least 95%}
  - {id: activate, metric: conversion.activated, within: P3D, target: at least 10%}
  - {id: respond, metric: response_rate, step: welcome, target: at least 25%}
  - {id: content-people, metric: csat, target: at least 3}
audience:
  people: customers
  source:
    url: env:CRM_DATABASE_URL
    zone: Asia/Shanghai
    sql: select * from customers where signed_up_at >= :since order by customer_id
  start: 2026-11-01
  contact: {id: customer_id, email: email, phone: mobile, locale: lang, timezone: tz, consent: {sms: sms_opt_in}}
  segments:
    - {name: vip, if: lifetime_value >= 1000}
    - {name: new}
conversions:
  activated:
    sql: select customer_id, activated_at from customers where activated_at is not null
    contact: customer_id
    at: activated_at
sequence:
  - {step: welcome, channel: email, content: welcome, by_segment: {vip: {content: welcome-vip}}}
  - {step: nudge, channel: sms, content: nudge, after: welcome, wait: P1D, not_after: P8D,
     when: not responded(welcome) and not converted(activated)}
  - {step: survey, channel: email, content: survey, after: welcome, wait: P1D, not_after: P4D, window: 09:00-18:00,
     ask: {scale: csat, question: {en: How was your first week?, zh: 您的第一周感觉如何？}}}
  - {step: reminder, channel: sms, content: nudge, after: survey, wait: P1D, not_after: P8D,
     when: not answered(survey) and not replied(nudge)}
evaluation: {after: P1D}
"""

#: One email, nothing after it.
LETTER = """
plan: letter
title: A letter
purpose: service
topic: letters
owner: crm
team: {crm: {}}
goals: [{id: reach, metric: reach, target: at least 95%}]
audience:
  people: customers
  source: {url: env:CRM_DATABASE_URL, zone: Asia/Shanghai, sql: select * from customers order by customer_id}
  contact: {id: customer_id, email: email, phone: mobile, locale: lang, timezone: tz, consent: {sms: sms_opt_in}}
sequence:
  - {step: welcome, channel: email, content: welcome}
evaluation: {after: PT1H}
"""

#: One email, and a day later a text to everybody it reached.
PAIR = LETTER.replace(
    "evaluation:", "  - {step: nudge, channel: sms, content: nudge, wait: P1D, not_after: P2D}\nevaluation:"
)

#: A text right after the email.
BOTH = PAIR.replace("wait: P1D", "wait: PT0S")

#: One text.
TEXT = LETTER.replace("channel: email, content: welcome", "channel: sms, content: nudge")

#: What the sandbox says happened, and the column of the ledger that must say the same.
FACTS = {
    "delivered": "delivered_at",
    "bounced": "failed_at",
    "blocked": "failed_at",
    "undelivered": "failed_at",
    "opened": "opened_at",
    "clicked": "clicked_at",
    "machine_clicked": "machine_clicked_at",
    "replied": "replied_at",
    "answered": "answered_at",
    "unsubscribed": "opted_out_at",
    "complained": "complained_at",
}

Truth = dict[str, Any]


def happened(one: Truth) -> set[str]:
    """Return the columns of the ledger that must be set, by the sandbox's account of a message."""
    columns = {column for what, column in FACTS.items() if one[what]}
    # STOP is no answer.
    return columns - {"replied_at"} | {"opted_out_at"} if one["opted_out"] else columns


def noted(row: Row[Any]) -> set[str]:
    """Return which of these columns are set."""
    return {column for column in FACTS.values() if getattr(row, column) is not None}


@dataclass(frozen=True, kw_only=True)
class Customer:
    """A row of the CRM, and what its person does. `email` None: made of the name; "": none."""

    name: str
    role: Role = Role.SILENT
    texts: Role | None = None  #: what they do with texts; default: the same
    email: str | None = None
    mobile: str | None = None
    lang: str | None = "en"
    tz: str | None = "Asia/Shanghai"
    value: int = 0
    sms_opt_in: int = 1
    signed_up_at: str = "2026-11-20 09:00:00"

    @property
    def address(self) -> str:
        return f"{self.name}@person.example.com" if self.email is None else self.email


def until(holds: Callable[[], object], *, seconds: float = 60, poll: float = 0.05, why: str = "the condition") -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{why} never came true"
        time.sleep(poll)


class ProvidersClock:
    """The plan time of the sandbox: that of the store, wherever a test moves it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clock, name)


class Receiver:
    """The receiver at its public address; it may be down for a while."""

    def __init__(self, settings: Settings, bound: socket.socket) -> None:
        self._settings = settings
        self._address = bound.getsockname()
        self._bound: socket.socket | None = bound
        self._running: tuple[Store, Server, threading.Thread] | None = None

    def start(self) -> None:
        bound, self._bound = self._bound or _bound(*self._address), None
        store = open_store(self._settings)
        server = make_server(store, self._settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        self._running = store, server, thread
        thread.start()
        until(lambda: server.started, why="that the receiver listens")

    def stop(self) -> None:
        if self._running is not None:
            store, server, thread = self._running
            self._running = None
            server.should_exit = True
            thread.join()
            store.dispose()


@dataclass
class Rehearsal:
    """An installation: its store, its providers, its CRM. `day` is machine seconds of a plan day, None: time stands."""

    settings: Settings
    store: Store
    sandbox: str
    crm: Path
    folder: Path
    customers: Sequence[Customer]
    closing: ExitStack
    providers_clock: ProvidersClock
    receiver: Receiver
    #: Where time stands nobody listens; heartbeats are taken for heard all the same, unless a test is about them.
    is_heard: bool = True
    proven: datetime | None = None

    @property
    def clock(self) -> Clock:
        return self.store.clock

    def write(self, plan: str) -> Path:
        """Put a plan beside a copy of the onboarding templates; return its file."""
        folder = self.folder / plan.split()[1]
        if not folder.exists():
            shutil.copytree(TEMPLATES / "onboarding", folder)
        path = folder / "plan.yaml"
        path.write_text(plan, encoding="utf-8")
        return path

    def start(self, plan: str = LETTER, occurrence: str = "first", *, settings: Settings | None = None) -> Campaign:
        return self.start_file(self.write(plan), occurrence, settings=settings)

    def start_file(self, path: Path, occurrence: str = "first", *, settings: Settings | None = None) -> Campaign:
        started = campaign.start(
            self.store, settings or self.settings, path=path, occurrence=occurrence, scheduled=self.clock.now()
        )
        self.closing.callback(started.close)
        return started

    def ready(self, plan: str = LETTER, occurrence: str = "first", *, settings: Settings | None = None) -> Campaign:
        """Start a run, freeze its audience and content: it may send."""
        started = self.start(plan, occurrence, settings=settings)
        started.resolve_audience()
        started.render()
        self.prove_feed()
        return started

    def prove_feed(self) -> None:
        """Let the feeds that runs rest on have been heard without a gap, until an hour from now."""
        if not self.is_heard or self.clock.factor > 1:
            return
        start, end = self.proven or self.clock.now(), self.clock.now() + timedelta(hours=1)
        rows = [
            {"nonce_key": uuid4().hex, "channel": channel, "sent_at": moment, "heard_at": moment}
            for channel, demand in pulse.demands(self.store).items()
            for number in range(int((end - start) / demand.every) + 1)
            for moment in (start + number * demand.every,)
        ]
        if rows:
            with self.store.write() as connection:
                connection.execute(insert(feed_beats), rows)
        self.proven = end

    @staticmethod
    def shard(index: int, count: int) -> Shard:
        return Shard(index, count)

    def send_due(self, running: Campaign) -> Tally:
        """Send everything that is due now, once through the steps."""
        tally = Tally()
        for step_no in range(1, len(running.plan.sequence) + 1):
            if running.senders(step_no):
                tally += running.dispatch(step_no)
        return tally

    def send_until_quiet(self, running: Campaign) -> None:
        """Send until nothing is due at this moment, whoever has been at it before."""
        while (due := running.next_due()) is not None and due.steps and due.at <= self.clock.now():
            self.send_due(running)

    def carry(self, running: Campaign) -> Campaign:
        """Do what the flow does, except that it waits for everything people did so far to be known before it asks."""
        if running.state == "frozen":
            running.resolve_audience()
            running.render()
        with watching(running):
            while (due := running.next_due()) is not None:
                time.sleep(self.clock.seconds_until(due.at))
                if due.steps != (1,):
                    self.catch_up()
                    running.gather()
                for step_no in due.steps:
                    running.hold_back(step_no)
                    if running.senders(step_no):
                        running.dispatch(step_no)
        time.sleep(self.clock.seconds_until(running.evaluation_time()))
        self.catch_up()
        running.gather()
        running.evaluate()
        return running

    def jump(self, **by: float) -> None:
        """Let plan time stand still at another moment, so far after where it stands now."""
        moment = self.clock.now() + timedelta(**by)
        self.store.clock = self.providers_clock.clock = Clock(origin=moment, anchor=time.time(), factor=1e-9)
        self.prove_feed()

    def fault(self, channel: str, fault: str, times: int = 1) -> None:
        answer = httpx.post(
            f"{self.sandbox}/sandbox/faults",
            json={"channel": channel, "fault": fault, "times": times},
            **PLAIN,
        )
        assert answer.status_code == 204

    def tell(self, one: Truth, happening: str, **fields: object) -> None:
        """Let the provider report something of a message now, and apply it."""
        if one["channel"] == "email":
            event = {
                "email": one["to"],
                "event": happening,
                "timestamp": int(self.clock.now().timestamp()),
                "sg_event_id": uuid4().hex,
                "sg_message_id": one["provider_id"],
                **one["args"],
                **fields,
            }
            append(self.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=json.dumps([event]).encode())
        else:
            form = {"MessageSid": one["provider_id"], "MessageStatus": happening, "To": one["to"], **fields}
            append(self.store, kind=PostKind.TWILIO_STATUS, query=one["args"], body=urlencode(form).encode())
        campaign.apply_receipts(self.store)

    def deliver_all(self) -> None:
        """Let every message that was accepted so far arrive."""
        for one in self.truth():
            self.tell(one, "delivered")

    def summary(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.sandbox}/sandbox/summary", **PLAIN, timeout=30).json())

    def truth(self) -> list[Truth]:
        """Return every message the providers accepted; `ref` is ours, the rest the sandbox's own words."""
        lines = httpx.get(f"{self.sandbox}/sandbox/messages", **PLAIN, timeout=30).text.splitlines()
        found = [json.loads(line) for line in lines]
        for one in found:
            token = one["args"].get("cp_m") or one["args"]["m"]
            one["ref"] = self.store.keyring.open(TokenPurpose.MESSAGE, token)
        return found

    def content(self, one: Truth) -> dict[str, Any]:
        """Return what a recipient saw."""
        return dict(httpx.get(f"{self.sandbox}/sandbox/messages/{one['provider_id']}", **PLAIN, timeout=30).json())

    def catch_up(self) -> None:
        """Wait until the ledger knows all that has happened by now."""

        def known() -> bool:
            now = self.clock.now()
            summary = self.summary()
            if summary["next_due"] and datetime.fromisoformat(summary["next_due"]) <= now:
                return False
            if summary["unposted_events"] or waiting(self.store):
                return False
            rows = self.rows()
            return all(noted(rows[one["ref"]]) >= happened(one) for one in self.truth())

        until(known, why="that the ledger knows what happened")

    def rows(self, run_id: RunId | None = None) -> dict[MessageRef, Row[Any]]:
        """Return the ledger's messages, of all runs or one, each with whom it is for and when it was written."""
        query = (
            select(messages, recipients.c.contact_id, attempts.c.wire_at)
            .join(recipients, (recipients.c.run_id == messages.c.run_id) & (recipients.c.seq == messages.c.seq))
            .outerjoin(attempts, attempts.c.attempt_id == messages.c.attempt_id)
        )
        if run_id is not None:
            query = query.where(messages.c.run_id == run_id)
        with self.store.read() as connection:
            rows = connection.execute(query).all()
        return {MessageRef(RunId(row.run_id), row.step_no, row.seq): row for row in rows}

    def states(self, running: Campaign) -> dict[str, list[str]]:
        """Return for each customer what became of their message in each step: the state, and the reason if any."""
        rows = sorted(self.rows(running.run.run_id).items())
        found: dict[str, list[str]] = {}
        for _, row in rows:
            name = self.customers[int(row.contact_id) - 1].name
            found.setdefault(name, []).append(f"{row.state}: {row.reason}" if row.reason else row.state)
        return found

    def outcomes(self) -> list[str]:
        """Return what became of each request, in the order they were made."""
        with self.store.read() as connection:
            return list(connection.execute(select(attempts.c.outcome).order_by(attempts.c.wire_machine)).scalars())

    def prove(self, running: Campaign) -> Proof:
        return campaign.prove(self.store, self.settings, running.run.run_key)

    def require_balance(self, running: Campaign) -> None:
        """Assert that the books balance, and that nobody got a step twice, by the sandbox's own account."""
        found = self.prove(running)
        off = [(check.what, check.expected, check.found) for check in found.checks if check.difference]
        assert (found.difference, off) == (0, [])
        refs = [one["ref"] for one in self.truth()]
        assert len(refs) == len(set(refs))

    def update_crm(self, sql: str, **values: object) -> None:
        with sqlite3.connect(self.crm) as connection:
            connection.execute(sql, values)
        connection.close()

    def environment(self) -> dict[str, str]:
        """Return the settings as the environment of another process."""
        given = self.settings
        assert given.store_url is not None
        clock = self.store.clock
        return {
            "COMMPLAN_HOME": str(given.home),
            "COMMPLAN_STORE_URL": given.store_url.get_secret_value(),
            "COMMPLAN_SECRET_KEY": "a secret of the tests",
            "COMMPLAN_PUBLIC_URL": given.public_url,
            "COMMPLAN_MAX_RECIPIENTS": str(given.max_recipients),
            "COMMPLAN_EMAIL__BASE_URL": self.sandbox,
            "COMMPLAN_EMAIL__API_KEY": API_KEY,
            "COMMPLAN_EMAIL__BATCH": str(given.email.batch),
            "COMMPLAN_EMAIL__BATCHING": given.email.batching,
            "COMMPLAN_SMS__BASE_URL": self.sandbox,
            "COMMPLAN_SMS__CONNECTIONS": str(given.sms.connections),
            "COMMPLAN_SMS__ACCOUNT_SID": ACCOUNT,
            "COMMPLAN_SMS__AUTH_TOKEN": AUTH_TOKEN,
            "COMMPLAN_CLOCK__ORIGIN": clock.origin.isoformat(),
            "COMMPLAN_CLOCK__ANCHOR": repr(clock.anchor),
            "COMMPLAN_CLOCK__FACTOR": repr(clock.factor),
            "CRM_DATABASE_URL": f"sqlite:///{self.crm}",
        }


_CRM = """
CREATE TABLE customers (
    customer_id INTEGER PRIMARY KEY, first_name TEXT, full_name TEXT, email TEXT, mobile TEXT, lang TEXT, tz TEXT,
    signed_up_at TEXT NOT NULL, lifetime_value INTEGER NOT NULL, sms_opt_in INTEGER, setup_url TEXT, activated_at TEXT)
"""


def _write_crm(path: Path, customers: Sequence[Customer], site: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(_CRM)
        connection.executemany(
            f"INSERT INTO customers VALUES ({', '.join('?' * 11)}, NULL)",
            [
                (
                    number,
                    who.name.title(),
                    f"{who.name.title()} 林",
                    who.address or None,
                    who.mobile,
                    who.lang,
                    who.tz,
                    who.signed_up_at,
                    who.value,
                    who.sms_opt_in,
                    f"{site}/setup/{number}",
                )
                for number, who in enumerate(customers, 1)
            ],
        )
    connection.close()


def _roles(customers: Sequence[Customer]) -> Mapping[str, Role]:
    mailboxes = {who.address.casefold(): who.role for who in reversed(customers) if who.address}
    phones = {who.mobile: who.texts or who.role for who in reversed(customers) if who.mobile}
    return {**mailboxes, **phones}


def _bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


@pytest.fixture
def rehearse(
    settings: Settings, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Rehearsal]]:
    """Set up an installation for some customers; with `day` (machine seconds) time runs, and a receiver listens."""
    with ExitStack() as stack:

        def set_up(
            customers: Sequence[Customer],
            *,
            day: float | None = None,
            calm: bool = True,
            batch: int = 500,
            timeout: float = 10,
            begins: datetime = NOON,
            **switches: object,
        ) -> Rehearsal:
            crm = tmp_path / "crm.sqlite"
            factor = 1e-9 if day is None else 86_400 / day
            clock = Clock(origin=begins, anchor=time.time(), factor=factor)
            providers_clock = ProvidersClock(clock)
            bound = stack.enter_context(_bound())
            public = f"http://127.0.0.1:{bound.getsockname()[1]}"
            given = {**switches, "people": _roles(customers)}
            url = stack.enter_context(
                running(
                    SandboxConfig(
                        api_key=API_KEY,
                        account_sid=ACCOUNT,
                        auth_token=AUTH_TOKEN,
                        webhook_private_key=PRIVATE,
                        public_url=public,
                        clock=providers_clock,
                        crm=crm,
                        switches=Switches.calm(**given) if calm else Switches.of(given),
                    )
                )
            )
            _write_crm(crm, customers, f"{url}/site")
            monkeypatch.setenv("CRM_DATABASE_URL", f"sqlite:///{crm}")
            here = settings.model_copy(
                update={
                    "store_url": SecretStr(store_url),
                    "public_url": public,
                    "email": EmailSettings(
                        base_url=url, api_key=SecretStr(API_KEY), webhook_keys=(PUBLIC,), batch=batch, timeout=timeout
                    ),
                    "sms": SmsSettings(
                        connections=CONNECTIONS,
                        base_url=url,
                        account_sid=ACCOUNT,
                        auth_token=SecretStr(AUTH_TOKEN),
                        timeout=timeout,
                    ),
                    "clock": ClockSettings(origin=clock.origin, anchor=clock.anchor, factor=clock.factor),
                }
            )
            store = open_store(here)
            stack.callback(store.dispose)
            receiver = Receiver(here, bound)
            if day is not None:
                receiver.start()
            stack.callback(receiver.stop)
            return Rehearsal(here, store, url, crm, tmp_path / "plans", customers, stack, providers_clock, receiver)

        yield set_up


def crowd(count: int, *, phones: bool = True) -> list[Customer]:
    """Return so many silent people with different addresses and numbers."""
    return [
        Customer(name=f"person{number}", mobile=f"+1202555{number:04d}" if phones else None)
        for number in range(1, count + 1)
    ]


__all__ = ["LETTER", "NOON", "PAIR", "PLAN", "TEXT", "UTC", "Customer", "Rehearsal", "Role", "Shard", "crowd", "until"]
