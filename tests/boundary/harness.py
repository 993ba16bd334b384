"""Counts the boundaries that a process crosses, and stops or kills it at one of them.

Put around a process from outside: it listens to SQLAlchemy's events and stands before the sockets of the standard
library. The product knows nothing of it.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import Pool

_WRITES = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM) (\w+)")
_REQUEST = re.compile(rb"POST \S*(/v3/mail/send|/Messages\.json) ")


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """One boundary, as it was crossed: `what` happened, and what it was about."""

    number: int
    what: str
    about: str

    @property
    def name(self) -> str:
        """What many crossings have in common."""
        return f"{self.what}: {self.about}"

    @classmethod
    def read(cls, log: Path) -> list[Crossing]:
        """Return the crossings that a process wrote down, in order."""
        found = []
        for line in log.read_text(encoding="utf-8").splitlines():
            number, what, about = line.split("\t")
            found.append(cls(number=int(number), what=what, about=about))
        return found


class Harness:
    """Writes each crossing to `log`; at crossing number `at` this process gets `signal` from itself."""

    def __init__(self, log: Path, *, at: int | None = None, signal: int | None = None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._at = at
        self._signal = signal
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, str] = {}

    def cross(self, what: str, about: str) -> None:
        with self._lock:
            self._count += 1
            os.write(self._log, f"{self._count}\t{what}\t{about}\n".encode())
            if self._count == self._at and self._signal is not None:
                os.kill(os.getpid(), self._signal)

    def install(self) -> None:
        """Stand around this process, for good."""
        event.listen(Engine, "after_cursor_execute", self._executed)
        event.listen(Engine, "commit", self._commit)
        event.listen(Engine, "rollback", self._rollback)
        event.listen(Pool, "checkin", self._returned)
        self._wrap_sockets()

    def _executed(self, connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if (found := _WRITES.match(statement)) is not None:
            written = connection.info.setdefault("written", [])
            what = f"{found[1].split()[0].lower()} {found[2]}"
            if what not in written:
                written.append(what)

    def _commit(self, connection: Connection) -> None:
        written = connection.info.pop("written", [])
        connection.info["committed"] = about = ", ".join(written) or "nothing"
        self.cross("before commit", about)

    @staticmethod
    def _rollback(connection: Connection) -> None:
        connection.info.pop("written", None)

    def _returned(self, connection: Any, record: Any) -> None:
        about = record.info.pop("committed", None)
        if about is not None:
            self.cross("after commit", about)

    def _wrap_sockets(self) -> None:
        plain_sendall, plain_recv_into = socket.socket.sendall, socket.socket.recv_into
        waiting, cross = self._waiting, self.cross

        def sendall(sock: socket.socket, data: bytes, *flags: int) -> None:
            found = _REQUEST.match(data)
            if found is None:
                return plain_sendall(sock, data, *flags)
            about = "email" if b"mail" in found[1] else "sms"
            half = len(data) // 2
            cross("before write", about)
            plain_sendall(sock, data[:half], *flags)
            cross("half written", about)
            plain_sendall(sock, data[half:], *flags)
            waiting[sock] = about
            return cross("after write", about)

        def recv_into(sock: socket.socket, *args: Any) -> int:
            count = plain_recv_into(sock, *args)
            if count and (about := waiting.pop(sock, None)) is not None:
                cross("after read", about)
            return count

        socket.socket.sendall = sendall  # type: ignore[method-assign, assignment]
        socket.socket.recv_into = recv_into  # type: ignore[method-assign, assignment]
