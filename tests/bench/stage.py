"""The stage of every benchmark: people in a CRM, a plan, a store, and the sink as the only provider."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from pydantic import SecretStr

from commplan.campaign import Campaign, start
from commplan.clock import Clock
from commplan.sandbox.sink import SUMMARY
from commplan.settings import EmailSettings, Settings, SmsSettings
from commplan.store import open_store

TEMPLATES = Path(__file__).parents[2] / "templates"

#: One step to everybody; the content is the onboarding scenario's own.
PLAN = """
plan: bench
title: One message to everybody
purpose: service
topic: bench
owner: crm
team: {{crm: {{}}}}
goals: [{{id: reach, metric: reach, target: at least 95%}}]
audience:
  people: customers
  source: {{url: env:CRM_DATABASE_URL, sql: select * from customers, row_limit: 2000000, timeout: PT30M}}
  contact: {{id: customer_id, email: email, phone: mobile, locale: lang, timezone: tz, consent: {{sms: sms_opt_in}}}}
sequence:
  - {{step: message, channel: {channel}, content: {content}, window: 00:00-24:00, not_after: P7D}}
evaluation: {{after: {evaluated_after}}}
"""
_CONTENT = {"email": "welcome", "sms": "nudge"}


@contextmanager
def sink() -> Iterator[str]:
    """Run a sink in a process of its own; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "commplan", "sandbox", "--sink", "--fd", str(listening.fileno())],
            pass_fds=[listening.fileno()],
            stdout=subprocess.DEVNULL,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def taken(address: str, channel: str) -> dict[str, int]:
    """Return what the sink has taken of a channel."""
    with urlopen(address + SUMMARY) as answer:
        return dict(json.load(answer).get(channel, {"requests": 0, "messages": 0, "repeated": 0}))


def make_crm(path: Path, people: int) -> None:
    """Write a CRM of `people` customers, every one with a usable address and number."""
    connection = sqlite3.connect(path)
    connection.execute(
        "create table customers (customer_id integer primary key, first_name text, email text, mobile text, lang text,"
        " tz text, sms_opt_in integer, lifetime_value integer, setup_url text, signed_up_at text)"
    )
    connection.executemany(
        "insert into customers values (?, ?, ?, ?, 'en', 'Europe/London', 1, 10, ?, '2026-11-02 09:00:00')",
        (
            (
                n,
                f"Person {n}",
                f"p{n}@person.example.com",
                f"+1202{5550000 + n % 4000000:07d}",
                f"https://shop.example.com/set-up/{n}",
            )
            for n in range(1, people + 1)
        ),
    )
    connection.commit()
    connection.close()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One campaign about to be measured."""

    folder: Path
    settings: Settings
    address: str
    channel: str
    people: int

    def campaign(self) -> Campaign:
        """Start the campaign, or join it from another process."""
        store = open_store(self.settings)
        now = Clock.real().now()
        return start(store, self.settings, path=self.folder / "bench" / "plan.yaml", occurrence="1", scheduled=now)


def stage(
    folder: Path,
    *,
    address: str,
    channel: str,
    people: int,
    store_url: str | None = None,
    evaluated_after: str = "PT1H",
) -> Stage:
    """Set a stage in an empty folder."""
    scenario = folder / "bench"
    shutil.copytree(TEMPLATES / "onboarding", scenario)
    shutil.copytree(TEMPLATES / "shared", folder / "shared")
    plan = PLAN.format(channel=channel, content=_CONTENT[channel], evaluated_after=evaluated_after)
    (scenario / "plan.yaml").write_text(plan, encoding="utf-8")
    make_crm(folder / "crm.sqlite", people)
    settings = Settings(
        home=folder / "home",
        store_url=SecretStr(store_url) if store_url else None,
        templates=folder,
        max_recipients=10_000_000,
        email=EmailSettings(base_url=address, api_key=SecretStr("SG.bench")),
        sms=SmsSettings(base_url=address, account_sid="AC" + "1" * 32, auth_token=SecretStr("bench")),
    )
    return Stage(folder=folder, settings=settings, address=address, channel=channel, people=people)
