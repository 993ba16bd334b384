"""Logging set-up of a process: fixed phrases, data in ``extra``, ids and counts only.

Never enables the providers' own loggers, which print keys and addresses at DEBUG and INFO (facts of both SDKs).
"""

from __future__ import annotations

import logging

_QUIET = ("python_http_client", "twilio", "urllib3", "httpx", "httpcore", "sqlalchemy", "alembic", "apprise")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    """Appends what a call gave in ``extra`` as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        return line + "".join(f" {key}={value}" for key, value in sorted(extra.items()))


def set_up(level: int = logging.INFO) -> None:
    """Send commplan's log lines to standard error and keep the providers' libraries quiet."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("commplan")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
