"""Running the web application: one process, on one port, until it is told to end.

Never writes an access log: the tokens in our paths are personal.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.web.app import create_app


def make_server(store: Store, settings: Settings, *, host: str, port: int) -> uvicorn.Server:
    """Return a server over an open store, ready to run; it applies what it receives in a thread of its own."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(store, settings, applies=True),
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
        )
    )


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8025, sock: socket.socket | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests under way and return; `sock` is already bound, if given.

    Raises FenceError and StoreError as `open_store`, and SystemExit when the port cannot be had.
    """
    store = open_store(settings)
    try:
        server = make_server(store, settings, host=host, port=port)
        with _quiet_end(), contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=None if sock is None else [sock])
        if not server.started:
            sys.exit(f"cannot listen on {host}:{port}; is another program using it?")
    finally:
        store.dispose()


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Let SIGTERM end `serve` the way SIGINT does: the server raises it again once it has shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
