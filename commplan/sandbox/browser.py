"""What a person does with a link: open the page, read its form, fill it in, send it.

Never opens an address outside the places that the sandbox was told it may visit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

from commplan.sandbox.client import Client, NoAnswerError, NotReachedError
from commplan.sandbox.dice import Dice

#: Machine seconds.
_CONNECT, _READ = 5.0, 10.0
_REDIRECTS = 3
_AGENT = "Mozilla/5.0 (sandbox)"
_PREVIEWER_AGENT = "facebookexternalhit/1.1 Facebot Twitterbot/1.0"
_SCANNER_AGENT = "Mozilla/5.0 (compatible; LinkScanner/1.0)"


@dataclass(slots=True, kw_only=True)
class Form:
    """A form of a page: where it goes, what is filled in already, and what a person has to choose or write."""

    action: str
    method: str = "get"
    filled: list[tuple[str, str]] = field(default_factory=list)
    #: For each name, the values to choose from (radio buttons, lists, buttons that carry a value).
    choices: dict[str, list[str]] = field(default_factory=dict)
    #: Names of the fields for free text.
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer: its status, where it came from after redirects, and the forms on it."""

    status: int
    url: str
    forms: tuple[Form, ...] = ()

    @property
    def ok(self) -> bool:
        """Tell whether the page is what was asked for."""
        return 200 <= self.status < 300


class Browser:
    """Opens pages over HTTP, without cookies, each visit for itself."""

    def __init__(self, client: Client, may_follow: Callable[[str], bool]) -> None:
        self._client = client
        self._may_follow = may_follow

    async def get(self, url: str) -> Page:
        """Open a page; status 0 when nobody answers or the address may not be visited."""
        return await self._request("GET", url)

    async def post(self, url: str, fields: Mapping[str, str] | list[tuple[str, str]]) -> Page:
        """Send a form."""
        return await self._request("POST", url, urlencode(fields).encode("ascii"))

    async def scan(self, url: str) -> None:
        """Look at a link as a mail scanner does: HEAD, then GET."""
        await self._request("HEAD", url, agent=_SCANNER_AGENT)
        await self._request("GET", url, agent=_SCANNER_AGENT)

    async def preview(self, url: str) -> Page:
        """Fetch a link as a messenger does before anybody has read the message."""
        return await self._request("GET", url, agent=_PREVIEWER_AGENT)

    async def submit(self, page: Page, form: Form, fields: list[tuple[str, str]]) -> Page:
        """Send a form that was found on a page."""
        target = urljoin(page.url, form.action)
        if form.method == "post":
            return await self.post(target, fields)
        return await self.get(f"{target}?{urlencode(fields)}")

    async def _request(self, method: str, url: str, body: bytes | None = None, agent: str = _AGENT) -> Page:
        for _ in range(_REDIRECTS + 1):
            if not self._may_follow(url):
                return Page(status=0, url=url)
            headers = {"User-Agent": agent, "Accept": "text/html"}
            if body is not None:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            try:
                answer = await self._client.send(
                    method, url.partition("#")[0], body=body, headers=headers, connect=_CONNECT, read=_READ
                )
            except (NotReachedError, NoAnswerError):
                return Page(status=0, url=url)
            if not 300 <= answer.status < 400 or answer.location is None:
                forms = _forms(answer.content, url) if answer.content_type == "text/html" else ()
                return Page(status=answer.status, url=url, forms=forms)
            url = urljoin(url, answer.location)
            if answer.status not in {307, 308}:
                method, body = "GET", None
        return Page(status=0, url=url)


def fill(form: Form, dice: Dice, *, score: float, words: str) -> tuple[list[tuple[str, str]], int | None]:
    """Return the fields of a filled-in form, and the number chosen when one was asked for.

    `score` between 0 and 1 is how pleased the person is: it picks among numeric choices. `words` is what the person
    writes into the first field for free text; empty leaves it empty.
    """
    fields = list(form.filled)
    chosen: int | None = None
    for name, values in form.choices.items():
        numbers = sorted(int(value) for value in values if re.fullmatch(r"\d{1,3}", value))
        if len(numbers) < 2:
            fields.append((name, dice.pick(f"choose {name}", values)))
            continue
        number = numbers[min(len(numbers) - 1, int(score * len(numbers)))]
        fields.append((name, str(number)))
        chosen = number if chosen is None else chosen
    for position, name in enumerate(form.texts):
        fields.append((name, words if position == 0 else ""))
    return fields, chosen


def _forms(content: bytes, url: str) -> tuple[Form, ...]:
    reader = _FormReader(url)
    reader.feed(content.decode("utf-8", "replace"))
    return tuple(reader.forms)


class _FormReader(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._select: str | None = None
        self.forms: list[Form] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(action=given.get("action") or self._url, method=given.get("method", "get").lower()))
            self._open = True
        elif self._open:
            self._field(tag, given)

    def _field(self, tag: str, given: dict[str, str]) -> None:
        form, name = self.forms[-1], given.get("name", "")
        kind = given.get("type", "submit" if tag == "button" else "text").lower()
        if tag == "option" and self._select is not None:
            if given.get("value"):
                form.choices.setdefault(self._select, []).append(given["value"])
        elif tag == "select":
            self._select = name or None
        elif not name or "disabled" in given:
            return
        elif tag == "textarea" or kind in {"text", "email", "search"}:
            if given.get("value"):
                form.filled.append((name, given["value"]))
            else:
                form.texts.append(name)
        elif kind == "hidden":
            form.filled.append((name, given.get("value", "")))
        elif kind in {"radio", "submit"} and (tag in {"input", "button"}):
            form.choices.setdefault(name, []).append(given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False
        elif tag == "select":
            self._select = None
