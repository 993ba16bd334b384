"""Messages over HTTP with the real SDK, and the signed callbacks that follow."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.request_validator import RequestValidator

from commplan.sandbox.part import parts
from commplan.sandbox.webhook import twilio_signature
from tests.sandbox.conftest import NOON

PERSON, SENDER = "+12025550123", "+15005550006"


def test_a_message_goes_from_queued_to_delivered_and_its_price_comes_later(start):
    sandbox = start(people={PERSON: "silent"})
    client = sandbox.sms()
    created = client.messages.create(to=PERSON, from_=SENDER, body="hello")
    assert (created.status, created.num_segments, created.price, created.direction) == (
        "queued", "1", None, "outbound-api",
    )  # fmt: skip
    assert created.sid.startswith("SM")
    sandbox.settle()
    sandbox.until(lambda: client.messages(created.sid).fetch().price is not None)
    fetched = client.messages(created.sid).fetch()
    assert (fetched.status, float(fetched.price), fetched.price_unit) == ("delivered", -0.0079, "USD")
    assert created.date_created <= fetched.date_sent <= fetched.date_updated


def test_the_account_must_be_right(start):
    sandbox = start()
    client = sandbox.sms()
    for account, password, status, code in (
        (client.username, "wrong", 401, 20003),
        ("AC" + "9" * 32, None, 404, 20404),
    ):
        url = f"{sandbox.url}/2010-04-01/Accounts/{account}/Messages.json"
        auth = (client.username, password or sandbox.config.auth_token)
        answer = client.http_client.request("POST", url, data={"To": PERSON}, auth=auth)
        body = json.loads(answer.text)
        assert (answer.status_code, body["code"], body["status"]) == (status, code, status)
        assert body["more_info"].endswith(str(code))


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"to": "+15005550001"}, 21211),
        ({"to": "+15005550002"}, 21612),
        ({"to": "+15005550003"}, 21408),
        ({"to": "+15005550004"}, 21610),
        ({"to": "+15005550009"}, 21614),
        ({"from_": "+15005550001"}, 21212),
        ({"from_": "+15005550007"}, 21606),
        ({"from_": "+15005550008"}, 21611),
        ({"to": "12345"}, 21211),
        ({"to": "+1202555012"}, 21211),
        ({"to": "+442079460000"}, 21614),
        ({"from_": "Twelve letters"}, 21212),
        ({"from_": "+442071838750"}, 21606),
        ({"body": ""}, 21602),
        ({"body": "x" * 1601}, 21617),
        ({"status_callback": "not a url"}, 21609),
        ({"validity_period": 36_001}, 90007),
        ({"media_url": "http://h/p.png"}, 21612),
    ],
)
def test_each_refusal_has_its_code(start, form, code):
    sandbox = start(settings={"owned_numbers": (SENDER,)})
    with pytest.raises(TwilioRestException) as refused:
        sandbox.sms().messages.create(**{"to": PERSON, "from_": SENDER, "body": "hello", **form})
    assert (refused.value.code, refused.value.status) == (code, 400)
    assert sandbox.messages() == []


def test_callbacks_are_signed_over_the_whole_address_and_leave_the_initial_status_out(start, receiver):
    sandbox = start(people={PERSON: "silent"})
    callback = f"{receiver.url}/hooks/twilio/status?m=abc&a=0%20f"
    sid = (
        sandbox.sms()
        .messages.create(to=PERSON, from_=SENDER, body="hello", status_callback=f"{callback}#rc=5&rp=all")
        .sid
    )
    (truth,) = sandbox.settle()
    posts = receiver.to("/hooks/twilio/status")
    assert sorted(post.form["MessageStatus"] for post in posts) == ["delivered", "sent"]
    validator = RequestValidator(sandbox.config.auth_token)
    for post in posts:
        assert post.path == "/hooks/twilio/status?m=abc&a=0%20f"
        assert post.form["MessageSid"] == sid
        assert post.headers["I-Twilio-Idempotency-Token"]
        assert validator.validate(callback, post.form, post.headers["X-Twilio-Signature"])
    assert truth["args"] == {"m": "abc", "a": "0 f"}


def test_the_signature_is_that_of_the_published_example():
    params = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    signature = twilio_signature("12345", "https://mycompany.com/myapp.php?foo=1&bar=2", params)
    assert signature == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@pytest.mark.parametrize(
    ("fragment", "posts"), [("", 1), ("#rc=2&rp=4xx", 1), ("#rc=2&rp=5xx", 3), ("#rc=1&rp=all", 2)]
)
def test_callbacks_are_repeated_as_their_address_says_and_then_given_up(start, receiver, fragment, posts):
    sandbox = start(people={PERSON: "undelivered"})
    receiver.refuse = 1_000
    sandbox.text(StatusCallback=f"{receiver.url}/hooks/twilio/status?m=1{fragment}")
    sandbox.settle()
    made = receiver.to("/hooks/twilio/status")
    assert [post.form["MessageStatus"] for post in made].count("sent") == posts
    assert len({post.headers["I-Twilio-Idempotency-Token"] for post in made}) == 2
    assert sandbox.summary()["callbacks_given_up"] == 2


def test_whoever_replies_stop_is_refused_from_then_on_and_the_reply_is_posted(start, receiver):
    sandbox = start(people={PERSON: "stop"}, advanced_opt_out=True)
    sandbox.text(Body="Reply STOP to opt out")
    (truth,) = sandbox.settle()
    assert truth["opted_out"]
    assert truth["replied"]
    (inbound,) = receiver.to("/hooks/twilio/inbound")
    url = f"{receiver.url}/hooks/twilio/inbound"
    assert RequestValidator(sandbox.config.auth_token).validate(
        url, inbound.form, inbound.headers["X-Twilio-Signature"]
    )
    assert (inbound.form["From"], inbound.form["To"], inbound.form["OptOutType"]) == (PERSON, SENDER, "STOP")
    assert sandbox.text().json()["code"] == 21610
    assert sandbox.text(From="+15005550010").status_code == 201


def test_a_chinese_opt_out_is_no_keyword_of_the_provider(start, receiver):
    sandbox = start(people={"+8613800138000": "stop"}, advanced_opt_out=True)
    sandbox.text(To="+8613800138000", Body="【纸鸢】退订回复TD")
    sandbox.settle()
    (inbound,) = receiver.to("/hooks/twilio/inbound")
    assert inbound.form["Body"] in {"退订", "TD", "td", "T"}
    assert "OptOutType" not in inbound.form
    assert sandbox.text(To="+8613800138000").status_code == 201


def test_somebody_writes_at_will_and_is_listed_posted_and_understood(start, receiver):
    sandbox = start(people={PERSON: "silent"})

    def write(**said):
        return httpx.post(f"{sandbox.url}/sandbox/texts", json=said, trust_env=False).status_code

    assert write(**{"from": PERSON, "to": SENDER}) == 400
    for word, answer in (("STOP", 400), ("START", 201)):
        assert write(**{"from": PERSON, "to": SENDER, "body": word}) == 204
        assert sandbox.text(To=PERSON).status_code == answer
    listed = sandbox.sms().messages.list(to=SENDER)
    assert [(one.body, one.direction, one.from_) for one in listed] == [
        ("START", "inbound", PERSON),
        ("STOP", "inbound", PERSON),
    ]
    sandbox.until(lambda: len(receiver.to("/hooks/twilio/inbound")) == 2)


def test_a_message_that_waits_longer_than_its_validity_fails(start):
    sandbox = start(factor=50, sms_per_second=0.01)
    sandbox.text()
    sid = sandbox.text(To="+12025550124", ValidityPeriod="10").json()["sid"]
    client = sandbox.sms()
    sandbox.until(lambda: client.messages(sid).fetch().status != "queued")
    fetched = client.messages(sid).fetch()
    assert (fetched.status, fetched.error_code, fetched.price) == ("failed", 30036, None)


def test_a_queue_of_more_than_ten_hours_takes_no_more(start):
    sandbox = start(factor=1e-6, sms_per_second=0.0001)
    answers = [sandbox.text(To=f"+1202555012{number}").json() for number in range(6)]
    assert [answer.get("code") for answer in answers] == [None, None, None, None, 21611, 21611]


def test_the_list_is_newest_first_and_goes_on_over_pages(start):
    sandbox = start(people={PERSON: "silent"})
    sids = [sandbox.text(Body=str(number)).json()["sid"] for number in range(5)]
    sandbox.text(To="+12025550199")
    sandbox.settle()
    client = sandbox.sms()
    assert [message.sid for message in client.messages.list(to=PERSON, page_size=2)] == sids[::-1]
    assert len(client.messages.list(from_=SENDER)) == 6
    assert client.messages.list(to=PERSON, date_sent_before=datetime(2026, 11, 1, tzinfo=UTC)) == []
    assert len(client.messages.list(to=PERSON, date_sent_after=datetime(2026, 11, 1, tzinfo=UTC))) == 5


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("汉" * 70, 1),
        ("汉" * 71, 2),
        ("𠮷" * 35, 1),
        ("a" * 66 + "𠮷" + "汉" * 66, 3),
    ],
)
def test_parts_are_counted_as_the_network_counts_them(text, count):
    assert parts(text) == count


@pytest.mark.skipif("COMMPLAN_SPECS" not in os.environ, reason="needs the providers' OpenAPI documents")
def test_the_resource_has_the_shape_of_the_published_schema(start):
    sandbox = start(people={PERSON: "silent"})
    spec = json.loads((Path(os.environ["COMMPLAN_SPECS"]) / "twilio" / "twilio_api_v2010.json").read_text())
    schema = spec["components"]["schemas"]["api.v2010.account.message"]
    body = sandbox.text().json()
    assert body.keys() == schema["properties"].keys()
    statuses = spec["components"]["schemas"]["message_enum_status"]["enum"]
    assert body["status"] in statuses
    assert body["direction"] in spec["components"]["schemas"]["message_enum_direction"]["enum"]
    for name, rule in schema["properties"].items():
        kinds = {"string": str, "integer": int, "object": dict}
        assert body[name] is None or isinstance(body[name], kinds.get(rule.get("type", "string"), object)), name
    listing = sandbox.sms().messages.page()
    assert [message.sid for message in listing] == [body["sid"]]


def test_the_list_shows_a_new_message_only_after_its_lag(start):
    sandbox = start(factor=60, list_lag=2)
    sid = sandbox.text().json()["sid"]
    client = sandbox.sms()
    assert client.messages.list(to=PERSON) == []
    assert client.messages(sid).fetch().sid == sid
    sandbox.until(lambda: [message.sid for message in client.messages.list(to=PERSON)] == [sid])
    assert sandbox.config.clock.now() - NOON > timedelta(minutes=2)
