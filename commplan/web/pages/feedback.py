"""The page that an owner's link leads to: what people said in answer to a run, until the link expires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response

from commplan import feedback
from commplan.errors import InputError
from commplan.evaluation.wording import moment
from commplan.ids import RunId
from commplan.ledger.run import plan_of
from commplan.store.tables import runs
from commplan.web.pages.desk import Desk

#: Most of what people said that the page shows.
MOST = 200


class Feedback:
    """Shows what people said; takes nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show what people said, or kindly that the link is over, or that it is none."""
        link = feedback.open_link(self._desk.store.keyring, token)
        if link is None:
            return self._desk.gone(request)
        if link.is_over:
            return self._desk.show(request, "feedback_over.html.j2", status=410)
        found = self._found(link.run_id)
        return self._desk.gone(request) if found is None else self._desk.show(request, "feedback.html.j2", **found)

    def _found(self, run_id: RunId) -> dict[str, Any] | None:
        """Return what the page shows of a run; None if the store has no such run, or cannot read its plan any more."""
        with self._desk.store.read() as connection:
            run_key = connection.execute(select(runs.c.run_key).where(runs.c.run_id == run_id)).scalar_one_or_none()
            if run_key is None:
                return None
            try:
                plan = plan_of(connection, run_id)
            except InputError:
                return None
            items = feedback.find(connection, run_id, limit=MOST)
        shown = [(item, moment(item.at, plan.zone)) for item in items]
        return {"run_key": run_key, "title": plan.title, "items": shown, "most": MOST}
