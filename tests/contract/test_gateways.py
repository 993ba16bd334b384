"""One suite for every gateway, over real HTTP: whatever the provider does, it is asked once and the table decides."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from commplan.channels.base import open_gateways
from commplan.envelope import Acceptance, EmailBatch, EmailRecipient, TextMessage
from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError, UnknownError
from commplan.ids import AttemptId, Token
from commplan.settings import EmailSettings, Settings, SmsSettings

_SECRETS = ["person.example.com", "+12025550123", "2025550123", "key-of-the-tests", "Dear Ann"]
_RESOURCE = json.dumps({"sid": "SM1", "status": "queued", "date_created": "Tue, 01 Dec 2026 02:00:00 +0000"}).encode()

_EMAIL = EmailBatch(
    attempt_id=AttemptId("a" * 32),
    subject="Hello cp-x-1",
    text="Dear cp-x-1",
    html="<p>Dear cp-x-2</p>",
    placeholders=["cp-x-1", "cp-x-2"],
    recipients=[
        EmailRecipient(
            token=Token(f"{name:x<22}"),
            address=f"{name}@person.example.com",
            values=[f"Dear {name}", f"Dear {name}"],
            unsubscribe_url=f"https://mail.example.com/u/{name}",
        )
        for name in ("Ann", "Bob", "Eve")
    ],
)
_SMS = TextMessage(attempt_id=AttemptId("b" * 32), token=Token("t" * 22), address="+12025550123", body="Dear Ann")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A gateway and the scripted provider at its other end."""

    channel: str
    provider: Any
    gateway: Any
    status: str
    id: str

    def send(self) -> Acceptance:
        return self.gateway.send(_EMAIL if self.channel == "email" else _SMS)

    def outcome(self) -> object:
        """What a send came to: the acceptance's id, or the class of the error; nothing personal in either."""
        try:
            return self.send().provider_id
        except DeliveryError as error:
            failure = error
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure))
        assert not [secret for secret in _SECRETS if secret in shown]
        return type(failure)

    def accept(self, **how: Any) -> Any:
        """The provider's own acceptance."""
        if self.channel == "email":
            return self.provider.answer(self.status, "X-Message-Id: id-1", "Date: Tue, 01 Dec 2026 02:00:00 GMT", **how)
        return self.provider.answer(self.status, "Date: Tue, 01 Dec 2026 02:00:00 GMT", **{"body": _RESOURCE, **how})


def _settings(url: str, timeout: float) -> Settings:
    key = SecretStr("key-of-the-tests")
    return Settings(
        public_url="https://mail.example.com",
        email=EmailSettings(base_url=url, api_key=key, timeout=timeout),
        sms=SmsSettings(base_url=url, account_sid="AC" + "0" * 32, auth_token=key, timeout=timeout),
    )


_SILENT = {"it says nothing", "it says a little now and then", "it accepts, and the body never comes"}


@pytest.fixture(params=["email", "sms"])
def line(request: pytest.FixtureRequest, provider: Any) -> Iterator[Line]:
    # Only where the time-out is what the case is about may it be short: the machine may be busy.
    silent = request.node.callspec.params.get("case") in _SILENT
    gateways = open_gateways(_settings(provider.url, timeout=0.5 if silent else 20))
    email, sms = gateways.email, gateways.sms
    if request.param == "email":
        yield Line(channel="email", provider=provider, gateway=email, status="202 Accepted", id="id-1")
    else:
        yield Line(channel="sms", provider=provider, gateway=sms, status="201 Created", id="SM1")
    gateways.close()


#: What the provider does once it has read the whole request → what the send must come to.
CASES: dict[str, tuple[Callable[[Line], Any], object]] = {
    "it resets the connection": (lambda line: line.provider.reset, UnknownError),
    "it closes the connection": (lambda line: line.provider.hang_up, UnknownError),
    "it says nothing": (lambda line: line.provider.hang(), UnknownError),
    "it says a little now and then": (
        lambda line: line.provider.trickle(
            f"HTTP/1.1 {line.status}\r\n".encode(), b"X-A: b\r\n", b"Content-Length: 0\r\n\r\n", pause=0.3
        ),
        UnknownError,
    ),
    "it echoes what we wrote": (
        lambda line: line.provider.raw(b"Dear Ann@person.example.com +12025550123\r\n\r\n"),
        UnknownError,
    ),
    "its status is cut": (lambda line: line.provider.raw(b"HTTP/1.1 20"), UnknownError),
    "its status is no number": (lambda line: line.provider.raw(b"HTTP/1.1 OK\r\n\r\n"), UnknownError),
    "it speaks another protocol": (lambda line: line.provider.raw(b"\x16\x03\x01\x02 SSH-2.0\r\n\r\n"), UnknownError),
    "it speaks another HTTP": (lambda line: line.provider.raw(b"HTTP/9.0 202 OK\r\n\r\n"), UnknownError),
    "its head never ends": (
        lambda line: line.provider.raw(f"HTTP/1.1 {line.status}\r\n".encode() + b"X-A: b\r\n" * 200),
        UnknownError,
    ),
    "its header line never ends": (
        lambda line: line.provider.raw(f"HTTP/1.1 {line.status}\r\nX-A: ".encode() + b"b" * 70_000),
        UnknownError,
    ),
    "it switches protocols": (lambda line: line.provider.raw(b"HTTP/1.1 101 Switching\r\n\r\n"), UnknownError),
    "it answers with another success": (lambda line: line.provider.answer("200 OK"), UnknownError),
    "it accepts in HTML": (lambda line: line.provider.answer(line.status, body=b"<html>Welcome</html>"), UnknownError),
    "it accepts in other JSON": (lambda line: line.provider.answer(line.status, body=b'{"id": 1}'), UnknownError),
    "it accepts in broken JSON": (lambda line: line.provider.answer(line.status, body=b'{"sid": "SM'), UnknownError),
    "it accepts, and the head is cut": (
        lambda line: line.provider.raw(f"HTTP/1.1 {line.status[:7]}".encode()),
        None,
    ),
    "it accepts, and the id is cut": (
        lambda line: line.provider.raw(f"HTTP/1.1 {line.status}\r\nX-Message-Id: id".encode()),
        None,
    ),
    "it accepts, and the body is cut": (
        lambda line: line.accept(body=b'{"sid": "SM', length=400, close=True),
        "the id in the head",
    ),
    "it accepts, and the body never comes": (
        lambda line: line.provider.hang(
            f"HTTP/1.1 {line.status}\r\nX-Message-Id: id-1\r\nContent-Length: 400\r\n\r\n".encode()
        ),
        "the id in the head",
    ),
    "it accepts with nothing more": (lambda line: line.provider.answer(line.status), None),
    "it accepts after early hints": (
        lambda line: line.accept(before=b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
        "the id",
    ),
    "it accepts after 100": (lambda line: line.accept(before=b"HTTP/1.1 100 Continue\r\n\r\n"), "the id"),
    "it accepts": (lambda line: line.accept(), "the id"),
    "it moved": (lambda line: line.provider.answer("301 Moved", f"Location: {line.provider.url}/x"), HaltError),
    "it redirects": (lambda line: line.provider.answer("302 Found", f"Location: {line.provider.url}/x"), UnknownError),
    "it redirects the method too": (
        lambda line: line.provider.answer("308 Moved", f"Location: {line.provider.url}/x"),
        HaltError,
    ),
    "it finds fault": (lambda line: line.provider.answer("400 Bad Request", body=b'{"errors": [{}]}'), RejectedError),
    "it finds fault in HTML": (lambda line: line.provider.answer("400 Bad", body=b"<html>"), RejectedError),
    "it finds fault and breaks off": (
        lambda line: line.provider.answer("400 Bad Request", body=b'{"errors":', length=99, close=True),
        RejectedError,
    ),
    "it finds it too large": (
        lambda line: line.provider.answer("413 Too Large", "Content-Type: text/html", body=b"<html>nginx</html>"),
        RejectedError,
    ),
    "it wants another key": (lambda line: line.provider.answer("401 Unauthorized", body=b"{}"), HaltError),
    "it is somewhere else": (lambda line: line.provider.answer("404 Not Found", body=b"<html>"), HaltError),
    "it has too much to do": (lambda line: line.provider.answer("429 Too Many", "Retry-After: 7"), TransientError),
    "it breaks down": (lambda line: line.provider.answer("500 Internal"), UnknownError),
    "its proxy gives up": (lambda line: line.provider.answer("504 Gateway Timeout", body=b"<html>"), UnknownError),
    "it is away": (lambda line: line.provider.answer("503 Unavailable", "Retry-After: 7"), UnknownError),
}


@pytest.mark.parametrize("case", CASES)
def test_an_outcome_is_the_tables_and_the_provider_is_asked_once(line: Line, case: str) -> None:
    act, expected = CASES[case]
    # Whoever asked again would be told that all is well.
    line.provider.script(act(line), always=line.accept())
    if expected == "the id in the head":
        expected = line.id if line.channel == "email" else None
    assert line.outcome() == (line.id if expected == "the id" else expected)
    assert len(line.provider.requests) == 1


@pytest.mark.parametrize("case", CASES)
def test_a_gateway_works_again_after_each_of_them(line: Line, case: str) -> None:
    line.provider.script(CASES[case][0](line), always=line.accept())
    line.outcome()
    assert line.outcome() == line.id
    assert len(line.provider.requests) == 2


@pytest.mark.parametrize("sid", ["x" * 5_000, "SM 1\x00", 17, ["SM1"]])
def test_an_id_that_no_ledger_can_keep_is_none(line: Line, sid: Any) -> None:
    if line.channel == "email":
        line.provider.script(line.provider.answer(line.status, f"X-Message-Id: [{sid}]"))
    else:
        line.provider.script(line.accept(body=json.dumps({"sid": sid}).encode()))
    assert line.outcome() == (None if line.channel == "email" else UnknownError)


def test_an_acceptance_may_come_in_chunks(line: Line) -> None:
    body = b"" if line.channel == "email" else b"%x\r\n%s\r\n" % (len(_RESOURCE), _RESOURCE)
    head = f"HTTP/1.1 {line.status}\r\nX-Message-Id: id-1\r\nTransfer-Encoding: chunked\r\n\r\n"
    line.provider.script(line.provider.raw(head.encode() + body + b"0\r\n\r\n", close=False), always=line.accept())
    assert [line.outcome(), line.outcome()] == [line.id, line.id]
    assert line.provider.connections == 1


def test_an_acceptance_carries_the_providers_clock(line: Line) -> None:
    line.provider.script(line.accept())
    moment = line.send().provider_time
    assert moment is not None
    assert moment.isoformat() == "2026-12-01T02:00:00+00:00"


_PROVEN = {
    TransientError: {425, 429},
    RejectedError: {400, 411, 413, 414, 422, 431},
    HaltError: {301, 307, 308, 401, 402, 403, 404, 405, 406, 407, 410, 415, 426},
}


def test_every_status_has_one_meaning_and_no_status_makes_us_ask_again(line: Line) -> None:
    for status in range(200, 600):
        line.provider.script(line.provider.answer(f"{status} Whatever"))
        expected = next((kind for kind, statuses in _PROVEN.items() if status in statuses), UnknownError)
        assert line.outcome() == (None if line.status.startswith(str(status)) else expected), status
    assert len(line.provider.requests) == 400


def test_a_refused_connection_is_transient(line: Line) -> None:
    line.provider.stop()
    assert line.outcome() is TransientError


def test_connecting_first_leaves_one_connection_for_the_send(line: Line) -> None:
    line.provider.script(line.accept())
    line.gateway.connect()
    line.send()
    assert (line.provider.connections, len(line.provider.requests)) == (1, 1)


def test_connecting_to_nobody_is_transient(line: Line) -> None:
    line.provider.stop()
    with pytest.raises(TransientError, match="refuses connections"):
        line.gateway.connect()


def test_the_wait_a_provider_asks_for_is_passed_on(line: Line) -> None:
    line.provider.script(line.provider.answer("429 Too Many Requests", "Retry-After: 7"))
    with pytest.raises(TransientError) as caught:
        line.send()
    assert caught.value.retry_after == 7
