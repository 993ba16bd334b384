"""The sink: takes whatever SendGrid and Twilio would take, counts it, and remembers to whom it was.

A measuring instrument: it checks nothing, simulates nobody, posts no webhook, and costs as little of the machine as an
HTTP server in Python can. What it remembers is enough to find a person who was written to twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import socket
import sys
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httptools
import orjson

#: What `GET /sink/summary` answers is under this path; everything else is a provider's.
SUMMARY = "/sink/summary"


@dataclass(slots=True)
class Tally:
    """What the sink has taken of one channel: requests, and eight bytes for each message's address and text."""

    requests: int = 0
    people: array[int] = field(default_factory=lambda: array("Q"))

    def remember(self, address: str, text: bytes) -> None:
        """Note one message; the same address may get several texts, but no text twice."""
        self.people.append(int.from_bytes(hashlib.blake2b(address.encode() + text, digest_size=8).digest(), "big"))

    def as_dict(self) -> dict[str, int]:
        """Return requests, messages, and how many messages were the same text to the same address again."""
        return {
            "requests": self.requests,
            "messages": len(self.people),
            "repeated": len(self.people) - len(set(self.people)),
        }


class _Sink(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one answer in one write."""

    def __init__(self, tallies: defaultdict[str, Tally]) -> None:
        self._tallies = tallies
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._target = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._body, self._target = [], b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path = urlsplit(self._target.decode("ascii", "replace")).path
        if path == SUMMARY:
            summary = {channel: tally.as_dict() for channel, tally in self._tallies.items()}
            return self._answer("200 OK", orjson.dumps(summary))
        body = b"".join(self._body)
        try:
            if path.endswith("/mail/send"):
                return self._take_email(body)
            if path.endswith("/Messages.json"):
                return self._take_text(path, body)
        except (ValueError, KeyError, TypeError):
            return self._answer("400 Bad Request", b"{}")
        return self._answer("404 Not Found", b"{}")

    def _take_email(self, body: bytes) -> None:
        request = orjson.loads(body)
        tally = self._tallies["email"]
        text = str(request["subject"]).encode()
        for personalization in request["personalizations"]:
            tally.remember(personalization["to"][0]["email"], text)
        tally.requests += 1
        self._answer("202 Accepted", b"", f"X-Message-Id: sink{tally.requests:012d}")

    def _take_text(self, path: str, body: bytes) -> None:
        form = parse_qs(body.decode("ascii"), strict_parsing=True)
        tally = self._tallies["sms"]
        tally.remember(form["To"][0], form["Body"][0].encode())
        tally.requests += 1
        message = {"sid": f"SM{tally.requests:032x}", "status": "queued", "num_segments": "1", "to": form["To"][0]}
        self._answer("201 Created", orjson.dumps(message), "Content-Type: application/json")

    def _answer(self, status: str, body: bytes, *headers: str) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "X-Sandbox: SANDBOX", *headers])
        self._transport.write(head.encode("ascii") + b"\r\n\r\n" + body)


def serve(sock: socket.socket) -> None:
    """Answer on a listening socket until SIGTERM or Ctrl-C."""
    asyncio.run(_serve(sock))


async def _serve(sock: socket.socket) -> None:
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    server = await loop.create_server(lambda: _Sink(tallies), sock=sock)
    host, port = sock.getsockname()[:2]
    sys.stdout.write(f"# SANDBOX: a sink for email and SMS at http://{host}:{port}\n")
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    async with server:
        await ended.wait()
