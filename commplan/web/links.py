"""The links of our texts: who follows one is sent on, and counted.

Never keeps anybody from where they wanted to go because they cannot be counted, never leads anywhere but to what stood
in the message, and never keeps a network address.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from commplan import tracking
from commplan.errors import StoreError
from commplan.ids import TokenPurpose
from commplan.ledger import feed
from commplan.receipts import link
from commplan.receipts.link import Click
from commplan.store import Store
from commplan.terms import MachineWhy
from commplan.tracking import Destination, PostKind
from commplan.web.pages import Pages
from commplan.web.priority import Priority

_LOG = logging.getLogger("commplan.web")

#: Links that were followed last, which lead on while the store cannot be read; and visits that wait to be kept.
_REMEMBERED, _MOST_WAITING = 10_000, 10_000
#: So many of those that wait are kept with one that is kept: a visitor waits for no more.
_WITH_ONE = 20


class Links:
    """The endpoint of ``/l/…``. `on_click` is called after a visit was kept; it must return at once."""

    def __init__(self, store: Store, pages: Pages, *, priority: Priority, on_click: Callable[[], None]) -> None:
        self._store = store
        self._pages = pages
        self._priority = priority
        self._on_click = on_click
        self._known: OrderedDict[str, Destination] = OrderedDict()
        self._waiting: deque[Click] = deque(maxlen=_MOST_WAITING)
        self._memory, self._turn = threading.Lock(), threading.Lock()

    async def follow(self, request: Request) -> Response:
        """Send a visitor on to where the link leads, after keeping that they came."""
        return await run_in_threadpool(self._follow, request, request.path_params["token"])

    def _follow(self, request: Request, token: str) -> Response:
        ref = self._store.keyring.open_link(token)
        if ref is None:
            return Response(status_code=204) if self._is_heartbeat(token) else self._pages.not_found(request)
        try:
            found = tracking.destination(self._store, ref)
        except StoreError:
            found = self._known.get(token)
            if found is None:
                raise
        if found is None:
            return self._pages.not_found(request)
        if found.is_over:
            return self._pages.over(request)
        self._remember(token, found)
        agent, why = link.visitor(request.method, request.headers)
        now = self._store.clock.now()
        if why is None and found.is_too_soon(now):
            why = MachineWhy.TOO_SOON
        self._keep(
            Click(
                token=self._store.keyring.token(TokenPurpose.MESSAGE, ref.message),
                link=found.name,
                at=now,
                agent_class=agent,
                machine_why=why,
            )
        )
        return RedirectResponse(found.target, status_code=302)

    def _remember(self, token: str, found: Destination) -> None:
        with self._memory:
            self._known[token] = found
            self._known.move_to_end(token)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _keep(self, click: Click) -> None:
        """Keep a visit durably; one that the store does not take waits in memory, until it takes another."""
        try:
            self._append(click)
        except StoreError:
            if len(self._waiting) == _MOST_WAITING:
                _LOG.error("too many clicks wait to be kept, and the oldest of them is lost")
            self._waiting.append(click)
            _LOG.warning("a click waits to be kept", extra={"waiting": len(self._waiting)})
            return
        if self._turn.acquire(blocking=False):
            try:
                self._keep_waiting(_WITH_ONE)
            except StoreError:
                _LOG.warning("clicks still wait to be kept", extra={"waiting": len(self._waiting)})
            finally:
                self._turn.release()

    def keep_waiting(self) -> None:
        """Keep the visits that wait; StoreError while the store does not take them. Whoever else is at it goes on."""
        if self._waiting and self._turn.acquire(blocking=False):
            try:
                self._keep_waiting(_MOST_WAITING)
            finally:
                self._turn.release()

    def _keep_waiting(self, most: int) -> None:
        """Keep visits that wait, the oldest first; for whoever holds the turn."""
        for _ in range(most):
            if not self._waiting:
                return
            self._append(self._waiting[0])
            self._waiting.popleft()

    def _append(self, click: Click) -> None:
        with self._priority:
            tracking.append(self._store, kind=PostKind.LINK_CLICK, query=click.written(), body=b"")
        self._on_click()

    def _is_heartbeat(self, nonce: str) -> bool:
        """Tell whether a heartbeat of ours came in; it counts once every visit before it is kept."""
        with self._store.read() as connection:
            if not feed.is_asked(connection, nonce):
                return False
        with self._turn:
            self._keep_waiting(_MOST_WAITING)
        with self._store.write() as connection:
            feed.hear(connection, nonce, self._store.clock.now())
        return True
