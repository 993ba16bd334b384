"""Commands for who writes a plan: make, check and preview it, and bring people and store into place."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commplan.cli.app import PlanPath, app, database, people

if TYPE_CHECKING:
    from collections.abc import Mapping

    from commplan.plan import Plan
    from commplan.settings import Settings


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
    bundle.require_feed(plan, found, files, settings)
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
        *(f"worth a look: {finding}" for finding in tried.advice),
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
