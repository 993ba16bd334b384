"""Reading back what a provider has: whatever is not a whole and readable answer is none, and never means *nothing*."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from commplan.channels.base import open_gateways
from commplan.channels.email_sendgrid import is_askable
from commplan.envelope import Listing
from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError, UnknownError
from commplan.settings import EmailSettings, Settings, SmsSettings

ANN, NUMBER = "ann@person.example.com", "+12025550123"
NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
DATE = "Date: Tue, 01 Dec 2026 02:03:00 GMT"
PRIVATE = [ANN, NUMBER, NUMBER[1:], "Dear Ann", "key-of-the-tests"]

LOG = {
    "messages": [
        {"sg_message_id": f"{name}.recvd-1", "sg_message_id_created_at": "2026-12-01T02:00:00Z", "to_email": ANN}
        for name in ("ONE", "TWO")
    ]
}
DETAIL = {"custom_args": {"cp_a": "a" * 32}}


def text(sid: str, **fields: object) -> dict[str, object]:
    created = "Tue, 01 Dec 2026 02:00:00 +0000"
    return {"sid": sid, "date_created": created, "from": "+15005550006", "body": "Dear Ann", **fields}


def page(*rows: dict[str, object], after: str | None = None) -> dict[str, object]:
    return {"messages": list(rows), "next_page_uri": after, "page": 0, "page_size": 1000, "uri": "/"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A gateway and the scripted provider at its other end."""

    channel: str
    provider: Any
    gateway: Any

    def find(self) -> Listing:
        if self.channel == "email":
            return self.gateway.find(ANN, since=NOON, known={"TWO"})
        return self.gateway.find(NUMBER)

    def answer(self, body: object, *, status: str = "200 OK", date: str = DATE, **how: Any) -> Any:
        return self.provider.answer(status, date, body=json.dumps(body).encode(), **how)

    def outcome(self) -> type[DeliveryError]:
        """What a question came to; nothing personal in its error."""
        with pytest.raises(DeliveryError) as failed:
            self.find()
        shown = "".join(traceback.format_exception(failed.value)) + repr(vars(failed.value))
        assert not [word for word in PRIVATE if word in shown]
        return type(failed.value)


ADDRESSES = ["o'brien@person.example.com", 'a"b@person.example.com', "a\\b@person.example.com", "吴@person.example.com"]


@pytest.fixture
def connect(provider: Any) -> Iterator[Callable[[str], Line]]:
    closing = ExitStack()

    def connect(channel: str) -> Line:
        settings = Settings(
            secret_key=SecretStr("a secret"),
            public_url="https://mail.example.com",
            email=EmailSettings(base_url=provider.url, api_key=SecretStr("key-of-the-tests"), timeout=0.5),
            sms=SmsSettings(
                base_url=provider.url, account_sid="AC1", auth_token=SecretStr("key-of-the-tests"), timeout=0.5
            ),
        )
        gateways = open_gateways(settings)
        closing.callback(gateways.close)
        return Line(channel=channel, provider=provider, gateway=gateways.email if channel == "email" else gateways.sms)

    with closing:
        yield connect


def test_the_logs_are_asked_by_address_and_time_and_each_message_for_our_id(connect):
    line = connect("email")
    line.provider.script(line.answer(LOG), line.answer(DETAIL))
    found = line.find()
    (sighting,) = found.sightings
    assert (sighting.provider_id, sighting.attempt_id, sighting.created_at) == ("ONE.recvd-1", "a" * 32, NOON)
    assert found.provider_time == NOON + timedelta(minutes=3)
    search, detail = line.provider.requests
    assert (search.method, search.target, detail.method, detail.target) == (
        "POST", "/v3/logs", "GET", "/v3/logs/ONE.recvd-1",
    )  # fmt: skip
    assert json.loads(search.body) == {
        "query": f"to_email='{ANN}' AND sg_message_id_created_at >= TIMESTAMP \"2026-12-01T02:00:00Z\"",
        "limit": 1000,
    }
    assert search.headers["authorization"] == detail.headers["authorization"] == "Bearer key-of-the-tests"


def test_the_list_of_a_number_is_read_to_its_end_whatever_its_order(connect):
    line = connect("sms")
    after = "/2010-04-01/Accounts/AC1/Messages.json?Page=1&PageToken=x"
    line.provider.script(
        line.answer(page(text("SM1", direction="outbound-api"), text("SM2", direction="inbound"), after=after)),
        line.answer(page(text("SM3", body=None, **{"from": None}))),
    )
    found = line.find()
    assert [(one.provider_id, one.sender, one.body) for one in found.sightings] == [
        ("SM1", "+15005550006", "Dear Ann"),
        ("SM3", "", ""),
    ]
    assert {one.created_at for one in found.sightings} == {NOON}
    first, second = line.provider.requests
    assert parse_qs(urlsplit(first.target).query) == {"To": [NUMBER], "PageSize": ["1000"]}
    assert second.target == after


@pytest.mark.parametrize("channel", ["email", "sms"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("429 Too Many Requests", TransientError),
        ("401 Unauthorized", HaltError),
        ("403 Forbidden", HaltError),
        ("404 Not Found", HaltError),
        ("400 Bad Request", RejectedError),
        ("500 Internal Server Error", UnknownError),
        ("503 Service Unavailable", UnknownError),
    ],
)
def test_a_refusal_is_no_answer(connect, channel, status, expected):
    line = connect(channel)
    line.provider.script(line.answer({"errors": []}, status=status))
    assert line.outcome() is expected
    assert len(line.provider.requests) == 1


@pytest.mark.parametrize("channel", ["email", "sms"])
@pytest.mark.parametrize(
    "how", ["hang_up", "reset", "hang", "html", "truncated", "empty", "other", "no date", "a list", "nulls"]
)
def test_a_broken_answer_is_no_answer(connect, channel, how):
    line = connect(channel)
    provider, empty = line.provider, {"messages": []} if channel == "email" else page()
    body = json.dumps(empty).encode()
    provider.script(
        {
            "hang_up": provider.hang_up,
            "reset": provider.reset,
            "hang": provider.hang(),
            "html": provider.answer("200 OK", DATE, body=b"<html>busy</html>"),
            "truncated": provider.answer("200 OK", DATE, body=body[:-1], length=len(body), close=True),
            "empty": provider.answer("200 OK", DATE),
            "other": line.answer({"result": "ok"}),
            "no date": line.answer(empty, date="X-Date: none"),
            "a list": line.answer([]),
            "nulls": line.answer({"messages": [None]}),
        }[how]
    )
    assert line.outcome() is UnknownError
    assert len(provider.requests) == 1


def test_half_a_list_is_no_answer(connect):
    line = connect("sms")
    after = "/2010-04-01/Accounts/AC1/Messages.json?Page=1"
    line.provider.script(line.answer(page(text("SM1"), after=after)), line.answer({}, status="429 Too Many Requests"))
    assert line.outcome() is TransientError
    line.provider.script(always=line.answer(page(text("SM1"), after=after)))
    assert line.outcome() is UnknownError


def test_a_log_of_which_one_message_cannot_be_read_is_no_answer(connect):
    line = connect("email")
    line.provider.script(line.answer(LOG), line.answer({}, status="429 Too Many Requests"))
    assert line.outcome() is TransientError
    line.provider.script(line.answer(LOG), line.answer({"custom_args": None}))
    assert line.outcome() is UnknownError
    line.provider.script(line.answer({"messages": LOG["messages"][:1] * 1000}))
    assert line.outcome() is UnknownError


def test_a_key_that_may_not_read_the_logs_is_told_so(connect):
    line = connect("email")
    line.provider.script(line.answer({"errors": []}, status="403 Forbidden"))
    with pytest.raises(HaltError, match="does not let this key read the Email Logs"):
        line.find()


@pytest.mark.parametrize(
    "address", ["o'brien@person.example.com", 'a"b@person.example.com', "a\\b@x.example.com", "吴@x"]
)
def test_an_address_that_cannot_stand_in_a_question_is_not_asked_for(connect, address):
    line = connect("email")
    assert not is_askable(address)
    with pytest.raises(RejectedError, match="cannot stand in a question"):
        line.gateway.find(address, since=NOON)
    assert line.provider.requests == []
