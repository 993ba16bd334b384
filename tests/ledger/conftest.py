"""A run whose rows are written by hand, so that each one's state and facts are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from commplan.ids import RunId
from commplan.ledger.run import PLAN_FILE, start_run
from commplan.plan import Plan
from commplan.planfile import parse_plan
from commplan.store import Store
from commplan.store.tables import conversions, messages, recipients
from tests.conftest import NOON

PLAN = """
plan: steps
title: Two steps
purpose: service
topic: steps
owner: crm
team: {crm: {}}
goals: [{id: reach, metric: reach, target: at least 95%}]
audience:
  people: customers
  source: {url: env:CRM_DATABASE_URL, sql: select * from customers}
  contact: {id: customer_id, email: email, phone: mobile}
conversions:
  bought: {sql: select * from sales, contact: customer_id, at: sold_at}
  activated: {sql: select * from customers, contact: customer_id, at: activated_at}
sequence:
  - {step: first, channel: email, content: x}
  - {step: second, channel: sms, content: x, after: first}
  - {step: third, channel: email, content: x, after: first}
"""


@dataclass
class Books:
    """One run; `person` writes a recipient with their messages, by step."""

    store: Store
    run_id: RunId
    plan: Plan
    people: int = field(default=0)

    def person(self, *steps: dict[str, Any] | None, converted: dict[str, timedelta] | None = None) -> int:
        """Add somebody; a step that is None has no row. Conversions are given by how long after noon they were."""
        self.people += 1
        seq = self.people
        with self.store.write() as connection:
            connection.execute(
                insert(recipients).values(
                    run_id=self.run_id, seq=seq, people="customers", contact_id=str(seq), columns="{}"
                )
            )
            for step_no, given in enumerate(steps, 1):
                if given is None:
                    continue
                channel = self.plan.sequence[step_no - 1].channel
                row = {"channel": channel, "address_key": f"{seq:032x}", "batch_id": 1}
                row |= {"attempt_id": f"{seq:032x}"} | given
                connection.execute(insert(messages).values(run_id=self.run_id, step_no=step_no, seq=seq, **row))
            for name, after in (converted or {}).items():
                connection.execute(insert(conversions).values(run_id=self.run_id, seq=seq, name=name, at=NOON + after))
        return seq


@pytest.fixture
def books(store: Store) -> Callable[[], Books]:
    """Start a run with nobody in it."""
    plan = parse_plan(PLAN, "plan.yaml")
    return lambda: Books(store, start_run(store, plan=plan, occurrence="a", files={PLAN_FILE: PLAN}).run_id, plan)
