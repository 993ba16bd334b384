"""HTTP on one connection, for a while only: a head that does not come to its end closes it.

The server itself waits for ever for a request to begin or its head to end, and a few thousand connections that say
nothing would keep everybody else out. Bodies are the gate's.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ImpatientProtocol(HttpToolsProtocol):
    """The server's protocol with a time-out for heads.

    `patience` is machine seconds from the opening of a connection, or the first byte of a later request, to the end of
    its head.
    """

    patience = 15.0
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to wait for the end of this head, unless one that came with the connection is waited for."""
        if self._due is None:
            self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._due = self.loop.call_later(self.patience, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
