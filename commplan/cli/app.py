"""The application that every command is registered with, and the options that several share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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
listed = typer.Typer(help="The suppression list.", invoke_without_command=True)
app.add_typer(listed, name="suppressions")
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


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):
        return "somebody without a login name"


By = Annotated[str, typer.Option("--by", default_factory=_login, show_default="login name", help="Who decides")]


def open_existing() -> Store:
    """Open the store that is there; StoreError, and none is made, where there is none."""
    from commplan.settings import load_settings
    from commplan.store import open_store

    return open_store(load_settings(), create=False)
