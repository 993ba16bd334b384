"""The pages that recipients see: unsubscribe and survey, in their language, readable on a phone and without a mouse.

Never acts on a GET or a HEAD (scanners follow links), never shows an address, never asks another server for anything.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from commplan import tracking
from commplan.ids import TokenPurpose
from commplan.plan import Localized
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import store_info
from commplan.tracking import Answer, Visit
from commplan.tracking.page import MAX_TEXT, SCALES

#: The languages the pages are written in; the first is for everybody else.
LANGUAGES = ("en", "zh")


def language_of(*wishes: str | None) -> str:
    """Return the first of `wishes` (locales, or an Accept-Language header) that a page exists in."""
    for wish in wishes:
        for tag in re.findall(r"[A-Za-z]+(?:[-_][A-Za-z0-9]+)*", re.sub(r";[^,]*", "", wish or "")):
            language = re.split("[-_]", tag)[0].lower()
            if language in LANGUAGES:
                return language
    return LANGUAGES[0]


def localized(texts: Localized, *wishes: str) -> str:
    """Return the text for the first of `wishes` that has one: the locale itself, its language, else any text."""
    if isinstance(texts, str):
        return texts
    known = {locale.replace("_", "-").lower(): text for locale, text in texts.items()}
    for wish in wishes:
        parts = wish.replace("_", "-").lower().split("-")
        for length in range(len(parts), 0, -1):
            if "-".join(parts[:length]) in known:
                return known["-".join(parts[:length])]
    return next(iter(known.values()))


class Pages:
    """The endpoints that recipients reach. `style_hash` is what the content security policy allows as style."""

    def __init__(self, store: Store, settings: Settings) -> None:
        folder: Path = settings.templates / "shared" / "pages"
        self._store = store
        self._region = settings.default_region
        self._templates = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        style = (folder / "style.css").read_text(encoding="utf-8")
        self.style_hash = b64encode(sha256(style.encode()).digest()).decode("ascii")
        with store.read() as connection:
            kind = connection.execute(select(store_info.c.kind)).scalar_one()
        self._templates.globals.update(
            style=Markup(style),  # noqa: S704 (our own file, which the page's policy names by its hash)
            sandbox=kind == "sandbox",
            sender=settings.email.from_name,
            max_text=MAX_TEXT,
        )

    async def unsubscribe(self, request: Request) -> Response:
        """Show what a link would stop (GET), or do it (POST): by our form, or by a mail program in one click."""
        token = request.path_params["token"]
        if request.method != "POST":
            return await run_in_threadpool(self._show_unsubscribe, request, token)
        return await run_in_threadpool(self._act_unsubscribe, request, token, await _form(request))

    async def survey(self, request: Request) -> Response:
        """Show a survey's question (GET), or keep the answer (POST)."""
        token = request.path_params["token"]
        form = await _form(request) if request.method == "POST" else None
        return await run_in_threadpool(self._survey, request, token, form)

    def not_found(self, request: Request) -> Response:
        """Say kindly that there is nothing here."""
        return self._page(request, "gone.html.j2", status=404)

    def _show_unsubscribe(self, request: Request, token: str) -> Response:
        visit = tracking.find_visit(self._store, TokenPurpose.UNSUBSCRIBE, token)
        if visit is None:
            return self._page(request, "address.html.j2", status=404, result=None)
        state = "already" if tracking.is_opted_out(self._store, visit) else "ask"
        return self._unsubscribe_page(request, visit, state)

    def _act_unsubscribe(self, request: Request, token: str, form: Mapping[str, str]) -> Response:
        back = form.get("do") == "resubscribe"
        act = tracking.resubscribe if back else tracking.unsubscribe
        visit = act(self._store, token)
        if visit is not None:
            return self._unsubscribe_page(request, visit, "back" if back else "done")
        if "address" not in form:
            return self._page(request, "address.html.j2", status=404, result=None)
        taken = tracking.unsubscribe_address(self._store, form["address"], default_region=self._region)
        return self._page(
            request, "address.html.j2", status=200 if taken else 422, result="done" if taken else "invalid"
        )

    def _unsubscribe_page(self, request: Request, visit: Visit, state: str) -> Response:
        return self._page(
            request,
            "unsubscribe.html.j2",
            visit=visit,
            state=state,
            topic=None if visit.scope == "marketing" else visit.plan.topic.replace("-", " "),
        )

    def _survey(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        visit = tracking.find_visit(self._store, TokenPurpose.SURVEY, token)
        if visit is None or visit.step.ask is None:
            return self._page(request, "gone.html.j2", status=404)
        low, high = SCALES[visit.step.ask.scale]
        wished = request.query_params.get("lang")
        result = None
        if form is not None:
            score = _score(form.get("score", ""), low, high)
            answer = Answer(score=score, text=form.get("text"))
            if score is None and (form.get("score") or not (answer.text or "").strip()):
                result = "empty"
            else:
                tracking.answer_survey(self._store, token, answer)
                result = "thanks"
        known = tracking.previous_answer(self._store, visit) or Answer()
        preset = _score(request.query_params.get("score", ""), low, high) if form is None else None
        return self._page(
            request,
            "survey.html.j2",
            status=422 if result == "empty" else 200,
            visit=visit,
            scale=visit.step.ask.scale,
            scores=range(low, high + 1),
            question=localized(visit.step.ask.question, *filter(None, (wished, visit.locale, visit.plan.locale))),
            chosen=known.score if preset is None else preset,
            text=known.text or "",
            result=result,
        )

    def _language(self, request: Request, visit: Visit | None) -> str:
        told = visit.locale if visit is not None else request.headers.get("accept-language")
        return language_of(request.query_params.get("lang"), told)

    def _page(
        self, request: Request, template: str, *, status: int = 200, visit: Visit | None = None, **values: object
    ) -> Response:
        language = self._language(request, visit)
        page = self._templates.get_template(template)
        return HTMLResponse(page.render(language=language, **values), status_code=status)


def _score(text: str, low: int, high: int) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,2}", text, re.ASCII) and low <= int(text) <= high else None


async def _form(request: Request) -> dict[str, str]:
    """Return a form's text fields; none if it cannot be read, for an opt-out acts without any."""
    try:
        form = await request.form(max_files=0, max_fields=20)
    except HTTPException:
        form = FormData()
    return {name: value for name, value in form.items() if isinstance(value, str)}
