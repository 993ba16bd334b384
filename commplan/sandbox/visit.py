"""Where a link leads, and what people go there for: to look, to set up, to answer, to unsubscribe.

Never mistakes one for another: whoever follows a link of a message does not unsubscribe by accident.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from commplan.sandbox.browser import Browser, Page, fill
from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.dice import Dice
from commplan.sandbox.schedule import Schedule

#: Machine seconds after which somebody whom a page failed comes back.
_COME_BACK = (1.0, 3.0, 10.0, 30.0, 60.0, 120.0)
#: A score that a link to a survey carries.
_SCORE = re.compile(r"[?&]score=(\d{1,2})\b")
#: What a page that offers to take an opt-out back has in its form.
_UNDO = "resubscribe"


class Place(StrEnum):
    """What a reader sees a link to be for."""

    PAGE = "page"
    SETUP = "setup"
    SURVEY = "survey"
    UNSUBSCRIBE = "unsubscribe"
    CHOICE = "choice"  #: what to get, and whether it is theirs at all
    LINK = "link"  #: somewhere that only shows when it is followed
    ELSEWHERE = "elsewhere"  #: outside the places the sandbox may visit


def place_of(config: SandboxConfig, url: str) -> Place:
    """Return what a link is for."""
    if not config.may_follow(url):
        return Place.ELSEWHERE
    base = config.public_url.rstrip("/") + "/"
    if url.startswith(base):
        first = urlsplit(url[len(base) :]).path.split("/")[0]
        return {
            "u": Place.UNSUBSCRIBE,
            "s": Place.SURVEY,
            "p": Place.CHOICE,
            "w": Place.CHOICE,
            "l": Place.LINK,
        }.get(first, Place.PAGE)
    return Place.SETUP if "/setup/" in urlsplit(url).path else Place.PAGE


class Visitor:
    """Visits pages on behalf of people; comes back later when a page fails, and counts when it never worked."""

    def __init__(self, config: SandboxConfig, schedule: Schedule, browser: Browser) -> None:
        self._config = config
        self._schedule = schedule
        self._browser = browser
        self._followed: set[str] = set()
        self._set_up: set[str] = set()
        #: Visits that failed for good: the page refused, or nobody answered for minutes.
        self.disappointed = 0

    def find(self, urls: Iterable[str], *places: Place) -> list[str]:
        """Return the links that lead to certain places, in their order."""
        return [url for url in urls if place_of(self._config, url) in places]

    def survey_link(self, urls: Iterable[str], pleased: float) -> str | None:
        """Return the link to a survey: of several that carry a score, the one that says how pleased the reader is."""
        found = self.find(urls, Place.SURVEY)
        scored = sorted((int(score[1]), url) for url in found if (score := _SCORE.search(url)))
        if scored:
            return scored[int(pleased * len(scored))][1]
        return found[0] if found else None

    async def look(self, url: str) -> bool:
        """Open a page and leave; tell whether there was one, or the way to one."""
        page = await self._browser.get(url)
        return page.ok or page.url != url

    async def preview(self, url: str) -> bool:
        """Fetch a link as a messenger does that draws a preview of it; tell as `look`."""
        page = await self._browser.preview(url)
        return page.ok or page.url != url

    async def scan(self, urls: Iterable[str]) -> None:
        """Open every page that may be visited, as a mail scanner does."""
        for url in urls:
            await self._browser.scan(url)

    async def set_up(self, url: str, done: Callable[[float], None]) -> None:
        """Open a set-up page and send its form, once per page, by whatever link; `done` gets the plan time."""
        if url in self._followed:
            return
        self._followed.add(url)
        landed = [url]

        def choose(page: Page) -> list[tuple[str, str]]:
            landed[0] = page.url
            return _as_suggested(page)

        def first(moment: float) -> None:
            if landed[0] not in self._set_up:
                self._set_up.add(landed[0])
                done(moment)

        await self._try(partial(self._send_form, url, choose), first, 0)

    async def unsubscribe(self, url: str, done: Callable[[float], None]) -> None:
        """Open an unsubscribe page and confirm."""
        await self._try(partial(self._send_form, url, None), done, 0)

    async def one_click(self, url: str, done: Callable[[float], None]) -> None:
        """Press the mail program's own unsubscribe button (RFC 8058)."""
        await self._try(partial(self._browser.post, url, {"List-Unsubscribe": "One-Click"}), done, 0)

    async def answer(
        self, url: str, dice: Dice, pleased: float, words: str, done: Callable[[float, int | None], None]
    ) -> None:
        """Open a survey and send its form; `done` gets the plan time and the number chosen."""
        chosen: list[int | None] = [None]

        def choose(page: Page) -> list[tuple[str, str]]:
            fields, chosen[0] = fill(page.forms[0], dice, score=pleased, words=words)
            return fields

        await self._try(partial(self._send_form, url, choose), lambda moment: done(moment, chosen[0]), 0)

    async def _send_form(self, url: str, choose: Callable[[Page], list[tuple[str, str]]] | None) -> Page:
        page = await self._browser.get(url)
        if not page.ok:
            return page
        posts = [form for form in page.forms if form.method == "post"]
        if not posts:
            return Page(status=404, url=page.url)
        if any(value == _UNDO for _, value in posts[0].filled):
            return page  # it was done before, and the page only offers to undo it
        page = Page(status=page.status, url=page.url, forms=tuple(posts))
        # Without a question to answer, people leave everything as the page suggests and press the first button.
        fields = choose(page) if choose else _as_suggested(page)
        return await self._browser.submit(page, posts[0], fields)

    async def _try(self, visit: Callable[[], Awaitable[Page]], done: Callable[[float], None], tried: int) -> None:
        page = await visit()
        if page.ok:
            done(self._config.clock.now().timestamp())
        elif (page.status == 0 or page.status >= 500) and tried < len(_COME_BACK):
            self._schedule.after(_COME_BACK[tried], partial(self._try, visit, done, tried + 1))
        else:
            self.disappointed += 1


def _as_suggested(page: Page) -> list[tuple[str, str]]:
    form = page.forms[0]
    return form.filled + [(name, values[0]) for name, values in form.choices.items()]
