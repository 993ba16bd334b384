"""Objections: texts that may ask us to stop, and addresses that turn out to be somebody else's.

Who wrote such a text gets no more marketing until the plan's owner decides. Never says who wrote, or what.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import insert, select

from commplan import notice
from commplan.errors import InputError
from commplan.ids import RunId
from commplan.ledger.run import Run, load_run, plan_of
from commplan.store import Store
from commplan.store.tables import audit
from commplan.tracking import MISDIRECTED
from commplan.tracking.consequence import OBJECTION

_LOG = logging.getLogger("commplan.objection")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What the record calls something that an owner is told of, and having told it; `body` has count and run."""

    what: str
    told: str
    title: str
    body: str


_KINDS = (
    _Kind(
        what=OBJECTION,
        told="owner told of keywords inside texts",
        title="a reply may ask us to stop",
        body="{who} wrote a word such as STOP inside a longer text. They get no more marketing until you decide: read "
        "the replies in the report of {run}, then use commplan suppress or commplan unsuppress",
    ),
    _Kind(
        what=MISDIRECTED,
        told="owner told of addresses of somebody else",
        title="an address is somebody else's",
        body="{who} told us that they are not whom we mean. Nothing goes to those addresses any more: find them as "
        "wrong_person with commplan suppressions export, and correct them where the people of {run} come from",
    ),
)


def tell_owners(store: Store, environ: Mapping[str, str]) -> int:
    """Tell each plan's owner of what they have not been told of; return how many runs had anything of each kind.

    What is told is put on record afterwards, so that an owner may be told twice and never not at all. No transaction
    is open meanwhile.
    """
    return sum(_tell_all(store, kind, environ) for kind in _KINDS)


def _tell_all(store: Store, kind: _Kind, environ: Mapping[str, str]) -> int:
    pending, last = _pending(store, kind)
    for run_id, count in pending.items():
        if not _tell(store, kind, load_run(store, run_id), count, environ):
            continue
        with store.write() as connection:
            detail = json.dumps({"up_to": last, "objections": count})
            connection.execute(insert(audit).values(run_id=run_id, at=store.clock.now(), what=kind.told, detail=detail))
    return len(pending)


def _tell(store: Store, kind: _Kind, run: Run, count: int, environ: Mapping[str, str]) -> bool:
    """Tell the owner, if there is a way to; False if it is to be tried again."""
    try:
        with store.read() as connection:
            plan = plan_of(connection, run.run_id)
    except InputError:
        # A plan of an earlier version, which this one does not read; the others still have their turn.
        _LOG.warning("a run's owner cannot be told: its plan is not readable", extra={"run": run.run_key})
        return True
    who = "1 person" if count == 1 else f"{count:,} people"
    told = notice.tell_owner(
        plan,
        environ,
        title=f"{'SANDBOX: ' if store.is_sandbox else ''}{run.run_key}: {kind.title}",
        body=kind.body.format(who=who, run=run.run_key),
    )
    return told or plan.team[plan.owner].notify is None


def _pending(store: Store, kind: _Kind) -> tuple[Counter[RunId], int]:
    """Return how many of a kind of each run nobody was told of, and the audit id of the newest of all."""
    told: dict[RunId, int] = {}
    found: list[tuple[RunId, int]] = []
    with store.read() as connection:
        for row in connection.execute(select(audit).where(audit.c.what.in_((kind.what, kind.told)))):
            run_id = RunId(row.run_id)
            if row.what == kind.what:
                found.append((run_id, row.audit_id))
            else:
                told[run_id] = max(told.get(run_id, 0), json.loads(row.detail)["up_to"])
    new = Counter(run_id for run_id, audit_id in found if audit_id > told.get(run_id, 0))
    return new, max((audit_id for _, audit_id in found), default=0)
