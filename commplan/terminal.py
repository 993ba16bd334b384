"""What the command line shows: books, status and evaluations as tables.

Shows counts, keys and sentences only; never a person, except to whoever asks for one, or for feedback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from commplan.batching import why_unbatched
from commplan.doctor import Check
from commplan.evaluation import Evaluation
from commplan.explain import Decision, Explanation
from commplan.feedback import Item
from commplan.ledger import proof, unsettled
from commplan.ledger import run as ledger_run
from commplan.ledger.backlog import StepBacklog, backlog
from commplan.ledger.breaker import CountryHalt, country_halts_of
from commplan.ledger.hold import Hold, standing
from commplan.ledger.proof import Proof
from commplan.ledger.schedule import next_due
from commplan.ledger.standstill import Standstill, standstill, stop_in_force
from commplan.ledger.unsettled import Unsettled
from commplan.pull import Standing
from commplan.push import Backlog
from commplan.report.voice import remarks, score
from commplan.settings import Settings
from commplan.settle import Settled
from commplan.store import Store
from commplan.terms import ENDED, Channel, MessageState, Reason, RunState, Verdict

_VERDICT = {Verdict.MET: "green", Verdict.MISSED: "red", Verdict.INCONCLUSIVE: "yellow"}


def _table(title: str, columns: Iterable[str]) -> Table:
    # A title may be longer than its table is wide.
    shown = Text(title, style="bold", no_wrap=True, overflow="ignore")
    table = Table(title=shown, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def books(found: Proof, *, sandbox: bool) -> RenderableType:
    """Show a run's books: every state of every step, and the checks."""
    steps = _table(
        f"{'SANDBOX: ' if sandbox else ''}Books of {found.run_key}", ["", *(step.step for step in found.steps)]
    )
    steps.add_row("contacts", *(f"{step.contacts:,}" for step in found.steps))
    for state in MessageState:
        counts = [step.states.get(state, 0) for step in found.steps]
        if any(counts):
            steps.add_row(state.value.replace("_", " "), *(f"{n:,}" if n else "" for n in counts))
    steps.add_row("difference", *(f"{step.difference:,}" for step in found.steps), style="bold")
    checks = _table("Counted apart, and equal", ["check", "expected", "found", "difference"])
    for check in found.checks:
        checks.add_row(check.what, f"{check.expected:,}", f"{check.found:,}", f"{check.difference:,}")
    told = [Text(line, style="yellow") for line in doubts(found)]
    last = Text(f"difference {found.difference}", style="bold green" if found.difference == 0 else "bold red")
    if found.unmatched_receipts:
        last.append(f"   {found.unmatched_receipts:,} receipts in the store match no message of ours", style="yellow")
    return Group(steps, Text(), checks, Text(), *told, last)


def doubts(found: Proof) -> list[str]:
    """Return what was decided on messages without an answer of the provider, a sentence each."""
    doubt = found.doubts
    said = {
        "may have been sent: nobody knows": doubt.unknown - doubt.assumed,
        "may have been sent, and are assumed to be, as the plan says": doubt.assumed,
        "were proven not to have been accepted the first time": doubt.lost,
        "were sent again without evidence": doubt.resent,
        "of these are known to have arrived twice": doubt.repeats,
        "arrived twice although the first request was judged lost: automatic resending is off": doubt.duplicates,
    }
    return [f"{count:,} messages {what}" for what, count in said.items() if count]


def checkup(checks: Iterable[Check]) -> RenderableType:
    """Show what an installation has, and what to do about what it lacks."""
    table = _table("Fit to send?", ["what"])
    for column in ("found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.what, Text(check.found), Text(check.remedy, style="yellow"))
    return table


def suppressions(counts: Mapping[Reason, int], lists: Iterable[Standing], waiting: Backlog) -> RenderableType:
    """Show what of the suppression list is in force, and how far the email provider's lists are read."""
    ours = _table("In force", ["reason", "lines"])
    for reason, count in counts.items():
        ours.add_row(reason, f"{count:,}")
    theirs = _table("SendGrid's lists", ["list", "last read", "ours", "others'"])
    theirs.add_column("what is wrong", overflow="fold")
    for one in lists:
        read = _moment(one.pulled_at) or "never"
        failure = Text(one.failure or "", style="yellow")
        theirs.add_row(one.name.replace("_", " "), read, f"{one.placed:,}", f"{one.strangers:,}", failure)
    left = f"{waiting.joining:,} opt-outs wait to be put into SendGrid's groups, {waiting.leaving:,} to be taken out"
    return Group(ours, "", theirs, *([left] if waiting != Backlog() else []))


def show_settled(run_key: str, found: Settled) -> None:
    """Show what asking the providers about a run's unknown outcomes came to."""
    outcomes = {
        "accepted after all": found.accepted,
        "not accepted": found.lost,
        "assumed sent": found.assumed,
        "sent again without evidence": found.resent,
        "still unknown": found.unknown,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in outcomes.items() if count or what == "still unknown")
    asked = f"{run_key}: asked about {found.asked:,} requests"
    if found.unanswered:
        asked += f", {found.unanswered:,} without an answer"
    show(Text(f"{asked}; messages: {told}"))
    for reason in sorted(found.why):
        show(Text(f"  no answer: {reason}", style="yellow"))
    if found.unknown:
        again = f"{found.next_at:%Y-%m-%d %H:%M} UTC" if found.next_at else None
        show(Text(f"  the run asks again at {again}" if again else "  no more evidence is expected: commplan retry"))


def ages(waiting: Iterable[Unsettled], now: datetime) -> list[str]:
    """Return how long messages have been of unknown outcome: counts by age, the youngest first."""
    counts = dict.fromkeys(("under an hour", "under a day", "a day or more"), 0)
    for one in waiting:
        age = now - one.wire_at
        named = "under an hour" if age < timedelta(hours=1) else "under a day" if age < timedelta(days=1) else None
        counts[named or "a day or more"] += one.messages
    return [f"{count:,} for {age}" for age, count in counts.items() if count]


def summary(judged: Evaluation) -> RenderableType:
    """Show what came of a run: the figures people ask for first, then each goal's verdict."""
    figures = _table(("SANDBOX: " if judged.sandbox else "") + judged.title, ["", ""])
    for name, value in figures_of(judged):
        figures.add_row(name, value)
    goals = _table("Goals", ["goal", "target", "value", "verdict"])
    goals.add_column("why", overflow="fold")
    for goal in judged.goals:
        value = "–" if goal.value is None else f"{goal.value:.1%}" if goal.is_share else f"{goal.value:.2f}"
        verdict = goal.verdict.value + (" (provisional)" if goal.provisional else "")
        goals.add_row(goal.id, goal.target, value, Text(verdict, style=_VERDICT[goal.verdict]), goal.why)
    return Group(figures, Text(), goals)


def figures_of(judged: Evaluation) -> list[tuple[str, str]]:
    """Return the figures of the closing table, by name, in order."""
    steps = judged.steps
    emails = [step for step in steps if Channel.EMAIL in step.channels]
    texts = [step for step in steps if Channel.SMS in step.channels]
    excluded: dict[str, int] = {}
    for step in steps:
        for reason in step.reasons:
            if reason.state is MessageState.EXCLUDED:
                name = f"excluded from {step.step}: {reason.reason.value.replace('_', ' ')}"
                excluded[name] = reason.messages
    rows = [("audience", f"{judged.audience:,}")]
    rows += [(name, f"{count:,}") for name, count in excluded.items()]
    rows += [
        ("email sent", f"{sum(step.counts.accepted for step in emails):,}"),
        ("email delivered", f"{sum(step.counts.delivered for step in emails):,}"),
        ("opened", f"{sum(step.counts.opened for step in emails):,}"),
        ("clicked", f"{sum(step.counts.clicked for step in emails):,}"),
        ("SMS sent", f"{sum(step.counts.accepted for step in texts):,}"),
        ("SMS delivered", f"{sum(step.counts.delivered for step in texts):,}"),
    ]
    if judged.links:
        followed, previewed = (sum(getattr(step.counts, by) for step in texts) for by in ("clicked", "machine_clicked"))
        rows.append(("SMS clicked", f"{followed:,} (by machines: {previewed:,})"))
    rows += [
        ("replies", f"{judged.replies:,}"),
        ("opt-outs", f"{sum(step.counts.opted_out for step in steps):,}"),
    ]
    rows += [
        (f"converted ({goal.id})", f"{goal.numerator:,}")
        for goal in judged.goals
        if goal.metric.startswith("conversion.") and goal.numerator is not None
    ]
    rows += [
        (
            f"survey ({survey.step})",
            f"{survey.answers:,} answers"
            + (f", {survey.scale} {survey.figure:.2f}" if survey.figure is not None else ""),
        )
        for survey in judged.surveys
    ]
    rows += [
        (
            f"invitation ({found.event})",
            f"{found.yes:,} yes, {found.no:,} no, {found.maybe:,} maybe, {found.waiting:,} wait",
        )
        for found in judged.invitations
    ]
    for state in (MessageState.FAILED, MessageState.SUPPRESSED, MessageState.EXPIRED, MessageState.CANCELLED):
        lost = sum(step.states.get(state, 0) for step in steps)
        if lost:
            rows.append((state.value, f"{lost:,}"))
    rows.append(("cost", f"{judged.cost.total:.2f} {judged.cost.currency}"))
    return rows


def explanation(found: Explanation, *, sandbox: bool) -> RenderableType:
    """Show every decision about one person, run by run and step by step, with the texts as they were frozen."""
    shown: list[RenderableType] = []
    if found.suppressions:
        shown += [_decisions("Suppression list", found.suppressions), Text()]
    if found.history:
        shown += [_decisions("Every change of it, as it was said", found.history), Text()]
    for part in found.runs:
        whom = ", ".join((f"{part.people} {part.contact_id}", *part.addresses))
        title = f"{'SANDBOX: ' if sandbox else ''}{part.run_key} ({part.state}): {whom}"
        shown += [_decisions(title, part.decisions), Text()]
        for message in part.messages:
            shown.append(_decisions(f"{message.step} by {message.channel}: {message.state}", message.decisions))
            if message.text is not None:
                text = "\n".join(filter(None, (message.subject, message.text.strip())))
                shown.append(Panel(Text(text), title="the text, as it was frozen", title_align="left"))
            shown += [Text(f"to stop: {message.stop}"), Text()]
    return Group(*shown)


def feedback(items: Sequence[Item], *, run_key: str, sandbox: bool) -> RenderableType:
    """Show what people said, newest first, and how to see everything about one of them."""
    if not items:
        return Text("Nobody has said anything yet.")
    table = _table(f"{'SANDBOX: ' if sandbox else ''}Feedback on {run_key}: {len(items):,}", ["when (UTC)"])
    for column in ("step", "channel", "who", "score", "words"):
        table.add_column(column, overflow="fold")
    for item in items:
        words = Text(" ".join(filter(None, [item.text, *remarks(item)])))
        table.add_row(f"{item.at:%Y-%m-%d %H:%M}", item.step, item.channel, Text(item.contact), score(item), words)
    return Group(table, Text(f"everything about one: commplan explain {run_key} --contact {items[0].contact}"))


def _decisions(title: str, decisions: Iterable[Decision]) -> Table:
    table = _table(title, ["when (UTC)"])
    for column in ("what", "rule"):
        table.add_column(column, overflow="fold")
    for decision in decisions:
        when = f"{decision.at:%Y-%m-%d %H:%M:%S}" if decision.at is not None else ""
        table.add_row(when, Text(decision.what), Text(decision.rule))
    return table


def show(renderable: RenderableType, *, error: bool = False) -> None:
    """Print something for people; plain text where the output is not a terminal."""
    console = Console(stderr=error, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=error, highlight=False, width=120, no_color=True)
    console.print(renderable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a run is; times are plan time."""

    run_key: str
    state: RunState
    standstill: Standstill | None
    next_due: datetime | None
    steps: tuple[StepBacklog, ...]
    countries: tuple[CountryHalt, ...]
    holds: tuple[Hold, ...]  #: steps for which the feed is closed
    difference: int  #: of its books
    unbatched: str | None  #: why its emails share no requests, if it has any left to send

    @property
    def line(self) -> str:
        """One sentence."""
        if self.standstill is not None:
            return str(self.standstill)
        due = f"; next message due {self.next_due:%Y-%m-%d %H:%M} UTC" if self.next_due is not None else ""
        return f"{self.run_key} is {self.state.value}{due}"


def status_of(store: Store, settings: Settings, key: str) -> Status:
    """Return where a run is; RunError when there is none."""
    run = ledger_run.find_run(store, key)
    due = next_due(store, run.run_id) if run.state is RunState.EXECUTING else None
    unbatched = None if run.state in ENDED else why_unbatched(store, settings)
    with store.read() as connection:
        sends_emails = Channel.EMAIL in ledger_run.plan_of(connection, run.run_id).channels
        return Status(
            run_key=run.run_key,
            state=run.state,
            standstill=standstill(connection, run.run_id),
            next_due=None if due is None else due.at,
            steps=tuple(backlog(connection, run.run_id, store.clock)),
            holds=() if run.state in ENDED else tuple(standing(connection, run.run_id, store.clock)),
            countries=tuple(country_halts_of(connection, run.run_id, store.clock.now())),
            difference=proof.balance(connection, run.run_id, run.run_key).difference,
            unbatched=unbatched if sends_emails else None,
        )


def show_runs(store: Store) -> None:
    """Show the newest runs, and whether everything is stopped."""
    table = _table(f"{'SANDBOX: ' if store.is_sandbox else ''}Newest runs", ["run", "state", "since"])
    for run in ledger_run.list_runs(store):
        table.add_row(run.run_key, run.state.value, f"{run.created_at:%Y-%m-%d %H:%M} UTC")
    show(table)
    with store.read() as connection:
        stopped = stop_in_force(connection)
    if stopped is not None:
        show(Text(str(stopped), style="bold red"))


def show_status(store: Store, settings: Settings, key: str) -> bool:
    """Show a run's books, its backlog and why it stands still if it does; tell whether nothing more comes."""
    found = status_of(store, settings, key)
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        show(books(proof.balance(connection, run.run_id, run.run_key), sandbox=store.is_sandbox))
        waiting = unsettled.read(connection, run.run_id)
    now = store.clock.now()
    if waiting:
        look = unsettled.next_moment(waiting, now)
        again = f"; asked about again {look:%Y-%m-%d %H:%M} UTC" if look else "; no more evidence is expected"
        show(Text(f"outcome unknown: {', '.join(ages(waiting, now))}{again}", style="yellow"))
    if found.unbatched is not None:
        show(Text(found.unbatched, style="yellow"))
    show(Group(Text(), *_backlog(found, now), Text(found.line, style="bold")))
    return found.state in {*ENDED, RunState.HELD}


def _backlog(found: Status, now: datetime) -> Iterable[RenderableType]:
    busy = [step for step in found.steps if step.due + step.later + step.not_due + step.under_way + step.held_back]
    if busy:
        columns = ["step", "due now", "later", "next (UTC)", "not due yet", "under way", "a minute", "done by (UTC)"]
        table = _table("Still to do", columns)
        for step in busy:
            counts = (step.due, step.later, step.not_due, step.under_way)
            due, later, not_due, under_way = (f"{count:,}" if count else "" for count in counts)
            rate = f"{step.rate * 60:,.0f}" if step.rate else ""
            table.add_row(step.step, due, later, _moment(step.next_at), not_due, under_way, rate, _moment(step.done_by))
        yield table
    for step in found.steps:
        if step.unknown_since is not None:
            age = _age(now - step.unknown_since)
            yield Text(f"{step.unknown:,} of {step.step} unknown, the oldest for {age}", style="yellow")
    for hold in found.holds:
        yield Text(f"{hold}; or decide: commplan feed {found.run_key} {hold.step} go", style="yellow")
    for halt in found.countries:
        code = f" ({halt.code})" if halt.code else ""
        line = f"{halt.country}: {halt.waiting:,} texts wait since {_moment(halt.since)} UTC: {halt.reason}{code}"
        yield Text(f"{line}; commplan resume {found.run_key}", style="yellow")


def _age(age: timedelta) -> str:
    minutes = age // timedelta(minutes=1)
    parts = ((minutes // 1_440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "less than a minute"


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
