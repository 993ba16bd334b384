"""Commands that read what a run did: status, books, one person's story, the evaluation."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from commplan.cli.app import RunKey, app, open_existing


@app.command()
def status(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A run; left out: the newest runs")] = None,
    watch: Annotated[bool, typer.Option(help="Show it again every two seconds, until the run ends")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Show where a run is: its books, its backlog and pace, and why it stands still if it does."""
    from dataclasses import asdict

    from rich.console import Console

    from commplan import terminal
    from commplan.ledger.run import list_runs
    from commplan.settings import load_settings

    store, settings = open_existing(), load_settings()
    if as_json:
        found = (
            [asdict(run) for run in list_runs(store)]
            if key is None
            else asdict(terminal.status_of(store, settings, key))
        )
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    if key is None:
        terminal.show_runs(store)
        return
    while True:
        if watch and sys.stdout.isatty():
            Console().clear()
        ended = terminal.show_status(store, settings, key)
        if not watch or ended:
            return
        time.sleep(2)


@app.command()
def prove(
    key: RunKey,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
    witness: Annotated[bool, typer.Option(help="In a rehearsal, also hold the books against the sandbox's own")] = True,
) -> None:
    """Prove that a run's books balance; exit 1 if they do not."""
    from dataclasses import asdict

    from commplan import campaign, terminal
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    store = open_store(settings, create=False)
    proof = campaign.prove(store, settings, key, witness=witness)
    if as_json:
        found = {**asdict(proof), "difference": proof.difference, "sandbox": store.is_sandbox}
        typer.echo(json.dumps(found, indent=2, default=str))
    else:
        terminal.show(terminal.books(proof, sandbox=store.is_sandbox))
    if proof.difference:
        raise typer.Exit(1)


@app.command()
def explain(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A run; left out: all of them")] = None,
    address: Annotated[str | None, typer.Option(help="Email address or phone number of the person")] = None,
    contact: Annotated[str | None, typer.Option(help="The person by id, such as customers:17")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Tell every decision about one person; shows their data on this terminal, and keeps nothing of it."""
    from dataclasses import asdict

    from commplan import terminal
    from commplan.errors import InputError
    from commplan.explain import explain as tell
    from commplan.ledger.run import find_run
    from commplan.settings import load_settings
    from commplan.store import open_store

    if (address is None) == (contact is None):
        raise InputError.one("commplan explain", "it is not said who", "write --address or --contact, one of them")
    settings = load_settings()
    store = open_store(settings, create=False)
    if key is not None:
        find_run(store, key)
    found = tell(store, settings, address=address, contact=contact, key=key)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False, default=str))
    else:
        terminal.show(terminal.explanation(found, sandbox=store.is_sandbox))


@app.command()
def feedback(
    key: RunKey,
    low: Annotated[bool, typer.Option("--low", help="Low scores only: CSAT up to 2, NPS up to 6")] = False,
    step: Annotated[str | None, typer.Option(help="Of one step only")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """List what people answered in words and how low they scored, newest first; shows it on this terminal only."""
    from dataclasses import asdict

    from commplan import terminal
    from commplan.feedback import find
    from commplan.ledger.run import find_run
    from commplan.settings import load_settings
    from commplan.store import open_store

    store = open_store(load_settings(), create=False)
    run = find_run(store, key)
    with store.read() as connection:
        items = find(connection, run.run_id, low=low, step=step)
    if as_json:
        found = [{**asdict(item), "contact": item.contact} for item in items]
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False, default=str))
    else:
        terminal.show(terminal.feedback(items, run_key=run.run_key, sandbox=store.is_sandbox))


@app.command()
def report(key: RunKey) -> None:
    """Write a run's evaluation as HTML, JSON and CSV, and show it."""
    from commplan import archive, terminal
    from commplan.ledger.run import find_run
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    store = open_store(settings, create=False)
    judged = archive.last_evaluation(store, find_run(store, key))
    terminal.show(terminal.summary(judged))
    typer.echo(f"report {archive.write_report(store, settings, judged)}")
