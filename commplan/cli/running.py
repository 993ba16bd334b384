"""Running a campaign in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from commplan.cli.app import PlanPath, app


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
    from commplan.batching import why_unbatched
    from commplan.ledger.run import find_run, is_started
    from commplan.settings import load_settings
    from commplan.store import open_store
    from commplan.terms import Channel

    settings = load_settings()
    campaign.require_occurrence(run_key)
    found, files = bundle.read_files(plan, settings)
    bundle.require_ready(found, settings)
    store = open_store(settings)
    occurrence = run_key or f"{store.clock.now().astimezone(found.zone):%Y-%m-%dT%H:%M}"
    if not is_started(store, plan=found.plan, occurrence=occurrence):
        # The flow asks too; here it is said before the orchestrator is up.
        bundle.require_source(plan, found, files, settings)
    if Channel.EMAIL in found.channels and (reason := why_unbatched(store, settings)) is not None:
        typer.echo(reason)
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
