"""Running the web application: one process, on one port, until it is told to end.

Never writes an access log: the tokens in our paths are personal.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from commplan.errors import InputError
from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.web.app import create_app


def make_server(store: Store, settings: Settings) -> uvicorn.Server:
    """Return a server over an open store, to be run on bound sockets; it applies what it receives in its own thread."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(store, settings, applies=True),
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

    Raises FenceError and StoreError as `open_store`, and InputError when the port cannot be had.
    """
    listener = _listen(host, port) if sock is None else sock
    with contextlib.closing(listener):
        store = open_store(settings)
        try:
            server = make_server(store, settings)
            with _quiet_end(), contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            store.dispose()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError):
        raise InputError.one(
            f"{host}:{port}", "the receiver cannot listen there", "see what else uses the port, or choose another"
        ) from None


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
