"""Commands about who is not written to: suppress, unsuppress, and the suppression list as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commplan.cli.app import By, app, listed
from commplan.terms import Reason

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="An email address, or a number such as +4791234567")]


@app.command()
def suppress(
    address: Address,
    by: By,
    reason: Annotated[str, typer.Option(help="Why; a reason of the suppression list")] = "never_contact",
    scope: Annotated[str, typer.Option(help="With unsubscribed: all, marketing, or a topic")] = "all",
    until: Annotated[str | None, typer.Option(help="With paused: until when, such as 2027-01-31T00:00Z")] = None,
    note: Annotated[str | None, typer.Option(help="In whose words, or on whose word")] = None,
) -> None:
    """Write to an address, and to whoever has had it in a run, no more."""
    from commplan import optout
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    store = open_store(settings, create=False)
    end = None if until is None else optout.read_moment(until, "--until")
    new = optout.suppress_address(store, settings, address, reason=reason, scope=scope, until=end, by=by, note=note)
    typer.echo(f"the address {'is' if new else 'was already'} suppressed ({reason}, scope {scope})")


@app.command()
def unsuppress(
    address: Address,
    by: By,
    note: Annotated[str | None, typer.Option(help="How the person took back what they asked for")] = None,
) -> None:
    """Lift what a person may lift about an address, and say what is left and why."""
    from commplan import optout
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    done = optout.unsuppress_address(open_store(settings, create=False), settings, address, by=by, note=note)
    for line in done.lifted:
        typer.echo(f"lifted: {optout.told(line)}")
    for line, why in done.left:
        typer.echo(f"stays: {optout.told(line)}; {why}")
    if any(line.reason is Reason.HARD_BOUNCE for line in done.lifted):
        typer.echo(
            "the email provider has a list of its own: take the address off its bounces too, or it drops the mail"
        )
    if not done.lifted and not done.left:
        typer.echo("nothing is in force about this address")


@listed.callback()
def show_list(context: typer.Context) -> None:
    """Say what is in force, and how far the email provider's lists are read; or do something with the list."""
    if context.invoked_subcommand is not None:
        return
    from commplan import pull, push, terminal
    from commplan.settings import load_settings
    from commplan.store import open_store
    from commplan.suppression import count_in_force

    settings = load_settings()
    store = open_store(settings, create=False)
    with store.read() as connection:
        counts = count_in_force(connection, store.clock.now())
    terminal.show(terminal.suppressions(counts, pull.standing(store), push.backlog(store, settings)))


@listed.command("sync")
def sync() -> None:
    """Read the email provider's lists now, and put opt-outs into its groups; upkeep does so by itself."""
    from commplan import campaign
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    pulled, pushed = campaign.exchange_lists(open_store(settings, create=False), settings, force=True)
    typer.echo(f"new on our list: {pulled.new:,}; put into groups: {pushed.joined:,}, taken out: {pushed.left:,}")
    for why in filter(None, (pulled.failure, pushed.failure)):
        typer.echo(why, err=True)
    if pulled.failure or pushed.failure:
        raise typer.Exit(1)


@listed.command("import")
def import_list(
    file: Annotated[Path, typer.Argument(help="CSV or XLSX with a column `address`, or one that export wrote")], by: By
) -> None:
    """Take a suppression list into the store: every line of it, or none."""
    from commplan import optout
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    lines, changed = optout.import_list(open_store(settings, create=False), settings, file, by=by)
    typer.echo(f"lines read: {lines:,}, new: {changed:,}")


@listed.command("export")
def export_list(file: Annotated[Path, typer.Argument(help="CSV file to write; it must not exist")]) -> None:
    """Write the suppression list, lifted entries included, with the addresses that runs still have."""
    from commplan import optout
    from commplan.cli.app import open_existing

    typer.echo(f"lines written: {optout.export_list(open_existing(), file):,}")
