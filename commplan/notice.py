"""Telling a plan's team: one line about a run, to wherever the role in `team` wants to be told.

Never carries more than keys, counts and verdicts, and never stops a run because nobody could be told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from commplan.plan import Plan

_LOG = logging.getLogger("commplan.notice")


def tell_owner(plan: Plan, environ: Mapping[str, str], *, title: str, body: str) -> bool:
    """Tell the plan's owner; False when the plan names no address for them, or the message could not be handed over.

    The address is an apprise URL (mail, chat, webhook), by `env:` reference, so it never stands in a plan.
    """
    reference = plan.team[plan.owner].notify
    url = environ.get(reference.removeprefix("env:")) if reference is not None else None
    if url is None:
        return False
    from apprise import Apprise  # noqa: PLC0415 (its hundred services take a second to import)

    teller = Apprise()
    told = teller.add(url) and bool(teller.notify(title=title, body=body))
    if not told:
        _LOG.warning("the owner could not be told", extra={"plan": plan.plan, "role": plan.owner})
    return told
