"""What all pages share: their templates, the language they speak, and how forms and links are read."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from babel.dates import format_date
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from commplan.ids import TokenPurpose
from commplan.plan import Localized
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import store_info
from commplan.tracking import Visit

#: The languages the pages are written in; the first is for everybody else.
LANGUAGES = ("en", "zh")
#: Most fields a form may have: two for each topic and channel.
_MAX_FIELDS = 1_000


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


class Page(Protocol):
    """What stands behind one kind of link."""

    def answer(self, request: Request, token: str, form: Mapping[str, str] | None) -> Response:
        """Answer a GET or HEAD (`form` is None), which must change nothing, or a POST."""


class Desk:
    """Makes pages. `style_hash` is what the content security policy allows as style."""

    def __init__(self, store: Store, settings: Settings) -> None:
        folder: Path = settings.templates / "shared" / "pages"
        self.store = store
        self.settings = settings
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
        )
        words: Mapping[str, Mapping[str, str]] = self._templates.get_template("words.html.j2").module.words  # type: ignore[attr-defined]
        self._words = words

    def endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """Return what the web application calls for a kind of link."""

        async def endpoint(request: Request) -> Response:
            form = await _form(request) if request.method == "POST" else None
            return await run_in_threadpool(page.answer, request, request.path_params["token"], form)

        return endpoint

    def show(
        self, request: Request, template: str, *, status: int = 200, visit: Visit | None = None, **values: object
    ) -> Response:
        """Return a page in the visitor's language, or the browser's where nobody knows who it is."""
        page = self._templates.get_template(template)
        text = page.render(language=self.language(request, visit), **values)
        return HTMLResponse(text, status_code=status)

    def gone(self, request: Request, *, status: int = 404) -> Response:
        """Return the page for what is not there: no link of ours, or a part of one."""
        # Whoever wants to hear no more is led to the page that takes an address; only from a place one folder deep.
        optout = "../u/-" if "token" in request.path_params else None
        return self.show(request, "gone.html.j2", status=status, optout=optout)

    def closed(self, request: Request, visit: Visit, what: str) -> Response:
        """Return the page for a link that takes no answer any more; `what` is `survey` or `rsvp`."""
        token = self.store.keyring.token(TokenPurpose.PREFERENCES, visit.ref)
        return self.show(request, "closed.html.j2", status=410, visit=visit, what=what, preferences=f"../p/{token}")

    def language(self, request: Request, visit: Visit | None) -> str:
        """Return the language of a page: as asked for on it, else the recipient's, else the browser's."""
        told = visit.locale if visit is not None else request.headers.get("accept-language")
        return language_of(request.query_params.get("lang"), told)

    def local(self, request: Request, visit: Visit, texts: Localized) -> str:
        """Return a plan's text in the language of the page."""
        return localized(texts, *filter(None, (request.query_params.get("lang"), visit.locale, visit.plan.locale)))

    def topic(self, request: Request, visit: Visit, name: str, title: Localized | None) -> str:
        """Return what a topic is called."""
        return name.replace("-", " ") if title is None else self.local(request, visit, title)

    def word(self, request: Request, visit: Visit | None, name: str, **values: object) -> str:
        """Return one of the words of the pages, as they show it."""
        return self._words[self.language(request, visit)][name].format(sender=self.settings.email.from_name, **values)

    def day(self, request: Request, visit: Visit, day: date) -> str:
        """Return a date as it is written in the page's language."""
        return str(format_date(day, "long", locale=self.language(request, visit)))


async def _form(request: Request) -> dict[str, str]:
    """Return a form's text fields, the last of a name; none if it cannot be read, for an opt-out acts without any."""
    try:
        form = await request.form(max_files=0, max_fields=_MAX_FIELDS)
    except HTTPException:
        form = FormData()
    return {name: value for name, value in form.items() if isinstance(value, str)}
