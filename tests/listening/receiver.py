"""The receiver as a process of its own, for tests that end it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.conftest import PLAIN

_PROGRAM = """
import socket, sys
from commplan.logs import set_up
from commplan.settings import load_settings
from commplan.web.serve import serve
set_up()
serve(load_settings(), sock=socket.socket(fileno=int(sys.argv[1])))
"""


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds; fail when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Receiver:
    """`serve` in a process of its own, on a socket that outlives it."""

    def __init__(self, home: Path, *, public_url: str, public_key: str, auth_token: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COMMPLAN_")},
            "COMMPLAN_HOME": str(home),
            "COMMPLAN_SECRET_KEY": "a secret of the tests",
            "COMMPLAN_PUBLIC_URL": public_url,
            "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([public_key]),
            "COMMPLAN_EMAIL__INBOUND_DOMAIN": "reply.sender.example.com",
            "COMMPLAN_EMAIL__INBOUND_KEYS": json.dumps([public_key]),
            "COMMPLAN_SMS__AUTH_TOKEN": auth_token,
            "PYTHONWARNINGS": "error",
        }
        self._log = home.parent / "receiver.log"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        handle = self._listener.fileno()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(handle)], env=self._environment, pass_fds=[handle], stderr=log
            )

    def end(self, how: signal.Signals) -> tuple[int, str]:
        """End it, and return its code and all that it has logged."""
        self.process.send_signal(how)
        return self.process.wait(timeout=30), self._log.read_text(encoding="utf-8")

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._listener.close()

    def post_until_taken(self, body: bytes, headers: dict[str, str]) -> None:
        """Post as a provider does: again and again, until somebody says 2xx."""
        while True:
            try:
                answer = httpx.post(
                    f"{self.url}/hooks/sendgrid/events", content=body, headers=headers, timeout=20, **PLAIN
                )
            except httpx.TransportError:
                continue
            if answer.is_success:
                return
