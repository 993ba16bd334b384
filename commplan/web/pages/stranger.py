"""The page for whoever gets somebody else's mail."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from commplan import tracking
from commplan.ids import TokenPurpose
from commplan.web.pages.desk import Desk


class Stranger:
    """Takes an address out of our mail when somebody else has it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show what would happen, or do it; with `do=own` take it back."""
        store = self._desk.store
        visit = tracking.find_visit(store, TokenPurpose.STRANGER, token)
        if visit is None:
            return self._desk.gone(request)
        state = "already" if tracking.is_disowned(store, visit) else "ask"
        if form is not None and form.get("do") == "own":
            tracking.own(store, token, said=self._desk.word(request, visit, "stranger_undo"))
            state = "back"
        elif form is not None:
            said = self._desk.word(request, visit, f"stranger_text_{visit.channel}")
            tracking.disown(store, token, said=said)
            state = "done"
        return self._desk.show(request, "stranger.html.j2", visit=visit, state=state, channel=visit.channel.value)
