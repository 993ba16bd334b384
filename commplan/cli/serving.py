"""Commands that stay up: the demo, a daily installation, the receiver, the sandbox."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from commplan.cli.app import app


@app.command()
def demo(
    contacts: Annotated[int, typer.Option(min=10, max=200_000, help="Customers in the sample CRM")] = 1_000,
    seed: Annotated[int, typer.Option(help="Decides who does what; the same seed gives the same people")] = 1,
    home: Annotated[
        Path | None, typer.Option(help="Folder for everything the demo writes; default: a new one in .commplan/demo")
    ] = None,
    keep: Annotated[
        bool | None, typer.Option("--keep/--no-keep", help="Keep the servers up at the end; default: on a terminal")
    ] = None,
) -> None:
    """Run the whole onboarding campaign on this machine, against simulated providers and people."""
    from commplan.demo import run_demo

    run_demo(contacts=contacts, seed=seed, home=home, keep=sys.stdout.isatty() if keep is None else keep)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect server and its UI")] = 4200,
) -> None:
    """Start everything that campaigns need on this machine, and keep it up until Ctrl-C."""
    from commplan.settings import load_settings
    from commplan.up import run_up

    run_up(load_settings(), port=port)


Host = Annotated[str, typer.Option(help="Address to listen on")]
Descriptor = Annotated[int | None, typer.Option(help="Listen on this inherited socket instead", hidden=True)]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on")] = 8025,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port")] = 1,
    fd: Descriptor = None,
) -> None:
    """Listen to providers and recipients: webhooks, unsubscribe links, surveys."""
    from commplan import logs
    from commplan.settings import load_settings
    from commplan.web.serve import serve as listen

    logs.set_up()
    listen(load_settings(), host=host, port=port, sock=_socket(fd), processes=processes)


@app.command()
def sandbox(
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default: 8026, or a free one where that is taken")
    ] = None,
    crm: Annotated[Path | None, typer.Option(help="SQLite file of the sample CRM that simulated people act on")] = None,
    contacts: Annotated[int | None, typer.Option(min=1, help="Make that CRM first, with so many customers")] = None,
    seed: Annotated[int, typer.Option(help="Decides who does what")] = 1,
    switches: Annotated[str | None, typer.Option(help="JSON of sandbox switches")] = None,
    day: Annotated[
        float | None, typer.Option(min=0.5, help="Seconds that a day of plan time takes; default: a day")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Private key that signs event webhooks, PEM; made if it is not there")
    ] = None,
    sink: Annotated[bool, typer.Option("--sink", help="Only accept and count: no people, no webhooks")] = False,
    fd: Descriptor = None,
) -> None:
    """Be SendGrid and Twilio, with simulated recipients, on this machine."""
    from commplan import logs
    from commplan.sandbox.start import Wishes, start_sandbox, start_sink
    from commplan.settings import load_settings

    logs.set_up()
    if sink:
        start_sink(host=host, port=port, bound=_socket(fd))
        return
    wishes = Wishes(crm=crm, contacts=contacts, seed=seed, switches=switches, key_file=key_file, day=day)
    start_sandbox(load_settings(), wishes, host=host, port=port, bound=_socket(fd))


def _socket(fd: int | None) -> socket.socket | None:
    return None if fd is None else socket.socket(fileno=fd)
