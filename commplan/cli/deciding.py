"""Commands by which a person decides about a run: settle, retry, pause, resume, stop, cancel."""

from __future__ import annotations

from typing import Annotated

import typer

from commplan.cli.app import By, RunKey, app, open_existing
from commplan.terms import FeedDecision, Retry


@app.command()
def settle(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A run; left out: all runs")] = None,
) -> None:
    """Ask the providers about messages of which nobody knows whether they were sent."""
    from commplan import campaign, terminal
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    store = open_store(settings, create=False)
    found = campaign.settle_runs(store, settings, key)
    for run, settled in found:
        terminal.show_settled(run.run_key, settled)
    if not found:
        typer.echo("the outcome of every message is known")


@app.command()
def retry(
    key: RunKey,
    only: Annotated[
        Retry,
        typer.Option(
            help="transient: only what expired and certainly was not sent; unknown: only what may have been sent, and "
            "may arrive twice"
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
) -> None:
    """Send messages again because you decide so; they go out when the run next wakes."""
    from commplan.ledger import settlement
    from commplan.ledger.run import find_run
    from commplan.settings import load_settings
    from commplan.store import open_store

    store = open_store(load_settings(), create=False)
    run = find_run(store, key)
    with store.read() as connection:
        count = settlement.retriable(connection, run.run_id, only)
    if not count:
        typer.echo(f"{key} has nothing to send again")
        return
    what = "may have been sent before, and would arrive twice" if only is Retry.UNKNOWN else "expired unsent"
    if not yes and not typer.confirm(f"{count:,} messages {what}. Send them?", err=True):
        raise typer.Exit(1)
    again = settlement.retry(store, run.run_id, only)
    typer.echo(f"{again:,} messages are queued again; start the same run to send them now")


Why = Annotated[str | None, typer.Option("--reason", help="Why, for whoever looks later")]


@app.command()
def pause(key: RunKey, by: By, reason: Why = None) -> None:
    """Pause a run: nothing further is sent until it is resumed; what is late by then expires."""
    from commplan.ledger import standstill
    from commplan.ledger.run import find_run

    store = open_existing()
    run_id = find_run(store, key).run_id
    standstill.pause(store, run_id, by=by, reason=reason)
    with store.read() as connection:
        typer.echo(standstill.standstill(connection, run_id))


@app.command()
def resume(key: RunKey, by: By, reason: Why = None) -> None:
    """Let a paused or held run, and the countries it holds back, go on."""
    from commplan.ledger import standstill
    from commplan.ledger.run import find_run

    store = open_existing()
    run_id = find_run(store, key).run_id
    standstill.resume(store, run_id, by=by, reason=reason)
    with store.read() as connection:
        stopped = standstill.stop_in_force(connection)
    typer.echo(f"{key} goes on where it is; if its flow has ended, start the same run again")
    if stopped is not None:
        typer.echo(f"but {stopped}")


@app.command()
def feed(
    key: RunKey,
    step: Annotated[str, typer.Argument(help="A step whose `when` rests on silence, such as nudge")],
    decision: Annotated[
        FeedDecision,
        typer.Argument(
            help="go: write to those who have waited until now; hold: to nobody; auto: as the feed proves again"
        ),
    ],
    by: By,
    reason: Why = None,
) -> None:
    """Decide about a follow-up on silence in the place of its feed; on record with who and why."""
    from commplan.errors import InputError
    from commplan.ledger.decision import decide
    from commplan.ledger.run import find_run, plan_of

    store = open_existing()
    run = find_run(store, key)
    with store.read() as connection:
        names = [each.step for each in plan_of(connection, run.run_id).sequence]
    if step not in names:
        raise InputError.one("STEP", f"{key} has no step {step!r}", f"write one of {', '.join(names)}")
    due = decide(store, run.run_id, names.index(step) + 1, decision, by=by, reason=reason)
    match decision:
        case FeedDecision.GO:
            typer.echo(f"{step} of {key} goes on for whoever has waited until now: {due:,} messages, at its next look")
        case FeedDecision.HOLD:
            typer.echo(f"{step} of {key} goes to nobody until `commplan feed {key} {step} auto`, or go")
        case FeedDecision.AUTO:
            typer.echo(f"{step} of {key} goes to those whose silence the feed proves")


@app.command()
def stop(
    by: By,
    everything: Annotated[bool, typer.Option("--all", help="Stop every run, now and until it is lifted")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Lift the stop")] = False,
    reason: Why = None,
) -> None:
    """Stop all sending of every run at once, or lift that; works while Prefect is down."""
    from commplan.errors import InputError
    from commplan.ledger import standstill

    if everything == lift:
        raise InputError.one("commplan stop", "it is not said what to do", "write commplan stop --all, or --lift")
    store = open_existing()
    if lift:
        was = standstill.lift_stop(store, by=by, reason=reason)
        typer.echo("the stop is lifted; paused and held runs stay as they are" if was else "nothing was stopped")
        return
    standstill.stop_all(store, by=by, reason=reason)
    with store.read() as connection:
        typer.echo(standstill.stop_in_force(connection))


@app.command()
def cancel(key: RunKey, by: By, reason: Why = None) -> None:
    """Cancel a run for ever: nothing more is sent, and whom it never wrote to is free for the plan's next run."""
    from commplan.ledger.ending import cancel_run
    from commplan.ledger.run import find_run

    store = open_existing()
    stopped = cancel_run(store, find_run(store, key).run_id, by=by, reason=reason)
    typer.echo(f"{'SANDBOX: ' if store.is_sandbox else ''}{key} is cancelled; {stopped:,} messages will not be sent")
