"""The use-cases of a campaign: what the flow, the command line and the tests call.

Wires the parts together and owns no rule of its own; knows nothing of Prefect.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from sqlalchemy import func, insert, select, update

from commplan import (
    audience,
    contacts,
    content,
    conversion,
    evaluation,
    metrics,
    notice,
    planfile,
    pricing,
    report,
    tracking,
    yamlfile,
)
from commplan.channels.base import Gateways, open_gateways
from commplan.dispatch import Sender, Tally
from commplan.errors import HaltError, InputError, RunError
from commplan.evaluation import Evaluation
from commplan.ledger import close, proof, schedule
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import Shard
from commplan.ledger.enqueue import Enqueuer
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.run import Run
from commplan.ledger.schedule import Due
from commplan.plan import Plan
from commplan.rendering import render_run
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import evaluations, messages, recipients, runs
from commplan.terms import RunState, Verdict
from commplan.witness import ask_sandbox

#: Names in a run's frozen files, besides the plan and its templates.
PRICES_FILE = "prices.yaml"
SENDER_FILE = "sender.json"
#: A step is sent by one worker for every so many due messages, up to `MAX_SHARDS`.
SHARD_SIZE = 5_000
MAX_SHARDS = 2

Progress = Callable[[int], None]


def read_files(path: Path, settings: Settings) -> tuple[Plan, dict[str, str]]:
    """Return a plan and everything that decides what its runs send: itself, templates, prices, sender.

    Raises InputError with all findings of plan, templates and prices.
    """
    plan = planfile.read_plan(path)
    files = content.read_templates(plan, path.parent, settings.templates / "shared")
    files[ledger_run.PLAN_FILE] = yamlfile.read_text(path)
    try:
        files[PRICES_FILE] = settings.prices.read_text(encoding="utf-8")
    except OSError:
        raise InputError.one(str(settings.prices), "the price file cannot be read", "set COMMPLAN_PRICES") from None
    pricing.read_prices(files[PRICES_FILE], str(settings.prices))
    sender = {
        "public_url": settings.public_url,
        "from_address": settings.email.from_address,
        "from_name": settings.email.from_name,
        "from_number": settings.sms.from_number,
    }
    files[SENDER_FILE] = json.dumps(sender, sort_keys=True)
    return plan, files


def require_ready(plan: Plan, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse, before anything is read or sent, a run that could not be carried through.

    Raises InputError naming every variable that is missing: the plan's own, and the providers' keys.
    """
    findings = list(planfile.missing_environment(plan, environ))
    try:
        open_gateways(settings, channels=plan.channels).close()
    except InputError as error:
        findings.extend(error.findings)
    if findings:
        raise InputError(findings)


def start(
    store: Store,
    settings: Settings,
    *,
    path: Path,
    occurrence: str | None,
    scheduled: datetime,
    flow_run_id: str | None = None,
) -> Campaign:
    """Start an occurrence of the plan at `path`, or join it if it was started before.

    An occurrence without a name is called after the time it was `scheduled` for, in the plan's zone.
    A run that a flow run has started goes on from its frozen files, whatever the files at `path` say by now. A held
    run is taken up again.
    """
    run = ledger_run.find_by_flow_run(store, flow_run_id) if flow_run_id is not None else None
    if run is None:
        plan, files = read_files(path, settings)
        require_ready(plan, settings)
        run = ledger_run.start_run(
            store,
            plan=plan,
            occurrence=occurrence or f"{scheduled.astimezone(plan.zone):%Y-%m-%dT%H:%M}",
            files=files,
            flow_run_id=flow_run_id,
        )
    if run.state is RunState.HELD:
        ledger_run.set_state(store, run.run_id, RunState.EXECUTING, only_from=(RunState.HELD,))
        run = ledger_run.load_run(store, run.run_id)
    return Campaign(store, settings, run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """What a gathering brought in, by count."""

    receipts: int
    conversions: int
    left_audience: int
    unknown: int


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
        sender = json.loads(self.files[SENDER_FILE])
        email = {"from_address": sender["from_address"], "from_name": sender["from_name"]}
        return self.settings.model_copy(
            update={
                "public_url": sender["public_url"],
                "email": self.settings.email.model_copy(update=email),
                "sms": self.settings.sms.model_copy(update={"from_number": sender["from_number"]}),
            }
        )

    @cached_property
    def gateways(self) -> Gateways:
        """The ways to the providers, opened when first needed."""
        return open_gateways(self.frozen_settings, channels=self.plan.channels)

    @property
    def source_url(self) -> str:
        """The URL of the database that the audience comes from; it may carry a password."""
        url = self.plan.audience.source.url
        return contacts.source_url(self.settings.home) if url is None else os.environ[url.removeprefix("env:")]

    @property
    def state(self) -> RunState:
        """The run's state as it is now."""
        return ledger_run.load_run(self.store, self.run.run_id).state

    def resolve_audience(self, *, progress: Progress | None = None) -> audience.Resolution:
        """Freeze who the run is for: the snapshot, its exclusions and enrolments.

        One process at a time for one plan; a planning that was cut short starts again from nothing. InputError when
        the source cannot be used, RunError when there are more people than allowed: the run is gone then, so that
        the same key works once that is mended.
        """
        store, now = self.store, self.store.clock.now()
        lease = self.plan.audience.source.timeout + timedelta(minutes=1)
        with (
            ledger_run.exclusive(store, self.run.run_key, lease=lease) as mine,
            ledger_run.exclusive(store, self.plan.plan, lease=lease) as turn,
        ):

            def read(rows: int) -> None:
                mine.keep()
                turn.keep()
                if progress is not None:
                    progress(rows)

            Enqueuer(store, self.run.run_id).clear()
            with store.read() as connection:
                since = ledger_run.since_of(connection, self.plan, self.run.run_id)
            try:
                resolution = audience.resolve(
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
            except InputError:
                ledger_run.discard_run(store, self.run.run_id)
                raise
            with store.write() as connection:
                connection.execute(
                    update(runs).where(runs.c.run_id == self.run.run_id).values(since=since, snapshot_at=now)
                )
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
                    runs.c.state != RunState.CANCELLED,
                )
            ).scalar_one()
        allowed = self.settings.max_recipients
        if today > allowed:
            ledger_run.discard_run(self.store, self.run.run_id)
            raise RunError(
                f"{self.run.run_key} would bring today's recipients to {today:,}, and COMMPLAN_MAX_RECIPIENTS allows "
                f"{allowed:,}; raise it if that is meant, or narrow the audience"
            )

    def render(self, *, progress: Progress | None = None) -> int:
        """Freeze what everybody gets in every step, write the ledger's rows, and let the run begin.

        Returns the number of people. InputError names each template's fault and how many people it hits; the run is
        gone then, so that the same key works once the template is mended.
        """
        with ledger_run.exclusive(self.store, self.run.run_key) as turn:

            def rendered(people: int) -> None:
                turn.keep()
                if progress is not None:
                    progress(people)

            try:
                people = render_run(self.store, self.frozen_settings, self.run, progress=rendered)
            except InputError:
                ledger_run.discard_run(self.store, self.run.run_id)
                raise
            ledger_run.set_state(self.store, self.run.run_id, RunState.EXECUTING, only_from=(RunState.FROZEN,))
        return people

    def next_due(self) -> Due | None:
        """Return when there is something to send next and for which steps; None when nothing is left.

        Takes back first what dead workers left.
        """
        close.sweep(self.store, self.run.run_id)
        return schedule.next_due(self.store, self.run.run_id)

    def gather(self, *, ask_source: bool = True) -> Gathering:
        """Bring in what is known by now: receipts, conversions and, if asked, who is still in the audience.

        Also takes back what dead workers left. Raises InputError when the organisation's database does not answer:
        later steps then wait, because silence cannot be told from a closed door.
        """
        store, run_id = self.store, self.run.run_id
        receipts = apply_receipts(store)
        now = store.clock.now()
        converted = conversion.gather(store, run_id=run_id, plan=self.plan, source_url=self.source_url, now=now)
        left = 0
        if ask_source:
            left = audience.refresh(
                store,
                run_id=run_id,
                plan=self.plan,
                since=ledger_run.load_run(store, run_id).since,
                source_url=self.source_url,
                default_region=self.settings.default_region,
                now=now,
            ).left
        _, unknown = close.sweep(store, run_id)
        with store.write() as connection:
            if ask_source:
                follow_addresses(connection, run_id)
            schedule.drop_orphans(connection, run_id)
        return Gathering(receipts=receipts, conversions=sum(converted.values()), left_audience=left, unknown=unknown)

    def shards(self, step_no: int) -> list[Shard]:
        """Return the shares in which a step's due messages are worth sending now; none when nothing is due."""
        due = schedule.due_count(self.store, run_id=self.run.run_id, step_no=step_no, now=self.store.clock.now())
        count = min(MAX_SHARDS, -(-due // SHARD_SIZE))
        return [Shard(index, count) for index in range(count)]

    def dispatch(self, step_no: int, shard: Shard, *, progress: Progress | None = None) -> Tally:
        """Send what is due of one step, or a shard of it.

        RunError with one sentence when nothing can be sent until a person acts: the run is held then, and starting
        the same occurrence again takes it up where it is.
        """
        sender = Sender(store=self.store, gateways=self.gateways, settings=self.frozen_settings)
        try:
            return sender.send_step(self.run.run_id, step_no, shard=shard, progress=progress)
        except HaltError as error:
            ledger_run.set_state(
                self.store, self.run.run_id, RunState.HELD, only_from=(RunState.EXECUTING,), reason=error.reason
            )
            self.tell_owner(f"{self.run.run_key} is held", error.reason)
            raise RunError(
                f"{self.run.run_key} is held: {error.reason}; mend that and start the same run again"
            ) from None

    def close(self) -> None:
        """Close the connections to the providers, if there are any."""
        if "gateways" in self.__dict__:
            self.gateways.close()

    def evaluation_time(self) -> datetime:
        """Return when the run is to be judged: `evaluation.after` its last message, every conversion window over."""
        mine = messages.c.run_id == self.run.run_id
        first = select(func.min(messages.c.accepted_at).label("at")).where(mine).group_by(messages.c.seq).subquery()
        with self.store.read() as connection:
            last = connection.execute(select(func.max(messages.c.accepted_at)).where(mine)).scalar_one()
            begun = connection.execute(select(func.max(first.c.at))).scalar_one()
        if last is None or begun is None:
            return self.store.clock.now()
        latest: datetime = last + self.plan.evaluation.after
        windows = [goal.within for goal in self.plan.goals if goal.within is not None]
        closing: list[datetime] = [latest, *(begun + window for window in windows)]
        return max(closing)

    def evaluate(self) -> Evaluation:
        """Judge the run as the ledger stands, keep a new version if anything changed, and end the run.

        People whom the run never wrote to are released for later runs of the plan.
        """
        store, run_id = self.store, self.run.run_id
        with store.read() as connection:
            measured = metrics.measure(connection, run_id=run_id, plan=self.plan)
        judged = evaluation.evaluate(
            measured,
            self.plan,
            pricing.read_prices(self.files[PRICES_FILE], PRICES_FILE),
            run_key=self.run.run_key,
            now=store.clock.now(),
            sandbox=self.settings.provider_kind == "sandbox",
        )
        document = report.to_json(judged)
        with store.write() as connection:
            newest = connection.execute(
                select(evaluations.c.version, evaluations.c.digest)
                .where(evaluations.c.run_id == run_id)
                .order_by(evaluations.c.version.desc())
                .limit(1)
            ).one_or_none()
            if newest is None or newest.digest != judged.digest:
                connection.execute(
                    insert(evaluations).values(
                        run_id=run_id,
                        version=newest.version + 1 if newest else 1,
                        digest=judged.digest,
                        document=document,
                        made_at=store.clock.now(),
                    )
                )
            ledger_run.release_enrolments(connection, run_id)
        if ledger_run.set_state(store, run_id, RunState.FINISHED, only_from=(RunState.EXECUTING,)):
            verdicts = Counter(goal.verdict for goal in judged.goals)
            found = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in Verdict if verdicts[verdict])
            self.tell_owner(f"{self.run.run_key} is evaluated", f"{found}; commplan report {self.run.run_key}")
        return judged

    def tell_owner(self, title: str, body: str) -> None:
        """Tell the plan's owner something about the run, if the plan says where."""
        notice.tell_owner(self.plan, os.environ, title=title, body=body)


def apply_receipts(store: Store) -> int:
    """Apply everything that providers have posted; return the number of receipts that were new."""
    total = 0
    while (applied := tracking.apply_inbox(store)).posts:
        total += applied.new
    return total


def last_evaluation(store: Store, run: Run) -> Evaluation:
    """Return the newest evaluation of a run; RunError when it has none yet."""
    with store.read() as connection:
        document = connection.execute(
            select(evaluations.c.document)
            .where(evaluations.c.run_id == run.run_id)
            .order_by(evaluations.c.version.desc())
            .limit(1)
        ).scalar_one_or_none()
    if document is None:
        raise RunError(f"{run.run_key} has not been evaluated yet; see `commplan status {run.run_key}`")
    return Evaluation.model_validate_json(document)


def report_folder(settings: Settings, run_key: str) -> Path:
    """Return the folder that a run's report is written to."""
    return (settings.home / "reports" / run_key.replace("/", "-").replace(":", "")).absolute()


def write_report(settings: Settings, judged: Evaluation) -> Path:
    """Write an evaluation as HTML, JSON and CSV into the home folder; return the HTML file."""
    folder = report_folder(settings, judged.run_key)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("evaluation.html", report.to_html(judged)),
        ("evaluation.json", report.to_json(judged)),
        ("evaluation.csv", report.to_csv(judged)),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "evaluation.html"


def prove(store: Store, settings: Settings, key: str, *, witness: bool = True) -> proof.Proof:
    """Return the books of a run, held against the sandbox's own count where there is one and `witness` is asked for.

    RunError when there is no such run, or the sandbox does not answer.
    """
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        found = proof.balance(connection, run.run_id, run.run_key)
    checks = ask_sandbox(store, settings, run.run_id) if witness else ()
    return replace(found, checks=(*found.checks, *checks))
