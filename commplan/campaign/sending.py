"""Sending: what is due next, and who sends it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from commplan.campaign.occurrence import Occurrence, Progress
from commplan.collector import left_alone
from commplan.dispatch import Sender, Tally, send_in_process
from commplan.errors import HaltError, RunError
from commplan.ledger import breaker, close, hold, schedule
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import WHOLE, Shard
from commplan.ledger.hold import Hold
from commplan.ledger.schedule import Due
from commplan.settings import as_environment
from commplan.terms import Channel, RunState

#: Due messages for which a process is worth starting: emails leave by the hundred, texts one by one.
WORTH_A_PROCESS = {Channel.EMAIL: 5_000, Channel.SMS: 1_000}
#: Fewer batches than this are not worth a machine: it needs some ten seconds to begin.
WORTH_A_MACHINE = 20


@dataclass(frozen=True)
class Sending(Occurrence):
    """What is done for each step, from its due time to its last message."""

    def next_due(self) -> Due | None:
        """Return when there is something to send next and for which steps; None when nothing is left.

        Takes back first what dead workers left. A run with nothing left but texts to countries that may not be texted
        is held, and its owner told.
        """
        close.sweep(self.store, self.run.run_id)
        due = schedule.next_due(self.store, self.run.run_id)
        if due is None and (reason := breaker.hold_for_countries(self.store, self.run.run_id)) is not None:
            self.tell_owner(f"{self.run.run_key} is held", f"{reason}; commplan resume {self.run.run_key}")
        return due

    def hold_back(self, step_no: int, *, gathered: bool = True) -> Hold | None:
        """Hold what is due of a step if it rests on a silence that is not proven; None if nothing is held.

        Not `gathered`: only while its feed is closed, so that nobody is asked for people who have to wait anyway. The
        owner is told once that the feed is closed for the step.
        """
        held = hold.hold_back(self.store, self.run.run_id, step_no, gathered=gathered)
        if held is not None and held.news:
            decide = f"commplan feed {self.run.run_key} {held.step} go"
            self.tell_owner(f"{self.run.run_key}: {held.step} waits", f"{held}; or decide: {decide}")
        return held

    def senders(self, step_no: int) -> int:
        """Return how many senders are worth starting for what is due of a step now; 0 when nothing is due."""
        each = min(WORTH_A_PROCESS[channel] for channel in self.plan.channels_of(step_no))
        return min(self.settings.processes, -(-self._due(step_no) // each))

    def hands(self, step_no: int) -> int:
        """Return how many other machines are worth calling for what is due of a step now."""
        if self.settings.machines == 1:
            return 0
        worth = self._due(step_no) // (WORTH_A_MACHINE * self.settings.email.batch)
        return max(0, min(self.settings.machines, worth) - 1)

    def _due(self, step_no: int) -> int:
        return schedule.due_count(self.store, run_id=self.run.run_id, step_no=step_no, now=self.store.clock.now())

    def dispatch(
        self, step_no: int, shard: Shard = WHOLE, *, alone: bool = True, progress: Progress | None = None
    ) -> Tally:
        """Send what is due of one step, or a shard of it; if not `alone`, all of it and in a process of its own.

        Any number may be at it at once. RunError with one sentence when nothing can be sent until a person acts: the
        run is held then, and starting the same occurrence again takes it up where it is.
        """
        self.require_fence()
        try:
            if not alone:
                environment = {**os.environ, **as_environment(self.settings)}
                return send_in_process(self.run.run_key, step_no, environment=environment, progress=progress)
            sender = Sender(store=self.store, gateways=self.gateways, settings=self.frozen_settings)
            with left_alone():
                return sender.send_step(self.run.run_id, step_no, shard=shard, progress=progress)
        except HaltError as error:
            ledger_run.set_state(
                self.store, self.run.run_id, RunState.HELD, only_from=(RunState.EXECUTING,), reason=error.reason
            )
            self.tell_owner(f"{self.run.run_key} is held", error.reason)
            raise RunError(
                f"{self.run.run_key} is held: {error.reason}; mend that and start the same run again"
            ) from None
