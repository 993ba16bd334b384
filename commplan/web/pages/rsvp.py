"""The page of an invitation: yes, no or maybe, and how many places are left."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from commplan import tracking
from commplan.terms import RsvpAnswer
from commplan.web.pages.desk import Desk

#: What can be pressed; who presses yes when all places are taken waits.
_CHOICES = (RsvpAnswer.YES, RsvpAnswer.NO, RsvpAnswer.MAYBE)


class Rsvp:
    """Shows an invitation, and keeps the answer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show the invitation, or keep an answer in place of the earlier one."""
        here = tracking.invitation(self._desk.store, token)
        if here is None:
            return self._desk.gone(request)
        if not here.is_open:
            return self._desk.closed(request, here.visit, "rsvp")
        result = None
        if form is not None:
            chosen = _choice(form.get("answer", ""))
            if chosen is None:
                result = "empty"
            else:
                here = tracking.answer_invitation(self._desk.store, token, chosen) or here
                result = None if here.answer is None else here.answer.value
        preset = _choice(request.query_params.get("answer", "")) if form is None else None
        chosen = preset or (RsvpAnswer.YES if here.answer is RsvpAnswer.WAITING else here.answer)
        closes = here.event.closes
        return self._desk.show(
            request,
            "rsvp.html.j2",
            status=422 if result == "empty" else 200,
            visit=here.visit,
            title=self._desk.local(request, here.visit, here.event.title),
            choices=[choice.value for choice in _CHOICES],
            chosen=chosen,
            left=here.left,
            has_place=here.answer is RsvpAnswer.YES,
            waits=here.answer is RsvpAnswer.WAITING,
            closes=None if closes is None else self._desk.day(request, here.visit, closes),
            result=result,
        )


def _choice(text: str) -> RsvpAnswer | None:
    return next((choice for choice in _CHOICES if choice == text), None)
