"""Runs written straight into the ledger's tables, so that every expected figure can be counted by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from commplan import evaluation, metrics
from commplan.evaluation import Evaluation
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.pricing import Prices, read_prices
from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.store.tables import (
    answers,
    attempts,
    batches,
    bundles,
    conversions,
    gatherings,
    messages,
    recipients,
    replies,
    runs,
)
from commplan.terms import MessageState

#: Plan time of the first acceptance: a Tuesday, 10:00 in Shanghai.
START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
_ON_THE_WIRE = {
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
    MessageState.DELIVERED,
    MessageState.FAILED,
}

PLAN: dict[str, Any] = {
    "plan": "onboarding",
    "title": "欢迎新客户 · Welcome",
    "purpose": "service",
    "topic": "getting-started",
    "owner": "crm",
    "team": {"crm": {}},
    "goals": [
        {"id": "reach", "metric": "delivered_rate", "step": "welcome", "target": "at least 95%"},
        {
            "id": "activate",
            "purpose": "New customers finish set-up in their first week",
            "metric": "conversion.activated",
            "within": "P7D",
            "baseline": "31%",
            "target": "at least 40%",
        },
        {"id": "respond", "metric": "response_rate", "step": "welcome", "target": "at least 25%"},
        {"id": "content-people", "metric": "csat", "target": "at least 4.2"},
        {"id": "no-annoyance", "metric": "opt_out_rate", "target": "at most 3%"},
    ],
    "audience": {
        "people": "customers",
        "source": {"url": "env:CRM", "sql": "select * from customers", "zone": "Asia/Shanghai"},
        "contact": {"id": "customer_id", "email": "email", "phone": "mobile", "locale": "lang"},
        "segments": [{"name": "vip", "if": "lifetime_value >= 1000"}, {"name": "new"}],
    },
    "conversions": {
        "activated": {
            "sql": "select customer_id, activated_at from customers",
            "contact": "customer_id",
            "at": "activated_at",
        }
    },
    "sequence": [
        {"step": "welcome", "channel": "email", "content": "welcome"},
        {
            "step": "nudge",
            "channel": "sms",
            "content": "nudge",
            "after": "welcome",
            "wait": "P2D",
            "when": "not responded(welcome)",
        },
        {
            "step": "survey",
            "channel": "email",
            "content": "survey",
            "after": "welcome",
            "wait": "P5D",
            "ask": {"scale": "csat", "question": "How was it?"},
        },
    ],
    "evaluation": {"after": "P7D"},
}

PRICES = """\
as_of: 2026-11-01
email: 0.001 USD
sms: {default: 0.05 USD, US: 0.01 USD, CN: 0.04 USD}
"""


@pytest.fixture(scope="session")
def make_plan() -> Callable[..., Plan]:
    """Make the plan above, with other top-level fields."""
    return lambda **changes: Plan.model_validate({**PLAN, **changes})


@dataclass
class Ledger:
    """Writes one run; `person` adds a recipient and their messages, `save` writes it all."""

    store: Store
    occurrence: str = "first"
    state: str = "finished"
    plan: str = "onboarding"
    people: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    converted: list[dict[str, Any]] = field(default_factory=list)
    answered: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, datetime, bool]] = field(default_factory=list)
    replied: int = 0

    def person(
        self,
        *sent: Mapping[str, Any],
        segment: str | None = "new",
        locale: str | None = "en",
        country: str | None = "US",
        contact_id: str | None = None,
        activated: datetime | None = None,
        score: int | None = None,
        comment: str | None = None,
    ) -> int:
        """Add a person whose messages are `sent`, one for each step in order; return their `seq`."""
        seq = len(self.people) + 1
        self.people.append(
            {
                "seq": seq,
                "people": "customers",
                "contact_id": contact_id or f"c{seq}",
                "segment": segment,
                "locale": locale,
                "country": country,
                "columns": "{}",
            }
        )
        for step_no, message in enumerate(sent, 1):
            self.rows.append({"step_no": step_no, "seq": seq, **message})
        if activated is not None:
            self.converted.append({"name": "activated", "seq": seq, "at": activated})
        if score is not None or comment is not None:
            self.answered.append(
                {"step_no": 3, "seq": seq, "score": score, "text": comment, "at": START, "changed_at": START}
            )
        return seq

    @staticmethod
    def email(state: str = "delivered", *, at: datetime | None = START, **facts: Any) -> dict[str, Any]:
        """Return an email row; `at` is its acceptance, where its state has one."""
        return _row("email", state, at, facts)

    @staticmethod
    def sms(state: str = "delivered", *, at: datetime | None = START + 2 * DAY, **facts: Any) -> dict[str, Any]:
        """Return an SMS row of one part."""
        return _row("sms", state, at, {"parts": 1, **facts})

    def save(self) -> RunId:
        """Write the run."""
        every = dict.fromkeys(column.name for column in messages.columns)
        with self.store.write() as connection:
            if not connection.execute(select(bundles)).all():
                connection.execute(insert(bundles).values(digest="d" * 64, files="{}"))
            firsts = [row["accepted_at"] for row in self.rows if row.get("accepted_at")]
            run_id = connection.execute(
                insert(runs)
                .values(
                    run_key=f"{self.plan}@{self.occurrence}",
                    plan=self.plan,
                    occurrence=self.occurrence,
                    digest="d" * 64,
                    state=self.state,
                    people="customers",
                    snapshot_at=START,
                    first_accepted_at=min(firsts, default=None),
                    created_at=START,
                    clock=json.dumps({}),
                    placeholder="x",
                )
                .returning(runs.c.run_id)
            ).scalar_one()
            batch_id = connection.execute(
                insert(batches)
                .values(run_id=run_id, step_no=1, worker="w", claimed=0, lease_machine=0.0)
                .returning(batches.c.batch_id)
            ).scalar_one()
            attempt_id = f"{run_id:032x}"
            connection.execute(
                insert(attempts).values(
                    attempt_id=attempt_id,
                    batch_id=batch_id,
                    run_id=run_id,
                    step_no=1,
                    channel="email",
                    messages=1,
                    wire_at=START,
                    wire_machine=0.0,
                    outcome="accepted",
                )
            )
            at = {"run_id": run_id}
            if self.people:
                connection.execute(insert(recipients), [at | row for row in self.people])
            full = []
            for row in self.rows:
                sendable = row["state"] not in (MessageState.EXCLUDED, MessageState.CANCELLED, MessageState.NOT_NEEDED)
                full.append(
                    every
                    | at
                    | {"address_key": f"{row['seq']:032x}" if sendable else None}
                    | {"batch_id": batch_id, "attempt_id": attempt_id if row["state"] in _ON_THE_WIRE else None}
                    | row
                )
            if full:
                connection.execute(insert(messages), full)
            for table, rows in ((conversions, self.converted), (answers, self.answered)):
                if rows:
                    connection.execute(insert(table), [at | row for row in rows])
            for name, asked_at, succeeded in self.asked:
                connection.execute(
                    insert(gatherings).values(run_id=run_id, name=name, at=asked_at, succeeded=succeeded)
                )
            for n in range(self.replied):
                connection.execute(
                    insert(replies).values(
                        receipt_key=f"{run_id}-{n}", run_id=run_id, channel="sms", text="thanks", at=START
                    )
                )
        return RunId(run_id)


def _row(channel: str, state: str, at: datetime | None, facts: dict[str, Any]) -> dict[str, Any]:
    accepted = at if state in ("accepted", "delivered", "failed") else None
    return {"channel": channel, "state": state, "accepted_at": accepted, **facts}


@pytest.fixture
def ledger(store: Store) -> Callable[..., Ledger]:
    """Start a run, on each database."""
    return lambda **kwargs: Ledger(store, **kwargs)


@pytest.fixture
def run(settings: Settings) -> Iterator[Ledger]:
    """Start a run on SQLite, for tests of what is made of the counts."""
    opened = open_store(settings)
    yield Ledger(opened)
    opened.dispose()


@pytest.fixture
def assess(make_plan: Callable[..., Plan], prices: Prices) -> Callable[..., Evaluation]:
    """Save a run and evaluate it `days` after its start."""

    def evaluated(run: Ledger, *, days: float = 20, plan: Plan | None = None, sandbox: bool = True) -> Evaluation:
        plan = plan or make_plan()
        run_id = run.save()
        with run.store.read() as connection:
            counted = metrics.measure(connection, run_id=run_id, plan=plan)
        key = f"{run.plan}@{run.occurrence}"
        return evaluation.evaluate(counted, plan, prices, run_key=key, now=START + days * DAY, sandbox=sandbox)

    return evaluated


@pytest.fixture
def prices() -> Prices:
    """Round prices, to reckon with."""
    return read_prices(PRICES, "prices.yaml")
