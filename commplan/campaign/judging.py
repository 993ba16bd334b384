"""Judging: when a run is over, and whether its goals were met."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from commplan import archive, bundle, evaluation, metrics, pricing
from commplan.campaign.occurrence import Occurrence
from commplan.evaluation import Evaluation
from commplan.ledger import ending
from commplan.ledger import run as ledger_run
from commplan.store.tables import attempts, messages
from commplan.terms import AttemptOutcome, Reason, RunState, Verdict


@dataclass(frozen=True)
class Judging(Occurrence):
    """What is done when nothing is left to be sent."""

    def evaluation_time(self) -> datetime:
        """Return when the run is to be judged: `evaluation.after` its last message, every conversion window over."""
        mine = messages.c.run_id == self.run.run_id
        first = select(func.min(messages.c.accepted_at).label("at")).where(mine).group_by(messages.c.seq).subquery()
        unanswered = attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNKNOWN))
        with self.store.read() as connection:
            accepted = connection.execute(select(func.max(messages.c.accepted_at)).where(mine)).scalar_one()
            perhaps = connection.execute(
                select(func.max(attempts.c.wire_at)).where(attempts.c.run_id == self.run.run_id, unanswered)
            ).scalar_one()
            begun = connection.execute(select(func.max(first.c.at))).scalar_one() or perhaps
        sent = [moment for moment in (accepted, perhaps) if moment is not None]
        if not sent:
            return self.store.clock.now()
        latest: datetime = max(sent) + self.plan.evaluation.after
        windows = [goal.within for goal in self.plan.goals if goal.within is not None]
        closing: list[datetime] = [latest, *(begun + window for window in windows)]
        return max(closing)

    def evaluate(self) -> Evaluation:
        """End the run, judge it as the ledger stands, and keep a new version of the evaluation if anything is new.

        What waits for a step of which nobody knows whether it arrived is given up; people whom the run never wrote to
        are released for later runs of the plan.
        """
        store, run_id = self.store, self.run.run_id
        ended = ledger_run.set_state(store, run_id, RunState.FINISHED, only_from=(RunState.EXECUTING,))
        ending.cancel_waiting(store, run_id, Reason.RUN_ENDED)
        with store.write() as connection:
            ending.release_enrolments(connection, run_id)
        with store.read() as connection:
            measured = metrics.measure(connection, run_id=run_id, plan=self.plan)
        judged = evaluation.evaluate(
            measured,
            self.plan,
            pricing.read_prices(self.files[bundle.PRICES_FILE], bundle.PRICES_FILE),
            run_key=self.run.run_key,
            now=store.clock.now(),
            sandbox=self.settings.provider_kind == "sandbox",
        )
        archive.keep(store, run_id, judged)
        if ended:
            verdicts = Counter(goal.verdict for goal in judged.goals)
            found = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict])
            self.tell_owner(f"{self.run.run_key} is evaluated", f"{found}; commplan report {self.run.run_key}")
        return judged
