"""A sandbox on a free port, and a receiver that writes down every request that reaches it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from sendgrid import SendGridAPIClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from commplan.clock import Clock
from commplan.sandbox import SandboxConfig, Switches, generate_key, running
from tests.conftest import PLAIN

#: Plan time at which every sandbox starts.
NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
PRIVATE, PUBLIC = generate_key()
API_KEY, ACCOUNT, AUTH_TOKEN = "SG.of-the-tests", "AC" + "1" * 32, "an auth token"

#: What the receiver's pages look like, by the first part of their path.
PAGES = {
    "u": '<form method="post" action="?lang=en"><input type="hidden" name="do" value="unsubscribe">'
    "<button>Yes</button></form>",
    "s": '<form method="post" action="?lang=en">'
    + "".join(f'<input type="radio" name="score" value="{score}">' for score in range(1, 6))
    + '<textarea name="text"></textarea><button type="submit">Send</button></form>',
}


@dataclass
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass
class Receiver:
    """Stands where `commplan serve` would; the next `refuse` posts below `refuse_at` get a 500."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    refuse: int = 0
    refuse_at: str = "/"
    pages: dict[str, str] = field(default_factory=lambda: dict(PAGES))

    def to(self, start: str, method: str = "POST") -> list[Received]:
        return [request for request in self.requests if request.method == method and request.path.startswith(start)]

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        posts = self.to("/hooks/sendgrid/events")
        events = [event for post in posts for event in json.loads(post.body)]
        return [event for event in events if kind in {None, event["event"]}]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                received.requests.append(Received(self.command, self.path, dict(self.headers), body))
                at = self.path.startswith(received.refuse_at)
                refused = self.command == "POST" and received.refuse > 0 and at
                received.refuse -= refused
            page = (
                received.pages.get(self.path.split("/")[1], "<p>a page</p>").encode() if self.command != "HEAD" else b""
            )
            status = "500 Internal Server Error" if refused else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n\r\n"
            self.wfile.write(head.encode() + page)

        do_GET = do_HEAD = do_POST = _answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    received.url = f"http://127.0.0.1:{server.server_port}"
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Sandbox:
    """A running sandbox and ways to talk to it."""

    url: str
    config: SandboxConfig

    @staticmethod
    def mail(*to: str, **root: object) -> dict[str, Any]:
        """Return a valid request to some people."""
        return {
            "personalizations": [
                {"to": [{"email": address}], "custom_args": {"cp_m": f"m{number}", "cp_a": "attempt"}}
                for number, address in enumerate(to)
            ],
            "from": {"email": "hello@sender.example.com"},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "Hello"}, {"type": "text/html", "value": "<p>Hello</p>"}],
            **root,
        }

    @staticmethod
    def until(holds: Callable[[], object], seconds: float = 30) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "the condition never came true"
            time.sleep(0.02)

    def email(self) -> SendGridAPIClient:
        client = SendGridAPIClient(API_KEY, host=self.url)
        client.client.timeout = 10
        return client

    def sms(self) -> Client:
        http = TwilioHttpClient(timeout=10, pool_connections=False)
        client = Client(ACCOUNT, AUTH_TOKEN, http_client=http, environment={"_": ""})
        client.api.base_url = self.url
        return client

    def post(self, body: object, **headers: str) -> httpx.Response:
        given = {"Authorization": f"Bearer {API_KEY}", **headers}
        return httpx.post(f"{self.url}/v3/mail/send", json=body, headers=given, timeout=10, **PLAIN)

    def text(self, **form: str) -> httpx.Response:
        url = f"{self.url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
        given = {"To": "+12025550123", "From": "+15005550006", "Body": "hello", **form}
        return httpx.post(url, data=given, auth=(ACCOUNT, AUTH_TOKEN), timeout=10, **PLAIN)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, **PLAIN)

    def summary(self) -> dict[str, Any]:
        return dict(self.get("/sandbox/summary").json())

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.get("/sandbox/messages").text.splitlines()]

    def settle(self) -> list[dict[str, Any]]:
        """Wait until nothing is going to happen any more and return the ground truth."""
        self.until(lambda: self.summary()["quiet"])
        assert self.summary()["failures"] == 0
        return self.messages()


@pytest.fixture
def public_key() -> str:
    """The public key of the event webhook, as a receiver is configured with it."""
    return PUBLIC


@pytest.fixture
def start(receiver: Receiver, tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Start sandboxes: under calm switches plus those given, a day of plan time in 0.1 s unless told otherwise."""
    with ExitStack() as stack:

        def start(*, factor: float = 864_000, calm: bool = True, settings: Any = None, **switches: object) -> Sandbox:
            config = SandboxConfig(
                api_key=API_KEY,
                account_sid=ACCOUNT,
                auth_token=AUTH_TOKEN,
                webhook_private_key=PRIVATE,
                public_url=receiver.url,
                clock=Clock(origin=NOON, anchor=time.time(), factor=factor),
                crm=tmp_path / "crm.sqlite",
                switches=Switches.calm(**switches) if calm else Switches.of(switches),
                **(settings or {}),
            )
            return Sandbox(stack.enter_context(running(config)), config)

        yield start
