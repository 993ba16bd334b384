"""The use-cases of a campaign: what the flow, the command line and the tests call.

Wires the parts together and owns no rule of its own; knows nothing of Prefect.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from sqlalchemy import func, select

from commplan import (
    archive,
    bundle,
    conversion,
    evaluation,
    letterhead,
    metrics,
    notice,
    objection,
    planfile,
    poll,
    pricing,
    pulse,
    tracking,
)
from commplan.audience import refresh as refreshing
from commplan.audience import snapshot
from commplan.channels.base import Gateways, open_gateways
from commplan.collector import left_alone
from commplan.dispatch import Sender, Tally, send_in_process
from commplan.errors import FenceError, HaltError, InputError, RunError, TransientError
from commplan.evaluation import Evaluation
from commplan.fence import allowed_addresses
from commplan.ledger import breaker, close, gate, proof, schedule, unsettled
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import WHOLE, Shard
from commplan.ledger.enqueue import Enqueuer
from commplan.ledger.gate import Hold
from commplan.ledger.occasion import supersede
from commplan.ledger.readdress import follow_all
from commplan.ledger.run import Run
from commplan.ledger.schedule import Due
from commplan.ledger.standstill import Standstill, resume, standstill
from commplan.plan import Plan
from commplan.poll import Polled
from commplan.rendering import render_run
from commplan.settings import Settings, as_environment
from commplan.settle import Settled, settle
from commplan.store import Store
from commplan.store.tables import attempts, messages, recipients, runs
from commplan.terms import AttemptOutcome, Channel, Reason, RunState, Verdict
from commplan.witness import ask_sandbox

#: Due messages for which a process is worth starting: emails leave by the hundred, texts one by one.
WORTH_A_PROCESS = {Channel.EMAIL: 5_000, Channel.SMS: 1_000}
#: Fewer batches than this are not worth a machine: it needs some ten seconds to begin.
WORTH_A_MACHINE = 20

Progress = Callable[[int], None]

_OCCURRENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:+_-]{0,79}")


def require_occurrence(occurrence: str | None) -> None:
    """Refuse what cannot name an occurrence of a plan; None is called after its time later. InputError."""
    if occurrence is not None and not _OCCURRENCE.fullmatch(occurrence):
        raise InputError.one(
            "run key", "it is not a name", "write letters, digits and . : + _ - only, such as 2026-12-01"
        )


def start(
    store: Store,
    settings: Settings,
    *,
    path: Path,
    occurrence: str | None,
    scheduled: datetime,
    flow_run_id: str | None = None,
    deployment_id: str | None = None,
) -> Campaign:
    """Start an occurrence of the plan at `path`, or join it if it was started before.

    An occurrence without a name is called after the time it was `scheduled` for, in the plan's zone.
    A run that a flow run has started goes on from its frozen files, whatever the files at `path` say by now. A held
    run is taken up again, except by the flow run that it has already: that one comes back by itself, too. InputError,
    and nothing is written, when the source cannot answer what the plan asks.
    """
    require_occurrence(occurrence)
    run = ledger_run.find_by_flow_run(store, flow_run_id) if flow_run_id is not None else None
    comes_back = run is not None
    if run is None:
        plan, files = bundle.read_files(path, settings)
        bundle.require_ready(plan, settings)
        named = occurrence or _occurrence_at(plan, scheduled)
        if not ledger_run.is_started(store, plan=plan.plan, occurrence=named):
            bundle.require_feed(path, plan, files, settings)
            bundle.require_source(path, plan, files, settings)
        run = ledger_run.start_run(
            store,
            plan=plan,
            occurrence=named,
            files=files,
            flow_run_id=flow_run_id,
            deployment_id=deployment_id,
        )
    if run.state is RunState.HELD and not comes_back:
        resume(store, run.run_id, reason="the same run was started again")
        run = ledger_run.load_run(store, run.run_id)
    campaign = Campaign(store, settings, run)
    campaign.require_fence()
    return campaign


def join(store: Store, settings: Settings, *, key: str, step_no: int) -> Campaign:
    """Return a run that was started elsewhere, for a process that helps to send one of its steps.

    RunError when there is no such run, or it is on another plan time; InputError when it has no such step.
    """
    run = ledger_run.find_run(store, key)
    ledger_run.require_clock(store, run)
    campaign = Campaign(store, settings, run)
    steps = len(campaign.plan.sequence)
    if not 1 <= step_no <= steps:
        raise InputError.one("step", f"{key} has no step {step_no}", f"write a number from 1 to {steps}")
    return campaign


def _occurrence_at(plan: Plan, scheduled: datetime) -> str:
    return f"{scheduled.astimezone(plan.zone):%Y-%m-%dT%H:%M}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """What a gathering brought in, by count."""

    receipts: int
    conversions: int
    left_audience: int
    unknown: int
    settled: Settled


@dataclass(frozen=True)
class Campaign:
    """One run, and what this process needs to carry it on."""

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
        by = ledger_run.run_key(self.plan.plan, _occurrence_at(self.plan, newer))
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
            ledger_run.exclusive(store, self.run.run_key, lease=lease, patience=patience) as mine,
            ledger_run.exclusive(store, self.plan.plan, lease=lease, patience=patience) as turn,
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
                located = self._located(error)
                ledger_run.discard_run(store, self.run.run_id)
                raise located from None
            self._refuse_too_many(now)
        return resolution

    def _located(self, error: InputError) -> InputError:
        """Return an error about the plan's source with its findings at their line in the plan that the run froze."""
        place = f"{self.run.run_key}/{ledger_run.PLAN_FILE}"
        return type(error)(planfile.locate(error.findings, self.files[ledger_run.PLAN_FILE], place))

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
            ledger_run.discard_run(self.store, self.run.run_id)
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
        with ledger_run.exclusive(self.store, self.run.run_key, patience=patience) as turn:
            if self.state is not RunState.FROZEN:
                return None

            def rendered(people: int) -> None:
                turn.keep()
                if progress is not None:
                    progress(people)

            try:
                people = render_run(self.store, self.frozen_settings, self.run, progress=rendered)
            except InputError:
                ledger_run.discard_run(self.store, self.run.run_id)
                raise
            fenced = allowed_addresses(self.store, self.plan, self.settings) is not None
            ledger_run.begin(self.store, self.run.run_id, allow_list_only=fenced)
        return people

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

    def gather(self, *, ask_source: bool = True) -> Gathering:
        """Bring in what is known by now: receipts, conversions and, if asked, who is still in the audience.

        Texts whose callbacks did not arrive are asked about, some at a time.
        Also takes back what dead workers left, and asks the providers about unknown outcomes that are due. Raises
        InputError when the organisation's database does not answer: later steps then wait, because silence cannot be
        told from a closed door.
        """
        store, run_id = self.store, self.run.run_id
        poll.poll(store, lambda: self.gateways, [run_id])
        receipts = apply_receipts(store)
        _, unknown = close.sweep(store, run_id)
        settled = self.settle()
        try:
            converted, left = self._ask(store.clock.now(), refresh=ask_source)
        except InputError as error:
            raise self._located(error) from None
        if ask_source:
            follow_all(store, run_id)
        schedule.drop_orphans(store, run_id)
        return Gathering(
            receipts=receipts,
            conversions=sum(converted.values()),
            left_audience=left,
            unknown=unknown,
            settled=settled,
        )

    def settle(self, *, force: bool = False) -> Settled:
        """Ask the providers about requests of unknown outcome: those that are due for it, or with `force` all.

        InputError when there are any and a provider's credentials are missing.
        """
        with self.store.read() as connection:
            if not unsettled.exist(connection, self.run.run_id):
                return Settled()
        return settle(self.store, self.gateways, self.frozen_settings, self.run.run_id, force=force)

    def _ask(self, now: datetime, *, refresh: bool) -> tuple[Mapping[str, int], int]:
        """Ask the organisation's database; return the conversions by name, and how many people have left."""
        store, run_id = self.store, self.run.run_id
        converted = conversion.gather(store, run_id=run_id, plan=self.plan, source_url=self.source_url, now=now)
        if not refresh:
            return converted, 0
        refreshed = refreshing.refresh(
            store,
            run_id=run_id,
            plan=self.plan,
            since=ledger_run.load_run(store, run_id).since,
            source_url=self.source_url,
            default_region=self.settings.default_region,
            now=now,
            max_leaving=self.settings.max_leaving,
        )
        return converted, refreshed.left

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

    def hold_back(self, step_no: int) -> Hold | None:
        """Hold what is due of a step if it rests on a silence that is not proven; None if nothing is held.

        The owner is told once that the feed is closed for the step.
        """
        held = gate.hold_back(self.store, self.run.run_id, step_no)
        if held is not None and held.news:
            decide = f"commplan feed {self.run.run_key} {held.step} go"
            self.tell_owner(f"{self.run.run_key}: {held.step} waits", f"{held}; or decide: {decide}")
        return held

    def close(self) -> None:
        """Close the connections to the providers, if there are any."""
        if "gateways" in self.__dict__:
            self.gateways.close()

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
        ledger_run.cancel_waiting(store, run_id, Reason.RUN_ENDED)
        with store.write() as connection:
            ledger_run.release_enrolments(connection, run_id)
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

    def tell_owner(self, title: str, body: str) -> None:
        """Tell the plan's owner something about the run, if the plan says where; of a rehearsal, that it is one."""
        marked = f"SANDBOX: {title}" if self.store.is_sandbox else title
        notice.tell_owner(self.plan, os.environ, title=marked, body=body)


def apply_receipts(store: Store) -> int:
    """Apply everything that providers have posted; return the number of receipts that were new.

    Whoever applied them, owners are told here of texts that may ask us to stop.
    """
    total = 0
    while (applied := tracking.apply_inbox(store)).posts:
        total += applied.new
    objection.tell_owners(store, os.environ)
    return total


def prove_feeds(store: Store, settings: Settings) -> None:
    """Ask for the heartbeats that runs under way rest on, if any is due."""
    with _opened(settings, lambda: list(pulse.demands(store))) as gateways:
        pulse.beat(store, settings, gateways)


def poll_texts(store: Store, settings: Settings) -> Polled:
    """Ask about texts of all runs whose callbacks never arrived, and apply what is told."""
    with _opened(settings, lambda: [Channel.SMS]) as gateways:
        polled = poll.poll(store, gateways, poll.open_runs(store))
    if polled.told:
        apply_receipts(store)
    return polled


@contextmanager
def _opened(settings: Settings, channels: Callable[[], Collection[Channel]]) -> Iterator[Callable[[], Gateways]]:
    """Yield what opens the gateways when they are first needed, and once; they are closed with the block."""
    opened: list[Gateways] = []

    def gateways() -> Gateways:
        if not opened:
            opened.append(open_gateways(settings, channels=channels()))
        return opened[0]

    try:
        yield gateways
    finally:
        for found in opened:
            found.close()


def settle_runs(
    store: Store, settings: Settings, key: str | None = None, *, force: bool = True
) -> list[tuple[Run, Settled]]:
    """Ask the providers about the unknown outcomes of a run, or of all runs; receipts are applied first.

    About all of them at once, or without `force` about those that are due for it, as a run in progress does. Returns
    the runs that had any, each with what came of it. RunError when there is no such run.
    """
    chosen = [ledger_run.find_run(store, key)] if key is not None else ledger_run.list_runs(store, limit=10_000)
    apply_receipts(store)
    found: list[tuple[Run, Settled]] = []
    for run in chosen:
        close.sweep(store, run.run_id)
        with store.read() as connection:
            if not unsettled.exist(connection, run.run_id):
                continue
        here = Campaign(store, settings, run)
        try:
            found.append((run, here.settle(force=force)))
        finally:
            here.close()
    return found


def prove(store: Store, settings: Settings, key: str, *, witness: bool = True) -> proof.Proof:
    """Return the books of a run, held against the sandbox's own count where there is one and `witness` is asked for.

    RunError when there is no such run, or the sandbox does not answer.
    """
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        found = proof.balance(connection, run.run_id, run.run_key)
    checks = ask_sandbox(store, settings, run.run_id) if witness else ()
    return replace(found, checks=(*found.checks, *checks))
