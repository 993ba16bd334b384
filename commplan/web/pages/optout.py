"""The unsubscribe page, for people and for mail programs that unsubscribe in one click (RFC 8058)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from commplan import tracking
from commplan.ids import TokenPurpose
from commplan.tracking import Visit
from commplan.web.pages.desk import Desk


class OptOut:
    """Shows what a link would stop, and does it; takes an address where a link does not say whose it is."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show what would stop, or stop it; with `do=resubscribe` take it back."""
        store = self._desk.store
        visit = tracking.find_visit(store, TokenPurpose.UNSUBSCRIBE, token)
        if visit is None:
            return self._take_address(request, form)
        if form is None:
            return self._show(request, visit, "already" if tracking.is_opted_out(store, visit) else "ask")
        if form.get("do") == "resubscribe":
            tracking.resubscribe(store, token, said=self._desk.word(request, visit, "undo_button"))
            return self._show(request, visit, "back")
        # A mail program shows its own words, of which we know nothing.
        said = self._told(request, visit) if form.get("do") == "unsubscribe" else None
        tracking.unsubscribe(store, token, said=said)
        return self._show(request, visit, "done")

    def _take_address(self, request: Request, form: Mapping[str, str] | None) -> Response:
        if form is None or "address" not in form:
            return self._desk.show(request, "address.html.j2", status=404, result=None)
        region = self._desk.settings.default_region
        taken = tracking.unsubscribe_address(self._desk.store, form["address"], default_region=region)
        status, result = (200, "done") if taken else (422, "invalid")
        return self._desk.show(request, "address.html.j2", status=status, result=result)

    def _show(self, request: Request, visit: Visit, state: str) -> Response:
        return self._desk.show(
            request,
            "unsubscribe.html.j2",
            visit=visit,
            state=state,
            topic=self._topic(request, visit),
            preferences=f"../p/{self._desk.store.keyring.token(TokenPurpose.PREFERENCES, visit.ref)}",
        )

    def _topic(self, request: Request, visit: Visit) -> str | None:
        """Return what is stopped in words, None for marketing as a whole."""
        if visit.scope == "marketing":
            return None
        return self._desk.topic(request, visit, visit.plan.topic, visit.plan.topic_title)

    def _told(self, request: Request, visit: Visit) -> str:
        topic = self._topic(request, visit)
        return self._desk.word(request, visit, "stop_marketing" if topic is None else "stop_topic", topic=topic)
