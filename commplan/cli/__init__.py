"""The command line.

Imports almost nothing until a command is chosen, so that help answers at once; and is the one module, with the demo,
that may reach up to the flows.
"""

from __future__ import annotations

import typer

# In the order in which help shows the commands.
from commplan.cli import planning, running, reading, deciding, opting, doctoring, serving  # isort: skip
from commplan.cli.app import app

__all__ = ["app", "deciding", "doctoring", "main", "opting", "planning", "reading", "running", "serving"]


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
