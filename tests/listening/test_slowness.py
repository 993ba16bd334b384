"""Who sends slowly, or never ends, keeps nobody out: heads and bodies have a time, bodies without a length a size."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from sqlalchemy import select
from starlette.types import ASGIApp

from commplan.ids import TokenPurpose
from commplan.store.tables import inbox
from commplan.web.app import MAX_POST, create_app
from commplan.web.gate import Gate
from commplan.web.protocol import ImpatientProtocol

EVENTS = b"POST /hooks/sendgrid/events HTTP/1.1\r\nHost: x\r\n"


class Patient(ImpatientProtocol):
    patience = 120.0


class Hasty(ImpatientProtocol):
    patience = 0.3


@contextmanager
def listening(app: ASGIApp, *, http: type[ImpatientProtocol] = Patient) -> Iterator[tuple[str, int]]:
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield bound.getsockname()
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture
def receiver(store, signed_settings):  # type: ignore[no-untyped-def]
    with listening(create_app(store, signed_settings)) as address:
        yield address


@pytest.fixture
def hasty(store, signed_settings):  # type: ignore[no-untyped-def]
    with listening(create_app(store, signed_settings), http=Hasty) as address:
        yield address


@contextmanager
def calling(address: tuple[str, int], *first: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=30) as call:
        for part in first:
            call.sendall(part)
        yield call


def heard(call: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    told = b""
    while more := call.recv(65536):
        told += more
    return told


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("begun", [b"", b"POST /hooks/sendgrid/ev", EVENTS])
def test_a_head_that_does_not_come_to_its_end_closes_the_connection(hasty, begun) -> None:
    with calling(hasty, begun) as call:
        assert heard(call) == b""


def test_the_head_of_a_second_request_on_a_connection_has_a_time_too(receiver, monkeypatch) -> None:
    with calling(receiver, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as call:
        assert call.recv(65536).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(Patient, "patience", 0.3)
        call.sendall(b"GET /hea")
        assert b"HTTP/1.1" not in heard(call)


def test_a_body_that_does_not_come_to_its_end_is_answered_408_and_costs_no_other_anything() -> None:
    asked = []

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] == "http":
            asked.append(await receive())
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with listening(Gate(app, {"/": 1_000}, {}, patience=0.3)) as address:
        with calling(address, EVENTS + b"Content-Length: 10\r\n\r\n[") as slow:
            with calling(address, EVENTS + b"Content-Length: 2\r\nConnection: close\r\n\r\n[]") as quick:
                assert heard(quick).startswith(b"HTTP/1.1 204")
            told = heard(slow)
        with calling(address, EVENTS + b"Transfer-Encoding: chunked\r\n\r\n", chunk(b"[")) as slow:
            again = heard(slow)
    for answer in (told, again):
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer.lower()
    assert [message["body"] for message in asked] == [b"[]"]


@pytest.mark.parametrize("path", ["/hooks/sendgrid/events", "/hooks/twilio/inbound", "/u/x", "/s/x", "/nothing"])
def test_a_body_in_many_small_chunks_without_a_length_is_limited_as_any_other(receiver, path) -> None:
    most = MAX_POST if path.startswith("/hooks/") else 64 * 1024
    part = chunk(b" " * (most // 10))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with calling(receiver, head, *[part] * 11, b"0\r\n\r\n") as call:
        assert heard(call).startswith(b"HTTP/1.1 413")


def test_a_signed_post_in_chunks_is_taken_whole(receiver, store, signer) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in signer.sendgrid(b"[  ]").items()).encode()
    head = EVENTS + headers + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with calling(receiver, head, chunk(b"["), chunk(b"  "), chunk(b"]"), b"0\r\n\r\n") as call:
        assert heard(call).startswith(b"HTTP/1.1 204")
    with store.read() as connection:
        assert connection.execute(select(inbox.c.body)).scalars().all() == [b"[  ]"]


def test_a_form_whose_sender_left_in_the_middle_does_nothing(receiver, world) -> None:
    path = f"/u/{world.token(purpose=TokenPurpose.UNSUBSCRIBE)}".encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n" % path
    with calling(receiver, head + b"Content-Length: 14\r\n\r\ndo=resu"):
        pass
    with calling(receiver, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as call:
        assert heard(call).startswith(b"HTTP/1.1 200")
    assert world.people_suppressed() == set()
