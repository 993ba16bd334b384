"""The website of the sample company: pages that messages link to, and the set-up form that activates a customer.

Never writes anything but `activated_at` of one customer into the sample CRM, in the CRM's own local time.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from commplan.clock import Clock
from commplan.sandbox.crm import TIME_FORMAT, ZONE

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} · SANDBOX</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.6 system-ui,"Noto Sans CJK SC",sans-serif;max-width:36em;margin:4em auto;padding:0 1em}}
.banner{{background:#7a4a00;color:#fff;padding:.2em .8em;border-radius:.3em}}</style></head>
<body><p class="banner">SANDBOX</p><h1>{title}</h1>{body}</body></html>
"""
_FORM = """<p>Your account is nearly ready. / 您的账户即将就绪。</p>
<form method="post"><button type="submit">Finish set-up / 完成设置</button></form>"""


class Site:
    """The pages below ``/site/``."""

    def __init__(self, clock: Clock, crm: Path | None) -> None:
        self._clock = clock
        self._crm = crm
        self._zone = ZoneInfo(ZONE)
        # One thread writes: SQLite allows one writer, and the event loop must not wait for it.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crm")
        self._connection: sqlite3.Connection | None = None

    def routes(self) -> list[Route]:
        """Return the pages of the site."""
        return [
            Route("/site/setup/{customer:int}", self._setup, methods=["GET"]),
            Route("/site/setup/{customer:int}", self._activate, methods=["POST"]),
            Route("/site/{path:path}", self._page, methods=["GET"]),
        ]

    async def close(self) -> None:
        """Close the sample CRM."""
        await self._write(self._disconnect)
        self._writer.shutdown()

    async def _write(self, work: Callable[[], bool]) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(_PAGE.format(title="Sample company / 示例公司", body="<p>Hello! / 您好！</p>"))

    async def _setup(self, request: Request) -> Response:
        return HTMLResponse(_PAGE.format(title="Set-up / 设置", body=_FORM))

    async def _activate(self, request: Request) -> Response:
        customer = int(request.path_params["customer"])
        known = await self._write(lambda: self._record(customer))
        if not known:
            return HTMLResponse(_PAGE.format(title="Unknown customer / 未知客户", body=""), status_code=404)
        return HTMLResponse(_PAGE.format(title="All set / 设置完成", body="<p>Thank you! / 谢谢！</p>"))

    def _record(self, customer: int) -> bool:
        if self._crm is None:
            return True
        if self._connection is None:
            # A mistyped path must not become a new, empty database.
            self._connection = sqlite3.connect(f"{self._crm.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
            self._connection.execute("PRAGMA synchronous=OFF")
        moment = self._clock.now().astimezone(self._zone).strftime(TIME_FORMAT)
        with self._connection as connection:
            # Whoever sets up twice was activated the first time.
            found = connection.execute(
                "UPDATE customers SET activated_at = coalesce(activated_at, ?) WHERE customer_id = ?",
                (moment, customer),
            )
        return found.rowcount == 1

    def _disconnect(self) -> bool:
        if self._connection is not None:
            self._connection.close()
        return True
