"""Whether the installation is fit to send."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commplan.cli.app import By, app

if TYPE_CHECKING:
    from commplan.batching import Proof
    from commplan.doctor import Arrival
    from commplan.settings import Settings
    from commplan.store import Store


@app.command()
def doctor(
    by: By,
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE", help="With --arrived: the mails")] = None,
    live_batch: Annotated[
        bool, typer.Option("--live-batch", help="Prove that the email provider fills placeholders as it should")
    ] = False,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the proof goes: one address, which gets it with +commplan1, 2 and 3 before its @, or three",
        ),
    ] = None,
    arrived: Annotated[
        bool, typer.Option("--arrived", help="Compare the proof's mails, saved as they were received (.eml)")
    ] = False,
) -> None:
    """Say what is set up and what is missing; with --live-batch, prove batching so that live mail is trusted to it."""
    from commplan import terminal
    from commplan.doctor import examine
    from commplan.errors import InputError
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    if not live_batch:
        if to or arrived or files:
            raise InputError.one("commplan doctor", "--to, --arrived and files belong to --live-batch", "write it too")
        checks = examine(settings)
        terminal.show(terminal.checkup(checks))
        if any(check.remedy for check in checks):
            raise typer.Exit(1)
        return
    if bool(files) != arrived or (to and arrived):
        raise InputError.one(
            "commplan doctor --live-batch",
            "it sends a proof or compares one that arrived",
            "write --to ADDRESS, or --arrived and the files of its three mails",
        )
    store = open_store(settings)
    if files:
        _compare(store, settings, files, by)
    else:
        _send(store, settings, to or [], by)


def _send(store: Store, settings: Settings, to: list[str], by: str) -> None:
    from commplan import doctor
    from commplan.channels.base import open_gateways
    from commplan.errors import UnknownError
    from commplan.terms import Channel

    addresses = doctor.read_addresses(store, settings, to)
    gateways = open_gateways(settings, channels=[Channel.EMAIL])
    how = (
        "save each of the three mails as it was received (.eml), and write\n"
        "commplan doctor --live-batch --arrived ONE.eml TWO.eml THREE.eml"
    )
    try:
        proof = doctor.send_proof(store, settings, gateways.email, addresses, by=by)
    except UnknownError as error:
        typer.echo(f"{error}\nif they arrive nevertheless, {how}", err=True)
        raise typer.Exit(1) from None
    finally:
        gateways.close()
    if store.is_sandbox:
        _judge(store, settings, proof, doctor.seen_by_sandbox(settings, proof), by)
    else:
        typer.echo(f"one request with three mails was accepted; {how}")


def _compare(store: Store, settings: Settings, files: list[Path], by: str) -> None:
    from commplan import batching, doctor
    from commplan.errors import InputError

    proof = batching.last_sent(store, settings)
    if proof is None:
        raise InputError.one(
            "--arrived", "no proof was sent to this provider", "write commplan doctor --live-batch --to ADDRESS first"
        )
    _judge(store, settings, proof, [doctor.read_arrival(file) for file in files], by)


def _judge(store: Store, settings: Settings, proof: Proof, arrived: list[Arrival], by: str) -> None:
    from commplan import batching, doctor

    findings = doctor.judge(store.keyring, proof, arrived)
    for finding in findings:
        typer.echo(str(finding), err=True)
    if findings:
        raise typer.Exit(1)
    batching.note_passed(store, proof, by=by)
    if store.is_sandbox:
        typer.echo("SANDBOX: all three mails arrived as they were meant; that proves nothing of a real provider")
    else:
        reason = batching.why_unbatched(store, settings)
        typer.echo(f"all three mails arrived as they were meant; {reason or 'live mail shares requests from now on'}")
