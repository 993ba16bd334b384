"""Occurrences: one run of a plan, as the process that carries it has it.

Knows what was frozen when the run started; every step of a campaign is taken with one of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from commplan import bundle, letterhead, notice, planfile
from commplan.channels.base import Gateways, open_gateways
from commplan.errors import FenceError, InputError
from commplan.fence import allowed_addresses
from commplan.ledger import breaker
from commplan.ledger import run as ledger_run
from commplan.ledger.occasion import supersede
from commplan.ledger.run import Run
from commplan.ledger.standstill import Standstill, standstill
from commplan.plan import Plan
from commplan.settings import Settings
from commplan.store import Store
from commplan.terms import RunState

Progress = Callable[[int], None]

_OCCURRENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:+_-]{0,79}")


def require_occurrence(occurrence: str | None) -> None:
    """Refuse what cannot name an occurrence of a plan; None is called after its time later. InputError."""
    if occurrence is not None and not _OCCURRENCE.fullmatch(occurrence):
        raise InputError.one(
            "run key", "it is not a name", "write letters, digits and . : + _ - only, such as 2026-12-01"
        )


def occurrence_at(plan: Plan, scheduled: datetime) -> str:
    """Return what an occurrence without a name is called: its time in the plan's zone."""
    return f"{scheduled.astimezone(plan.zone):%Y-%m-%dT%H:%M}"


@dataclass(frozen=True)
class Occurrence:
    """One run as this process has it, and its ways to the providers."""

    store: Store
    settings: Settings
    run: Run

    @cached_property
    def plan(self) -> Plan:
        """The plan as it was when the run first started."""
        with self.store.read() as connection:
            return ledger_run.plan_of(connection, self.run.run_id)

    @cached_property
    def files(self) -> Mapping[str, str]:
        """The files that the run was started with, by name."""
        with self.store.read() as connection:
            return ledger_run.frozen_files(connection, self.run.run_id)

    @cached_property
    def frozen_settings(self) -> Settings:
        """The settings, with the sender and the public address that the run was started with."""
        return letterhead.restored(self.settings, self.files)

    @cached_property
    def gateways(self) -> Gateways:
        """The ways to the providers, opened when first needed."""
        return open_gateways(self.frozen_settings, channels=self.plan.channels)

    @property
    def source_url(self) -> str:
        """The URL of the database that the audience comes from; it may carry a password."""
        return bundle.source_url(self.plan, self.settings)

    @property
    def state(self) -> RunState:
        """The run's state as it is now."""
        return ledger_run.load_run(self.store, self.run.run_id).state

    def standstill(self) -> Standstill | None:
        """Return why the run stands still until a person lets it go on; None if it does not, or is over.

        What was held back for its country, and is too late by now, keeps it no longer.
        """
        breaker.let_expire(self.store, self.run.run_id)
        with self.store.read() as connection:
            return standstill(connection, self.run.run_id)

    @property
    def standing(self) -> str:
        """One sentence for people: the run's state, and why."""
        run = ledger_run.load_run(self.store, self.run.run_id)
        return f"{run.run_key} is {run.state.value}" + (f": {run.reason}" if run.reason else "")

    def give_way(self, newer: datetime) -> bool:
        """End the run in favour of the occurrence scheduled for `newer`, and tell its owner; False if it has begun."""
        by = ledger_run.run_key(self.plan.plan, occurrence_at(self.plan, newer))
        if not supersede(self.store, self.run.run_id, by=by):
            return False
        self.tell_owner(f"{self.run.run_key} is superseded", f"{by} was due before it began; it has sent nothing")
        return True

    def require_fence(self) -> None:
        """Refuse to go on with a run that was planned for everybody where only the allow list may be written to.

        FenceError; nothing is changed, so the run goes on where the settings agree again.
        """
        run = ledger_run.load_run(self.store, self.run.run_id)
        everybody = run.state is RunState.EXECUTING and not run.allow_list_only
        if everybody and allowed_addresses(self.store, self.plan, self.settings) is not None:
            raise FenceError(
                f"{run.run_key} was planned for real sending, and here only the allow list may be written to; "
                "set COMMPLAN_LIVE as it was when the run was planned"
            )

    def located(self, error: InputError) -> InputError:
        """Return an error about the plan's source with its findings at their line in the plan that the run froze."""
        place = f"{self.run.run_key}/{ledger_run.PLAN_FILE}"
        return type(error)(planfile.locate(error.findings, self.files[ledger_run.PLAN_FILE], place))

    def tell_owner(self, title: str, body: str) -> None:
        """Tell the plan's owner something about the run, if the plan says where; of a rehearsal, that it is one."""
        marked = f"SANDBOX: {title}" if self.store.is_sandbox else title
        notice.tell_owner(self.plan, os.environ, title=marked, body=body)

    def close(self) -> None:
        """Close the connections to the providers, if there are any."""
        if "gateways" in self.__dict__:
            self.gateways.close()
