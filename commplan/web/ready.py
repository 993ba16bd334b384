"""Whether the receiver can do its work, and what to do if it cannot.

Names settings and figures only; whoever may ask is not asked who they are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import update
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commplan import tracking
from commplan.errors import StoreError
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import store_info
from commplan.tracking import Backlog

#: Whoever applies posts keeps up while the oldest has waited no longer than this, in machine seconds.
LONGEST_WAIT = 300.0
#: Machine seconds for which an answer serves everybody who asks, and after which the store is taken for stuck.
_FRESH, _PATIENCE = 1.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What stands in the way, each with its remedy, and what waits to be applied, if that could be read."""

    reasons: tuple[str, ...]
    backlog: Backlog | None = None


class Readiness:
    """The endpoint that says whether this process can take posts and they are applied: 200, or 503 with reasons."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._lacking = tuple(_lacking(settings))
        self._asking = asyncio.Lock()
        self._asked: float | None = None
        self._found = _Finding(reasons=())

    async def readyz(self, request: Request) -> Response:
        """Answer by what was found a moment ago; the store is tried once, however many ask."""
        async with self._asking:
            if self._asked is None or time.monotonic() - self._asked > _FRESH:
                self._found = await self._find()
                self._asked = time.monotonic()
            found = self._found
        said: dict[str, object] = {"status": "not ready" if found.reasons else "ready"}
        if found.backlog is not None:
            said |= {
                "waiting": found.backlog.waiting,
                "set_aside": found.backlog.aside,
                "oldest_seconds": round(found.backlog.seconds, 1),
            }
        if found.reasons:
            said["reasons"] = found.reasons
        return JSONResponse(said, status_code=503 if found.reasons else 200)

    async def _find(self) -> _Finding:
        try:
            return await asyncio.wait_for(run_in_threadpool(self._look), _PATIENCE)
        except TimeoutError:
            stuck = f"the store has not taken a row within {_PATIENCE:.0f} s; see what else writes to it, and its disk"
            return _Finding(reasons=(*self._lacking, stuck))
        except StoreError as error:
            return _Finding(reasons=(*self._lacking, str(error)))

    def _look(self) -> _Finding:
        if not self._store.is_current():
            old = "the store's tables are of another version; run `commplan db upgrade`, and start the receiver again"
            return _Finding(reasons=(*self._lacking, old))
        with self._store.write() as connection:
            connection.execute(update(store_info).values(kind=store_info.c.kind))
        backlog = tracking.backlog(self._store)
        late = () if backlog.seconds <= LONGEST_WAIT else (_late(backlog),)
        return _Finding(reasons=(*self._lacking, *late), backlog=backlog)


def _late(backlog: Backlog) -> str:
    return (
        f"the oldest of {backlog.waiting} posts has waited to be applied for {backlog.seconds:.0f} s; "
        "see the log of commplan serve, and start more processes (--processes) if they only are too many"
    )


def _lacking(settings: Settings) -> Iterator[str]:
    """Yield why every post is refused of a provider that we send by; of both, if we could hear neither."""
    deaf_to_email = not settings.email.webhook_keys
    deaf_to_texts = settings.sms.auth_token is None
    both = deaf_to_email and deaf_to_texts
    if deaf_to_email and (both or settings.email.api_key is not None):
        yield "SendGrid's posts are refused; set COMMPLAN_EMAIL__WEBHOOK_KEYS to the key of its signed event webhook"
    if deaf_to_texts and (both or settings.sms.account_sid is not None):
        yield "Twilio's posts are refused; set COMMPLAN_SMS__AUTH_TOKEN"
