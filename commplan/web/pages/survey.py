"""The survey page: one question on a scale, and room for words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from commplan import tracking
from commplan.ids import TokenPurpose
from commplan.tracking import MAX_TEXT, SCALES, Answer
from commplan.web.pages.desk import Desk


class Survey:
    """Shows a survey's question, and keeps the answer."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Show the question, or keep an answer in place of the earlier one."""
        store = self._desk.store
        visit = tracking.find_visit(store, TokenPurpose.SURVEY, token)
        if visit is None or visit.step.ask is None:
            return self._desk.gone(request)
        if not tracking.takes_answers(visit, store.clock.now()):
            return self._desk.closed(request, visit, "survey")
        low, high = SCALES[visit.step.ask.scale]
        result = None
        if form is not None:
            score = _score(form.get("score", ""), low, high)
            answer = Answer(score=score, text=form.get("text"))
            if score is None and (form.get("score") or not (answer.text or "").strip()):
                result = "empty"
            else:
                tracking.answer_survey(store, token, answer)
                result = "thanks"
        known = tracking.previous_answer(store, visit) or Answer()
        preset = _score(request.query_params.get("score", ""), low, high) if form is None else None
        return self._desk.show(
            request,
            "survey.html.j2",
            status=422 if result == "empty" else 200,
            visit=visit,
            scale=visit.step.ask.scale,
            scores=range(low, high + 1),
            question=self._desk.local(request, visit, visit.step.ask.question),
            chosen=known.score if preset is None else preset,
            text=known.text or "",
            max_text=MAX_TEXT,
            result=result,
        )


def _score(text: str, low: int, high: int) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,2}", text, re.ASCII) and low <= int(text) <= high else None
