"""Planning: from a run that was started to one that may send, its audience and its content frozen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from commplan import conversion
from commplan.audience import snapshot
from commplan.campaign.occurrence import Occurrence, Progress
from commplan.collector import left_alone
from commplan.errors import InputError, RunError, TransientError
from commplan.fence import allowed_addresses
from commplan.ledger import ending
from commplan.ledger import run as ledger_run
from commplan.ledger.enqueue import Enqueuer
from commplan.ledger.turn import exclusive
from commplan.rendering import render_run
from commplan.store.tables import recipients, runs
from commplan.terms import Channel, RunState


@dataclass(frozen=True)
class Planning(Occurrence):
    """What is done before the first message goes out."""

    def require_providers(self) -> None:
        """Refuse to begin where a provider cannot be reached: nobody would be written to until it is too late.

        RunError with the address and the remedy. A run that has begun waits for its providers instead.
        """
        ways = (
            (Channel.EMAIL, self.gateways.email, self.settings.email.base_url),
            (Channel.SMS, self.gateways.sms, self.settings.sms.base_url),
        )
        remedy = "start `commplan sandbox`" if self.settings.provider_kind == "sandbox" else "see to the network"
        for channel, gateway, url in ways:
            if channel in self.plan.channels:
                try:
                    gateway.connect()
                except TransientError as error:
                    raise RunError(f"{url}: {error.reason}; {remedy}, then start the run again") from None

    @left_alone()
    def resolve_audience(self, *, progress: Progress | None = None) -> snapshot.Resolution | None:
        """Freeze who the run is for: the snapshot, its exclusions and enrolments.

        One process at a time for one plan: waits for another's turn to end, and returns None if that has done it. A
        planning that was cut short starts again from nothing. InputError when the source cannot be used, RunError
        when there are more people than allowed: the run is gone then, so that the same key works once that is mended.
        """
        store, now = self.store, self.store.clock.now()
        lease = self.plan.audience.source.timeout + timedelta(minutes=1)
        patience = 2 * lease
        with (
            exclusive(store, self.run.run_key, lease=lease, patience=patience) as mine,
            exclusive(store, self.plan.plan, lease=lease, patience=patience) as turn,
        ):
            if self.state is not RunState.FROZEN:
                return None

            def read(rows: int) -> None:
                mine.keep()
                turn.keep()
                if progress is not None:
                    progress(rows)

            Enqueuer(store, self.run.run_id).clear()
            with store.read() as connection:
                since = ledger_run.since_of(connection, self.plan, self.run.run_id)
            try:
                resolution = snapshot.resolve(
                    store,
                    run_id=self.run.run_id,
                    plan=self.plan,
                    since=since,
                    source_url=self.source_url,
                    home=self.settings.home,
                    run_key=self.run.run_key,
                    default_region=self.settings.default_region,
                    now=now,
                    progress=read,
                )
                # A query of conversions that cannot be asked must be known before the first message goes out.
                conversion.gather(store, run_id=self.run.run_id, plan=self.plan, source_url=self.source_url, now=now)
            except InputError as error:
                located = self.located(error)
                ending.discard_run(store, self.run.run_id)
                raise located from None
            self._refuse_too_many(now)
        return resolution

    def _refuse_too_many(self, now: datetime) -> None:
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        with self.store.read() as connection:
            today = connection.execute(
                select(func.count())
                .select_from(recipients)
                .join(runs, runs.c.run_id == recipients.c.run_id)
                .where(
                    recipients.c.excluded.is_(None),
                    runs.c.snapshot_at >= day,
                    runs.c.snapshot_at < day + timedelta(days=1),
                    runs.c.state.not_in((RunState.CANCELLED, RunState.SUPERSEDED)),
                )
            ).scalar_one()
        allowed = self.settings.max_recipients
        if today > allowed:
            ending.discard_run(self.store, self.run.run_id)
            raise RunError(
                f"{self.run.run_key} would bring today's recipients to {today:,}, and COMMPLAN_MAX_RECIPIENTS allows "
                f"{allowed:,}; raise it if that is meant, or narrow the audience"
            )

    @left_alone()
    def render(self, *, progress: Progress | None = None) -> int | None:
        """Freeze what everybody gets in every step, write the ledger's rows, and let the run begin.

        Returns the number of people, None if another process has done it. InputError names each template's fault and
        how many people it hits; the run is gone then, so that the same key works once the template is mended.
        """
        patience = timedelta(minutes=5)
        with exclusive(self.store, self.run.run_key, patience=patience) as turn:
            if self.state is not RunState.FROZEN:
                return None

            def rendered(people: int) -> None:
                turn.keep()
                if progress is not None:
                    progress(people)

            try:
                people = render_run(self.store, self.frozen_settings, self.run, progress=rendered)
            except InputError:
                ending.discard_run(self.store, self.run.run_id)
                raise
            fenced = allowed_addresses(self.store, self.plan, self.settings) is not None
            ledger_run.begin(self.store, self.run.run_id, allow_list_only=fenced)
        return people
