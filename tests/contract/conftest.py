"""A provider that does exactly what a test scripts, over real sockets: answers, breaks, hangs, and counts."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.listening.conftest import client, serve, signed_settings, signer, world

#: The receiver, what it is asked about, and who signs for the providers.
__all__ = ["client", "serve", "signed_settings", "signer", "world"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


#: What to do with a connection once a whole request has been read; True keeps it open.
Act = Callable[["ScriptedProvider", socket.socket], bool]


class ScriptedProvider:
    """Listens on a loopback port, one thread for each connection; every request takes the next act of the script."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.connections = 0
        self.over = threading.Event()
        self._tls = tls
        self._script: deque[Act] = deque()
        self._always: Act = self.hang_up
        self._closed = threading.Condition()
        self._open = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def script(self, *acts: Act, always: Act | None = None) -> None:
        """Take these acts in order, then `always`, or else hang up."""
        self._script.extend(acts)
        self._always = always or self.hang_up

    @staticmethod
    def answer(
        status: str,
        *headers: str,
        body: bytes = b"",
        close: bool = False,
        length: int | None = None,
        before: bytes = b"",
    ) -> Act:
        """Answer in full; `close` closes afterwards without saying so, `length` lies about the length of the body."""
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "", ""]
        return ScriptedProvider.raw(before + "\r\n".join(lines).encode() + body, close=close)

    @staticmethod
    def raw(data: bytes, *, close: bool = True) -> Act:
        """Write these bytes, whatever they are."""

        def act(_: ScriptedProvider, connection: socket.socket) -> bool:
            connection.sendall(data)
            return not close

        return act

    @staticmethod
    def hang_up(_: ScriptedProvider, connection: socket.socket) -> bool:
        """Close without an answer."""
        return False

    @staticmethod
    def reset(_: ScriptedProvider, connection: socket.socket) -> bool:
        """Reset the connection without an answer."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    @staticmethod
    def hang(after: bytes = b"") -> Act:
        """Write `after`, then say nothing until the test is over."""

        def act(provider: ScriptedProvider, connection: socket.socket) -> bool:
            connection.sendall(after)
            provider.over.wait()
            return False

        return act

    @staticmethod
    def trickle(*pieces: bytes, pause: float) -> Act:
        """Write one piece after the other, each before any time-out for a single read."""

        def act(provider: ScriptedProvider, connection: socket.socket) -> bool:
            for piece in pieces:
                connection.sendall(piece)
                if provider.over.wait(pause):
                    break
            return False

        return act

    def wait_until_closed(self) -> None:
        """Wait until every connection has been closed from this side."""
        with self._closed:
            assert self._closed.wait_for(lambda: self._open == 0, timeout=10)

    def stop(self) -> None:
        """Refuse connections from now on, and end those that are open."""
        if self.over.is_set():
            return
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(10)
                self.connections += 1
                with self._closed:
                    self._open += 1
                thread = threading.Thread(target=self._serve, args=[connection], daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                while (seen := _read(connection)) is not None:
                    self.requests.append(seen)
                    act = self._script.popleft() if self._script else self._always
                    if not act(self, connection):
                        break
        finally:
            connection.close()
            with self._closed:
                self._open -= 1
                self._closed.notify_all()


def _read(connection: socket.socket) -> Seen | None:
    with connection.makefile("rb") as reader:
        line = reader.readline().decode()
        if not line:
            return None
        method, target, _ = line.split()
        headers = {}
        while line := reader.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = reader.read(int(headers.get("content-length", 0)))
    return Seen(method=method, target=target, headers=headers, body=body)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A scripted provider on a loopback port."""
    opened = ScriptedProvider()
    yield opened
    opened.stop()
