"""What goes over the wire: exactly what was asked for, in the form the providers publish."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from commplan import returnaddress
from commplan.channels.email_sendgrid import SendGridGateway
from commplan.channels.failures import suppresses
from commplan.channels.sms_twilio import TwilioGateway
from commplan.content.skeleton import MAX_VALUES, values_size
from commplan.envelope import EmailBatch, EmailRecipient, TextMessage
from commplan.errors import HaltError, RejectedError, TransientError
from commplan.ids import AttemptId, Keyring, MessageRef, RunId, Token, TokenPurpose
from commplan.settings import EmailSettings, SmsSettings
from commplan.terms import Reason

_SID = "AC" + "0" * 32
_RECIPIENTS = [
    EmailRecipient(
        token=Token(f"{name:x<22}"),
        address=f"{name}@person.example.com",
        values=[f"{name} 张伟", f"{name} &amp; Co"],
        unsubscribe_url=f"https://mail.example.com/u/{name}",
    )
    for name in ("Ann", "Bob", "Eve")
]
_BATCH = EmailBatch(
    attempt_id=AttemptId("a" * 32),
    subject="Hello cp-x-1",
    text="Dear cp-x-1",
    html="<p>Dear cp-x-2</p>",
    placeholders=["cp-x-1", "cp-x-2"],
    recipients=_RECIPIENTS,
)
_TEXT = TextMessage(
    attempt_id=AttemptId("b" * 32),
    token=Token("t" * 22),
    address="+8613800138000",
    body="你好 & 100% = 1",
    valid_for=7200,
)


@pytest.fixture
def email(provider: Any) -> Iterator[SendGridGateway]:
    provider.script(always=provider.answer("202 Accepted", "X-Message-Id: id-1"))
    gateway = SendGridGateway(EmailSettings(base_url=provider.url, api_key=SecretStr("key"), from_name="Shop"))
    yield gateway
    gateway.close()


@pytest.fixture
def sms(provider: Any) -> Iterator[TwilioGateway]:
    provider.script(always=provider.answer("201 Created", body=b'{"sid": "SM1"}'))
    gateway = TwilioGateway(
        SmsSettings(base_url=provider.url, account_sid=_SID, auth_token=SecretStr("token")),
        public_url="https://mail.example.com/",
    )
    yield gateway
    gateway.close()


def _error(provider: Any, status: str, *fields: str | None) -> Any:
    errors = [{"message": "Ann@person.example.com is bad", "field": field, "help": None} for field in fields]
    return provider.answer(status, "Content-Type: application/json", body=json.dumps({"errors": errors}).encode())


def test_an_email_request_carries_the_texts_once_and_each_persons_values(provider: Any, email: SendGridGateway) -> None:
    email.send(_BATCH)
    request = provider.requests[0]
    assert (request.method, request.target) == ("POST", "/v3/mail/send")
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["content-type"].startswith("application/json")
    body = json.loads(request.body)
    assert body["from"] == {"email": "hello@sender.example.com", "name": "Shop"}
    assert body["subject"] == "Hello cp-x-1"
    assert body["content"] == [
        {"type": "text/plain", "value": "Dear cp-x-1"},
        {"type": "text/html", "value": "<p>Dear cp-x-2</p>"},
    ]
    assert body["personalizations"][1] == {
        "to": [{"email": "Bob@person.example.com"}],
        "substitutions": {"cp-x-1": "Bob 张伟", "cp-x-2": "Bob &amp; Co"},
        "custom_args": {"cp_m": "Bobxxxxxxxxxxxxxxxxxxx", "cp_a": "a" * 32},
        "headers": {
            "List-Unsubscribe": "<https://mail.example.com/u/Bob>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
    }
    assert body["tracking_settings"]["subscription_tracking"] == {"enable": False}


def test_a_batch_without_html_is_plain_text(provider: Any, email: SendGridGateway) -> None:
    email.send(replace(_BATCH, html=""))
    assert [part["type"] for part in json.loads(provider.requests[0].body)["content"]] == ["text/plain"]


def test_an_emergency_carries_no_unsubscribe_headers(provider: Any, email: SendGridGateway) -> None:
    email.send(replace(_BATCH, recipients=[replace(_RECIPIENTS[0], unsubscribe_url=None)]))
    assert "headers" not in json.loads(provider.requests[0].body)["personalizations"][0]


def test_a_mailbox_for_opt_outs_is_offered_beside_the_link(provider: Any) -> None:
    settings = EmailSettings(base_url=provider.url, api_key=SecretStr("key"), unsubscribe_address="stop@example.com")
    provider.script(provider.answer("202 Accepted", "X-Message-Id: id-1"))
    gateway = SendGridGateway(settings)
    gateway.send(_BATCH)
    gateway.close()
    assert json.loads(provider.requests[0].body)["personalizations"][0]["headers"]["List-Unsubscribe"] == (
        "<https://mail.example.com/u/Ann>, <mailto:stop@example.com?subject=Annxxxxxxxxxxxxxxxxxxx>"
    )


def _sent_with_inbound_domain(provider: Any, batch: EmailBatch) -> dict[str, Any]:
    settings = EmailSettings(
        base_url=provider.url,
        api_key=SecretStr("key"),
        from_name="Shop",
        unsubscribe_address="stop@example.com",
        inbound_domain="reply.example.com",
    )
    provider.script(provider.answer("202 Accepted", "X-Message-Id: id-1"))
    gateway = SendGridGateway(settings)
    gateway.send(batch)
    gateway.close()
    return dict(json.loads(provider.requests[-1].body))


def _answerable() -> EmailBatch:
    keyring = Keyring("a secret")
    refs = [MessageRef(RunId(1), 1, seq) for seq in range(1, len(_RECIPIENTS) + 1)]
    tokens = [keyring.tokens(purpose, refs) for purpose in (TokenPurpose.REPLY, TokenPurpose.UNSUBSCRIBE)]
    people = [
        replace(person, reply_token=reply, unsubscribe_token=stop)
        for person, reply, stop in zip(_RECIPIENTS, *tokens, strict=True)
    ]
    return replace(_BATCH, recipients=people)


def test_with_a_domain_for_answers_each_person_has_an_address_of_their_own_for_them(provider: Any) -> None:
    batch = _answerable()
    body = _sent_with_inbound_domain(provider, batch)
    assert body["reply_to"] == {"email": f"r+cpr{'a' * 32}@reply.example.com", "name": "Shop"}
    for personalization, person in zip(body["personalizations"], batch.recipients, strict=True):
        address = body["reply_to"]["email"].replace(
            *next((tag, value) for tag, value in personalization["substitutions"].items() if tag.startswith("cpr"))
        )
        assert returnaddress.read(address) == (TokenPurpose.REPLY, person.reply_token)
        offered = personalization["headers"]["List-Unsubscribe"].split("mailto:")[1]
        assert returnaddress.read(offered) == (TokenPurpose.UNSUBSCRIBE, person.unsubscribe_token)
        assert "stop@" not in offered


@pytest.mark.parametrize("of_them", [1, 2])
def test_values_as_long_as_content_lets_them_share_a_text_leave_room_for_the_address_for_answers(
    provider: Any, of_them: int
) -> None:
    batch = _answerable()
    placeholders = tuple(batch.placeholders)
    first = "é" * 1_000
    room = MAX_VALUES - values_size(placeholders, (first, ""))
    values = (first, "b" * room)
    assert values_size(placeholders, values) == MAX_VALUES
    people = [replace(person, values=values) for person in batch.recipients[:of_them]]
    body = _sent_with_inbound_domain(provider, replace(batch, recipients=people))
    for personalization in body["personalizations"]:
        filled = personalization["substitutions"]
        assert sum(len(name.encode()) + len(value.encode()) for name, value in filled.items()) <= 10_000


def test_a_request_for_one_person_names_their_address_for_answers_outright(provider: Any) -> None:
    batch = _answerable()
    body = _sent_with_inbound_domain(provider, replace(batch, recipients=batch.recipients[:1]))
    read = returnaddress.read(body["reply_to"]["email"])
    assert read == (TokenPurpose.REPLY, batch.recipients[0].reply_token)
    assert not any(tag.startswith("cpr") for tag in body["personalizations"][0]["substitutions"])


def test_without_a_domain_for_answers_they_go_to_the_sender(provider: Any, email: SendGridGateway) -> None:
    email.send(_answerable())
    assert "reply_to" not in json.loads(provider.requests[0].body)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"values": ["Bob", "x" * 10_000]}, "longer than 10000 bytes"),
        ({"values": ["Bob", "张" * 3_334]}, "longer than 10000 bytes"),
        ({"values": ["Bob"]}, "placeholders"),
        ({"values": ["Bob\r\nBcc: Eve", ""]}, "subject"),
        ({"values": ["Bob", "half a pair \ud83d"]}, "Unicode"),
        ({"address": "Bob@person.example.com\nX: 1"}, "line break"),
        ({"address": "ANN@person.example.com"}, "already"),
        ({"unsubscribe_url": "https://mail.example.com/u/>, <https://evil.example.com"}, "header"),
        ({"unsubscribe_url": "javascript:alert(1)"}, "header"),
    ],
)
def test_a_person_whom_the_api_cannot_take_is_named_before_anything_is_sent(
    provider: Any, email: SendGridGateway, wrong: dict[str, Any], why: str
) -> None:
    batch = replace(_BATCH, recipients=[_RECIPIENTS[0], replace(_RECIPIENTS[1], **wrong), _RECIPIENTS[2]])
    with pytest.raises(RejectedError, match=why) as caught:
        email.send(batch)
    assert (caught.value.index, provider.connections) == (1, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "Hello\r\nBcc: Eve"},
        {"subject": "half a pair \ud83d"},
        {"recipients": []},
        {"recipients": [replace(_RECIPIENTS[0], address=f"p{n}@person.example.com") for n in range(1001)]},
    ],
)
def test_a_batch_that_the_api_cannot_take_is_refused_without_naming_anybody(
    provider: Any, email: SendGridGateway, wrong: dict[str, Any]
) -> None:
    with pytest.raises(RejectedError) as caught:
        email.send(replace(_BATCH, **wrong))
    assert (caught.value.index, provider.connections) == (None, 0)


def test_values_up_to_the_limit_go_out(provider: Any, email: SendGridGateway) -> None:
    values = ["", "张" * 3_329 + "x"]
    assert sum(len(part.encode()) for part in [*_BATCH.placeholders, *values]) == 10_000
    assert email.send(replace(_BATCH, recipients=[replace(_RECIPIENTS[0], values=values)])).provider_id == "id-1"


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        (["personalizations.1.to.0.email"], 1),
        (["personalizations[2].substitutions"], 2),
        ([None, "personalizations.2.to", "personalizations.1.to"], 2),
        (["personalizations"], None),
        (["personalizations.7.to"], None),
        ([None], None),
        ([], None),
        (["Ann@person.example.com"], None),
    ],
)
def test_a_400_names_the_one_who_is_meant(
    provider: Any, email: SendGridGateway, fields: list[str | None], index: int | None
) -> None:
    provider.script(_error(provider, "400 Bad Request", *fields))
    with pytest.raises(RejectedError) as caught:
        email.send(_BATCH)
    assert caught.value.index == index
    assert "person.example.com" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize(
    ("status", "field", "why"),
    [
        ("400 Bad Request", "from.email", "FROM_ADDRESS"),
        ("403 Forbidden", "from", "FROM_ADDRESS"),
        ("403 Forbidden", None, "Mail Send"),
        ("401 Unauthorized", None, "API_KEY"),
        ("400 Bad Request", "content.0.value", "template"),
        ("400 Bad Request", "subject", "template"),
        ("400 Bad Request", "tracking_settings.open_tracking", "setting"),
    ],
)
def test_what_everybody_shares_halts_instead_of_burning_the_audience(
    provider: Any, email: SendGridGateway, status: str, field: str | None, why: str
) -> None:
    provider.script(_error(provider, status, "personalizations.0.to", field))
    with pytest.raises(HaltError, match=why):
        email.send(_BATCH)


def test_a_rate_limit_is_read_by_the_providers_clock(provider: Any, email: SendGridGateway) -> None:
    provider.script(
        provider.answer("429 Too Many Requests", "Date: Tue, 01 Dec 2026 02:00:00 GMT", "X-RateLimit-Reset: 1796090412")
    )
    with pytest.raises(TransientError) as caught:
        email.send(_BATCH)
    assert caught.value.retry_after == 12


def test_an_sms_request_carries_our_ids_in_its_callback(provider: Any, sms: TwilioGateway) -> None:
    sms.send(_TEXT)
    request = provider.requests[0]
    assert (request.method, request.target) == ("POST", f"/2010-04-01/Accounts/{_SID}/Messages.json")
    assert b64decode(request.headers["authorization"].removeprefix("Basic ")) == f"{_SID}:token".encode()
    form = {name: value for name, [value] in parse_qs(request.body.decode(), strict_parsing=True).items()}
    callback = form.pop("StatusCallback")
    assert form == {"To": "+8613800138000", "From": "+15005550006", "Body": "你好 & 100% = 1", "ValidityPeriod": "7200"}
    parts = urlsplit(callback)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://mail.example.com/hooks/twilio/status"
    assert parse_qs(parts.query) == {"m": ["t" * 22], "a": ["b" * 32]}
    assert parts.fragment == "rc=5&rp=all"


def test_an_api_behind_a_path_is_found_there(provider: Any) -> None:
    provider.script(provider.answer("202 Accepted"), provider.answer("201 Created", body=b'{"sid": "SM1"}'))
    base_url = f"{provider.url}/gate/"
    email = SendGridGateway(EmailSettings(base_url=base_url, api_key=SecretStr("key")))
    sms = TwilioGateway(
        SmsSettings(base_url=base_url, account_sid=_SID, auth_token=SecretStr("token")), public_url="http://127.0.0.1"
    )
    email.send(_BATCH)
    sms.send(_TEXT)
    email.close()
    sms.close()
    assert [request.target for request in provider.requests] == [
        "/gate/v3/mail/send",
        f"/gate/2010-04-01/Accounts/{_SID}/Messages.json",
    ]


def test_the_environment_changes_neither_account_nor_host(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_EDGE", "TWILIO_REGION", "SENDGRID_API_KEY"):
        monkeypatch.setenv(name, "sydney")
    provider.script(provider.answer("202 Accepted"), provider.answer("201 Created", body=b'{"sid": "SM1"}'))
    email = SendGridGateway(EmailSettings(base_url=provider.url))
    sms = TwilioGateway(SmsSettings(base_url=provider.url), public_url="http://127.0.0.1")
    email.send(_BATCH)
    sms.send(_TEXT)
    email.close()
    sms.close()
    assert "sydney" not in repr(provider.requests)


def test_a_text_waits_in_the_queue_for_ten_hours_at_most(provider: Any, sms: TwilioGateway) -> None:
    sms.send(replace(_TEXT, valid_for=86_400))
    assert parse_qs(provider.requests[0].body.decode())["ValidityPeriod"] == ["36000"]


@pytest.mark.parametrize("wrong", [{"body": " "}, {"body": "x" * 1601}, {"body": "\ud83d"}, {"valid_for": 0}])
def test_a_text_that_twilio_cannot_take_is_refused_before_anything_is_sent(
    provider: Any, sms: TwilioGateway, wrong: dict[str, Any]
) -> None:
    with pytest.raises(RejectedError) as caught:
        sms.send(replace(_TEXT, **wrong))
    assert (caught.value.index, provider.connections) == (0, 0)


@pytest.mark.parametrize(
    ("code", "kind", "suppress"),
    [
        *((code, RejectedError, Reason.INVALID_NUMBER) for code in (21211, 21214, 21217, 21614, 21635)),
        (21610, RejectedError, Reason.STOP),
        (21617, RejectedError, None),
        (99999, RejectedError, None),
        (21611, TransientError, None),
        (20429, TransientError, None),
        *((code, HaltError, None) for code in (20003, 21212, 21408, 21606, 21608, 21609, 21612, 30034)),
    ],
)
def test_twilios_codes_mean_what_they_say(
    provider: Any, sms: TwilioGateway, code: int, kind: type[Exception], suppress: Reason | None
) -> None:
    error = {"code": code, "message": "+8613800138000 is bad", "more_info": "…", "status": 400}
    provider.script(provider.answer("400 Bad Request", body=json.dumps(error).encode()))
    with pytest.raises(kind, match=str(code)) as caught:
        sms.send(_TEXT)
    assert suppresses(caught.value.code) == suppress
    assert "138" not in str(caught.value)


def test_nothing_personal_and_no_key_reaches_a_log(
    provider: Any, email: SendGridGateway, sms: TwilioGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    provider.script(provider.answer("202 Accepted"), provider.answer("201 Created", body=b'{"sid": "SM1"}'))
    email.send(_BATCH)
    sms.send(_TEXT)
    for secret in ("person.example.com", "13800138000", "张伟", "Bearer"):
        assert secret not in caplog.text


def _spec(name: str) -> Any:
    folder = os.environ.get("COMMPLAN_SPECS")
    if folder is None:
        pytest.skip("COMMPLAN_SPECS names no folder with the providers' OpenAPI documents")
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def test_an_email_request_fits_the_published_document(provider: Any, email: SendGridGateway) -> None:
    from jsonschema import Draft202012Validator

    spec = _spec("sendgrid/tsg_mail_v3.json")
    body = spec["paths"]["/v3/mail/send"]["post"]["requestBody"]
    name = body["$ref"].rpartition("/")[2] if "$ref" in body else None
    media = (spec["components"]["requestBodies"][name] if name else body)["content"]["application/json"]
    schema = {**media["schema"], "components": spec["components"]}
    schema["properties"]["custom_args"] = {"type": "object"}  # the document says "string"; its text and the SDK do not
    validator = Draft202012Validator(schema)
    email.send(_BATCH)
    email.send(replace(_BATCH, html="", recipients=[replace(_RECIPIENTS[0], unsubscribe_url=None)]))
    for request in provider.requests:
        assert [error.json_path for error in validator.iter_errors(json.loads(request.body))] == []
    assert list(validator.iter_errors({}))


def test_an_sms_request_fits_the_published_document(provider: Any, sms: TwilioGateway) -> None:
    from jsonschema import Draft202012Validator

    spec = _spec("twilio/twilio_api_v2010.json")
    post = spec["paths"]["/2010-04-01/Accounts/{AccountSid}/Messages.json"]["post"]
    schema = post["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    sms.send(_TEXT)
    form: dict[str, Any] = {name: value for name, [value] in parse_qs(provider.requests[0].body.decode()).items()}
    form["ValidityPeriod"] = int(form["ValidityPeriod"])
    assert set(form) <= set(schema["properties"])
    validator = Draft202012Validator({**schema, "components": spec["components"]})
    assert [error.json_path for error in validator.iter_errors(form)] == []
    assert list(validator.iter_errors({}))
