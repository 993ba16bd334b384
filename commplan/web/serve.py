"""Running the web application on one port, in one process or several, until it is told to end.

Never writes an access log: the tokens in our paths are personal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from commplan.errors import InputError
from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.web.app import create_app
from commplan.web.crew import serve_together
from commplan.web.protocol import ImpatientProtocol


def make_server(store: Store, settings: Settings, *, figures: Path | None = None) -> uvicorn.Server:
    """Return a server over an open store, to be run on bound sockets; it applies what it receives in its own thread.

    `figures` is the folder in which several processes of one receiver count together.
    """
    return uvicorn.Server(
        uvicorn.Config(
            create_app(store, settings, applies=True, figures=figures),
            access_log=False,
            log_config=None,
            lifespan="on",
            http=ImpatientProtocol,
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
        )
    )


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8025,
    sock: socket.socket | None = None,
    processes: int = 1,
    lifeline: int | None = None,
    figures: Path | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests under way and return; `sock` is already bound, if given.

    Several `processes` share the port. One of them is given a `lifeline`, which it does not outlive: a pipe that is
    closed at its other end by whoever started it; and `figures` as `make_server`. Raises FenceError and StoreError as
    `open_store`, and InputError when the port cannot be had.
    """
    listener = _listen(host, port) if sock is None else sock
    with contextlib.closing(listener):
        if processes > 1:
            serve_together(settings, listener, processes=processes)
            return
        store = open_store(settings)
        try:
            server = make_server(store, settings, figures=figures)
            if lifeline is not None:
                threading.Thread(target=_end_with, args=(lifeline, server), daemon=True).start()
            with _quiet_end(), contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            store.dispose()


def _end_with(lifeline: int, server: uvicorn.Server) -> None:
    os.read(lifeline, 1)
    server.should_exit = True


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
