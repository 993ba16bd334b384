"""The one door through which an exception may leave a task or flow, without taking anybody's data along.

Prefect stores what a failed run says; so only commplan's own sentences, which never carry an address, get through.
"""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from uuid import uuid4

from commplan.errors import CommplanError
from commplan.settings import load_settings

P = ParamSpec("P")
R = TypeVar("R")


class IncidentError(CommplanError):
    """Something unforeseen; the details are in a file that only the owner of the installation can read."""


def guarded(body: Callable[P, R]) -> Callable[P, R]:
    """Let commplan's own errors through and turn every other into an incident with an id.

    The original, with its trace, goes to ``incidents/<id>.txt`` in the home folder, mode 0600.
    """

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return body(*args, **kwargs)
        except CommplanError as error:
            raise error.with_traceback(None) from None
        except Exception as error:
            raise IncidentError(_keep(error)) from None

    return run


def _keep(error: Exception) -> str:
    incident = uuid4().hex[:12]
    folder = load_settings().home / "incidents"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{incident}.txt"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return (
        f"incident {incident} ({type(error).__name__}): nothing more is said here because it may name people; "
        f"read incidents/{incident}.txt in the home folder of this installation"
    )
