"""What the command line shows: books, status and evaluations as tables.

Shows counts, keys and sentences only; never a person.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from commplan.evaluation import Evaluation
from commplan.ledger import proof
from commplan.ledger import run as ledger_run
from commplan.ledger.proof import Proof
from commplan.ledger.schedule import next_due
from commplan.store import Store
from commplan.terms import Channel, MessageState, RunState, Verdict

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
    last = Text(f"difference {found.difference}", style="bold green" if found.difference == 0 else "bold red")
    if found.unmatched_receipts:
        last.append(f"   {found.unmatched_receipts:,} receipts in the store match no message of ours", style="yellow")
    return Group(steps, Text(), checks, Text(), last)


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
    for state in (MessageState.FAILED, MessageState.SUPPRESSED, MessageState.EXPIRED, MessageState.CANCELLED):
        lost = sum(step.states.get(state, 0) for step in steps)
        if lost:
            rows.append((state.value, f"{lost:,}"))
    rows.append(("cost", f"{judged.cost.total:.2f} {judged.cost.currency}"))
    return rows


def show(renderable: RenderableType, *, error: bool = False) -> None:
    """Print something for people; plain text where the output is not a terminal."""
    console = Console(stderr=error, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=error, highlight=False, width=120, no_color=True)
    console.print(renderable)


def show_status(store: Store, key: str | None) -> bool:
    """Show a run's books, what is due next and why it is held, or the newest runs; tell whether nothing more comes."""
    if key is None:
        table = _table(f"{'SANDBOX: ' if store.is_sandbox else ''}Newest runs", ["run", "state", "since"])
        for run in ledger_run.list_runs(store):
            table.add_row(run.run_key, run.state.value, f"{run.created_at:%Y-%m-%d %H:%M} UTC")
        show(table)
        return True
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        show(books(proof.balance(connection, run.run_id, run.run_key), sandbox=store.is_sandbox))
    line = f"{run.run_key} is {run.state.value}" + (f": {run.reason}" if run.reason else "")
    due = next_due(store, run.run_id) if run.state is RunState.EXECUTING else None
    if due is not None:
        line += f"; next message due {due.at:%Y-%m-%d %H:%M} UTC"
    show(Text(line, style="bold"))
    return run.state in (RunState.FINISHED, RunState.CANCELLED, RunState.SUPERSEDED, RunState.HELD)
