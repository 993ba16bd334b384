"""One provider's HTTP/1.1 connections: kept alive, bounded in time, and exact about whether a request left.

It never sends a request twice, never follows a redirect, and never takes a proxy or a host from the environment.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from commplan.channels.failures import Stage, of_transport
from commplan.clock import boottime
from commplan.errors import TransientError

#: Seconds allowed for finding the host, connecting and the TLS handshake together (the resolver has limits of its own).
CONNECT_SECONDS = 5.0
#: An idle connection older than this is not written to. Servers close theirs after 5 s (uvicorn) and more; a request
#: that meets such a close half-way is lost without anyone knowing, and must not be repeated.
IDLE_SECONDS = 3.0
#: Reading stops there. The longest is SendGrid's of everybody in its groups: it has no pages.
LONGEST_ANSWER = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A provider's answer, at least its status line; header names are lower-case.

    `complete` is False when the connection broke later than that: a head cut short gives no headers (the last one
    might be half a value), a body cut short gives what came of it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    complete: bool


class _Wire(io.RawIOBase):
    """Reads a socket against one deadline for the whole answer, not against one per packet."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        count = self._sock.recv_into(buffer)
        self.ended = count == 0
        return count


class _Inbox(io.BufferedReader):
    """What `HTTPResponse` reads from; stays open from an interim answer (1xx) to the final one."""

    def makefile(self, _mode: Literal["rb"]) -> _Inbox:
        return self

    def close(self) -> None:
        """Do nothing: the connection belongs to the transport."""


class _Connection:
    """One open connection; not for two threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.used_at = time.monotonic()

    def is_quiet(self) -> bool:
        """Tell whether the other side has neither closed nor said anything unasked (a TLS ticket is neither)."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def exchange(self, method: str, request: bytes, *, timeout: float) -> tuple[Answer, bool]:
        """Write the request once, read the answer, and tell whether the connection can carry another."""
        deadline = time.monotonic() + timeout
        self._sock.settimeout(timeout)
        # A server that refuses early (413) closes while we write; its answer may still be there to read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._sock.sendall(request)
        wire = _Wire(self._sock, deadline)
        inbox = _Inbox(wire)
        while True:
            response = HTTPResponse(cast(socket.socket, inbox), method=method)
            response.begin()
            if not 100 <= response.status < 200 or response.status == 101:
                break
        if wire.ended:
            return Answer(status=response.status, headers={}, body=b"", complete=False), False
        body, complete = _read_body(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        self.used_at = time.monotonic()
        reusable = complete and not response.will_close and response.status != 101
        return Answer(status=response.status, headers=headers, body=body, complete=complete), reusable

    def close(self) -> None:
        self._sock.close()


def _read_body(response: HTTPResponse) -> tuple[bytes, bool]:
    """Return the body, or what came of it: the status is known by now, so a break decides nothing any more."""
    parts: list[bytes] = []
    size = 0
    try:
        while size < LONGEST_ANSWER:
            part = response.read(LONGEST_ANSWER - size)
            if not part:
                break
            parts.append(part)
            size += len(part)
    except (OSError, HTTPException):
        return b"".join(parts), False
    return b"".join(parts), not response.length and response.isclosed()


class Transport:
    """A pool of connections to one provider, safe to share between threads, as large as the callers at work.

    A call takes at most `connect_timeout` + `timeout` machine seconds, whatever the provider does. Raises only
    `DeliveryError`: TransientError while nothing has been written, UnknownError from the first byte on.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        connect_timeout: float = CONNECT_SECONDS,
        idle: float = IDLE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("a provider's address is http(s)://host[:port][/path]")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._host_header = parts.netloc.rpartition("@")[2]
        # Made once: loading the certificate authorities costs some 36 ms of CPU.
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._idle = idle
        self._lock = threading.Lock()
        self._free: list[_Connection] = []
        self._owner = os.getpid()
        self._limit = threading.local()

    @contextlib.contextmanager
    def written_by(self, moment: float | None) -> Iterator[None]:
        """Write no request of this thread after a moment of `clock.boottime`; TransientError instead, unwritten."""
        self._limit.moment = moment
        try:
            yield
        finally:
            self._limit.moment = None

    def connect(self) -> None:
        """Have a connection ready, so that the next request is written at once; TransientError if none can be made."""
        self._give_back(self._take())

    def request(self, method: str, target: str, *, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send one request, once, and return whatever is answered, redirects and errors included.

        `target` is path and query. ValueError, before anything is written, if the head would hold a line break.
        """
        request = self._compose(method, target, headers, body)
        connection = self._take()
        limit = getattr(self._limit, "moment", None)
        if limit is not None and boottime() > limit:
            connection.close()
            raise TransientError("too much time has passed since the last look; nothing was sent")
        try:
            answer, reusable = connection.exchange(method, request, timeout=self._timeout)
        except Exception as error:
            connection.close()
            raise of_transport(error, Stage.EXCHANGE) from None
        except BaseException:
            connection.close()
            raise
        if reusable:
            self._give_back(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections; the transport stays usable."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _compose(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {self._host_header}",
            "Accept-Encoding: identity",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"Content-Length: {len(body)}",
        ]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header or the target holds a line break")
        # Head and body in one write: two small segments would wait for each other's acknowledgement (40 ms).
        return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body

    def _take(self) -> _Connection:
        oldest = time.monotonic() - self._idle
        while True:
            with self._lock:
                if self._owner != os.getpid():  # forked: these sockets are the parent's
                    self._free, self._owner = [], os.getpid()
                connection = self._free.pop() if self._free else None
            if connection is None:
                return self._open()
            if connection.used_at >= oldest and connection.is_quiet():
                return connection
            connection.close()

    def _give_back(self, connection: _Connection) -> None:
        with self._lock:
            self._free.append(connection)

    def _open(self) -> _Connection:
        try:
            return _Connection(self._dial())
        except Exception as error:
            raise of_transport(error, Stage.CONNECT) from None

    def _dial(self) -> socket.socket:
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        deadline = time.monotonic() + self._connect_timeout
        problem: OSError = TimeoutError()
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            # Each address gets its share: one that swallows packets must not use up the time of the next.
            until = time.monotonic() + (deadline - time.monotonic()) / left
            try:
                return self._dial_one(socket.socket(family, kind, protocol), address, until)
            except OSError as error:
                problem = error
        raise problem

    def _dial_one(self, sock: socket.socket, address: Any, until: float) -> socket.socket:
        try:
            sock.settimeout(max(0.001, until - time.monotonic()))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return sock
            sock.settimeout(max(0.001, until - time.monotonic()))
            return self._tls.wrap_socket(sock, server_hostname=self._host)
        except BaseException:
            sock.close()
            raise
