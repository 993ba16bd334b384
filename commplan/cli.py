"""The command line.

Imports almost nothing until a command is chosen, so that help answers at once; and is the one module, with the demo,
that may reach up to the flows.
"""

from __future__ import annotations

import json
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commplan.terms import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from commplan.plan import Plan
    from commplan.settings import Settings
    from commplan.store import Store

app = typer.Typer(
    name="commplan",
    help="Turn a communication plan into messages people receive, and into an evaluation one can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
database = typer.Typer(help="The store.", no_args_is_help=True)
people = typer.Typer(help="People that come from a file.", no_args_is_help=True)
app.add_typer(database, name="db")
app.add_typer(people, name="contacts")


def _version(asked: bool) -> None:
    if asked:
        from commplan import __version__

        typer.echo(f"commplan {__version__}")
        raise typer.Exit


@app.callback()
def entry(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Turn a communication plan into messages people receive, and into an evaluation one can trust."""


PlanPath = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan file, such as templates/onboarding/plan.yaml")]
RunKey = Annotated[str, typer.Argument(metavar="KEY", help="A run, such as onboarding@2026-12-01")]


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


@app.command()
def new(
    scenario: Annotated[str, typer.Argument(help="What to start from: onboarding")],
    name: Annotated[str, typer.Argument(help="Name of the new plan")],
) -> None:
    """Make a plan of your own from a scenario, ready to edit."""
    from commplan.scaffold import new as make
    from commplan.scaffold import to_edit
    from commplan.settings import load_settings

    templates = load_settings().templates
    plan = make(scenario, name, templates=templates, into=templates)
    typer.echo("\n".join([str(plan), *to_edit(plan), f"then: commplan check {shlex.quote(str(plan))}"]))


@app.command()
def check(
    plan: PlanPath,
    source: Annotated[
        bool, typer.Option("--source/--no-source", help="Ask the plan's database about its queries and columns")
    ] = True,
) -> None:
    """Say everything that is wrong with a plan, its templates and its queries, by file and line."""
    import os

    from commplan import bundle
    from commplan.planfile import lint, missing_environment
    from commplan.preview import SAMPLE_FILE, previews, read_people
    from commplan.settings import load_settings

    settings = load_settings()
    found, files = bundle.read_files(plan, settings)
    invented = read_people(plan.parent)
    if invented:
        list(previews(found, files, invented))
    said = _ask_source(plan, found, files, settings, invented) if source else []
    typer.echo(
        f"{plan}: {len(found.sequence)} steps, {len(found.goals)} goals, {len(files) - 3} content files: all right"
    )
    for finding in lint(plan.read_text(encoding="utf-8-sig"), str(plan)):
        typer.echo(f"worth a look: {finding}")
    if not invented:
        typer.echo(f"templates were not tried: write invented people into {plan.parent / SAMPLE_FILE}")
    for line in said:
        typer.echo(line)
    for finding in missing_environment(found, os.environ):
        typer.echo(f"before it can run: {finding}")


def _ask_source(
    path: Path, plan: Plan, files: Mapping[str, str], settings: Settings, people: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return what to say of the plan's database; InputError with everything that it would refuse."""
    from commplan import bundle
    from commplan.errors import InputError, UnreachableError

    try:
        tried = bundle.try_source(path, plan, files, settings)
    except UnreachableError as error:
        return [f"the source was not asked: {finding}" for finding in error.findings]
    if tried.findings:
        raise InputError(tried.findings)
    unknown = sorted({name for person in people.values() for name in person} - set(tried.columns))
    return [
        f"the source answers: {len(tried.columns)} columns",
        *(f"worth a look: the query returns no column {name}, which the invented people have" for name in unknown),
    ]


@app.command()
def schema() -> None:
    """Print the JSON Schema of the plan file, for editors."""
    from commplan.plan import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@database.command("upgrade")
def upgrade() -> None:
    """Create the store, or bring it to this version."""
    from commplan.settings import load_settings
    from commplan.store import open_store

    store = open_store(load_settings())
    store.upgrade()
    typer.echo("the store is up to date")


@people.command("import")
def import_people(
    file: Annotated[Path, typer.Argument(help="CSV or XLSX, with a header line")],
    people_name: Annotated[str, typer.Option("--people", help="Name of the import; the plan's `source.contacts`")],
    id_column: Annotated[str | None, typer.Option("--id", help="Column that identifies a person")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and write nothing")] = False,
) -> None:
    """Read people from a file, for plans whose source is `contacts`."""
    from commplan.contacts import import_file
    from commplan.settings import load_settings

    report = import_file(file, people=people_name, home=load_settings().home, id_column=id_column, dry_run=dry_run)
    typer.echo(report.as_text())


@app.command()
def preview(
    plan: PlanPath,
    step: Annotated[str | None, typer.Option(help="Show this step only")] = None,
    locale: Annotated[str | None, typer.Option(help="Show this language only")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the HTML of the emails into this folder")] = None,
) -> None:
    """Show what the messages look like, for an invented person."""
    from commplan import bundle
    from commplan.errors import InputError
    from commplan.preview import SAMPLE_FILE, previews, read_people
    from commplan.settings import load_settings

    found, files = bundle.read_files(plan, load_settings())
    invented = read_people(plan.parent)
    if not invented:
        raise InputError.one(
            str(plan.parent / SAMPLE_FILE), "there is nobody to preview for", "write en: {first_name: Ada}"
        )
    samples = list(previews(found, files, invented))
    for option, asked, known in (
        ("--step", step, {sample.step for sample in samples}),
        ("--locale", locale, {sample.locale for sample in samples}),
    ):
        if asked is not None and asked not in known:
            raise InputError.one(
                option, f"there is no {asked!r} in this plan", f"write one of {', '.join(sorted(known))}"
            )
    if to is not None and to.exists() and not to.is_dir():
        raise InputError.one(str(to), "it is not a folder", "name a folder for the HTML files")
    for sample in samples:
        if step not in (None, sample.step) or locale not in (None, sample.locale):
            continue
        typer.echo(sample.as_text())
        if to is not None and sample.html:
            to.mkdir(parents=True, exist_ok=True)
            (to / sample.file_name).write_text(sample.html, encoding="utf-8")


@app.command()
def run(
    plan: PlanPath,
    run_key: Annotated[
        str | None, typer.Option("--run-key", help="Names this occurrence; the same key again continues or shows it")
    ] = None,
) -> None:
    """Run a campaign in the foreground, against the providers that the settings name."""
    import os

    from commplan import archive, bundle, campaign, terminal
    from commplan.ledger.run import find_run, is_started
    from commplan.settings import load_settings
    from commplan.store import open_store

    settings = load_settings()
    campaign.require_occurrence(run_key)
    found, files = bundle.read_files(plan, settings)
    bundle.require_ready(found, settings)
    store = open_store(settings)
    occurrence = run_key or f"{store.clock.now().astimezone(found.zone):%Y-%m-%dT%H:%M}"
    if not is_started(store, plan=found.plan, occurrence=occurrence):
        # The flow asks too; here it is said before the orchestrator is up.
        bundle.require_source(plan, found, files, settings)
    home = (settings.home / "prefect").absolute()
    home.mkdir(parents=True, exist_ok=True)
    # Prefect reads these when it is imported.
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Its own twenty seconds are not enough on a busy machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "commplan",
        "PREFECT_HOME": str(home),
    }.items():
        os.environ.setdefault(name, value)

    from flows.foreground import run_campaign

    run_campaign(str(plan), occurrence, key=f"{found.plan}@{occurrence}")
    judged = archive.last_evaluation(store, find_run(store, f"{found.plan}@{occurrence}"))
    terminal.show(terminal.summary(judged))
    typer.echo(f"report {archive.report_folder(settings, judged.run_key) / 'evaluation.html'}")


def _open() -> Store:
    from commplan.settings import load_settings
    from commplan.store import open_store

    return open_store(load_settings(), create=False)


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

    store = _open()
    if as_json:
        found = [asdict(run) for run in list_runs(store)] if key is None else asdict(terminal.status_of(store, key))
        typer.echo(json.dumps(found, indent=2, default=str))
        return
    if key is None:
        terminal.show_runs(store)
        return
    while True:
        if watch and sys.stdout.isatty():
            Console().clear()
        ended = terminal.show_status(store, key)
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
    only: Annotated[Retry, typer.Option(help="What to send again: what expired unsent, or what may have been sent")],
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


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):
        return "somebody without a login name"


By = Annotated[str, typer.Option("--by", default_factory=_login, show_default="login name", help="Who decides")]
Why = Annotated[str | None, typer.Option("--reason", help="Why, for whoever looks later")]


@app.command()
def pause(key: RunKey, by: By, reason: Why = None) -> None:
    """Pause a run: nothing further is sent until it is resumed; what is late by then expires."""
    from commplan.ledger import standstill
    from commplan.ledger.run import find_run

    store = _open()
    run_id = find_run(store, key).run_id
    standstill.pause(store, run_id, by=by, reason=reason)
    with store.read() as connection:
        typer.echo(standstill.standstill(connection, run_id))


@app.command()
def resume(key: RunKey, by: By, reason: Why = None) -> None:
    """Let a paused or held run, and the countries it holds back, go on."""
    from commplan.ledger import standstill
    from commplan.ledger.run import find_run

    store = _open()
    run_id = find_run(store, key).run_id
    standstill.resume(store, run_id, by=by, reason=reason)
    with store.read() as connection:
        stopped = standstill.stop_in_force(connection)
    typer.echo(f"{key} goes on where it is; if its flow has ended, start the same run again")
    if stopped is not None:
        typer.echo(f"but {stopped}")


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
    store = _open()
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
    from commplan.ledger.run import cancel_run, find_run

    store = _open()
    stopped = cancel_run(store, find_run(store, key).run_id, by=by, reason=reason)
    typer.echo(f"{'SANDBOX: ' if store.is_sandbox else ''}{key} is cancelled; {stopped:,} messages will not be sent")


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
    typer.echo(f"report {archive.write_report(settings, judged)}")


Host = Annotated[str, typer.Option(help="Address to listen on")]
Descriptor = Annotated[int | None, typer.Option(help="Listen on this inherited socket instead", hidden=True)]


@app.command()
def serve(
    host: Host = "127.0.0.1", port: Annotated[int, typer.Option(help="Port to listen on")] = 8025, fd: Descriptor = None
) -> None:
    """Listen to providers and recipients: webhooks, unsubscribe links, surveys."""
    from commplan import logs
    from commplan.settings import load_settings
    from commplan.web.serve import serve as listen

    logs.set_up()
    listen(load_settings(), host=host, port=port, sock=_socket(fd))


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


def main() -> None:
    """Run a command; what goes wrong on purpose is one message on standard error and its exit code."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        from commplan.errors import CommplanError

        if not isinstance(error, CommplanError):
            raise
        typer.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from None
