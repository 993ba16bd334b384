"""Email Logs over HTTP with the real SDK: what they show, when, to whom, and which questions they understand."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator
from python_http_client.exceptions import BadRequestsError, NotFoundError, TooManyRequestsError, UnauthorizedError
from sendgrid import SendGridAPIClient

from tests.conftest import PLAIN
from tests.sandbox.conftest import NOON

ANN, BOB = "ann@person.example.com", "bob@person.example.com"


def search(sandbox, query, **more):
    answer = sandbox.email().client.logs.post(request_body={"query": query, **more})
    return json.loads(answer.body)["messages"]


def created(sign: str, **after: float) -> str:
    return f'sg_message_id_created_at {sign} TIMESTAMP "{(NOON + timedelta(**after)).isoformat()[:19]}Z"'


def test_a_message_is_found_by_address_and_time_and_its_detail_has_our_ids(start):
    sandbox = start(factor=1e-9)
    sandbox.post(sandbox.mail(ANN, BOB))
    (line,) = search(sandbox, f"to_email='{BOB}' AND {created('>=')}")
    assert (line["to_email"], line["from_email"], line["status"]) == (BOB, "hello@sender.example.com", "processed")
    detail = json.loads(sandbox.email().client.logs._(line["sg_message_id"]).get().body)
    assert detail["custom_args"] == {"cp_m": "m1", "cp_a": "attempt"}
    assert search(sandbox, f"sg_message_id = '{line['sg_message_id']}'") == [line]
    assert search(sandbox, created("<", seconds=1), limit=1000) != []
    assert search(sandbox, created(">", seconds=1)) == []
    assert search(sandbox, f"{created('<=')} AND to_email = '{BOB}'") == [line]
    # The service compares case-sensitively.
    assert search(sandbox, f"to_email='{BOB.title()}'") == []
    with pytest.raises(NotFoundError):
        sandbox.email().client.logs._("no-such-message").get()


def test_ten_messages_are_shown_unless_more_are_asked_for(start):
    sandbox = start(factor=1e-9)
    sandbox.post(sandbox.mail(*(f"p{number}@person.example.com" for number in range(12))))
    assert (len(search(sandbox, created(">="))), len(search(sandbox, created(">="), limit=1000))) == (10, 12)


@pytest.mark.parametrize(
    "body",
    [
        {"query": ""},
        {"query": "to_email='a' OR to_email='b'"},
        {"query": "(to_email='a')"},
        {"query": "to_email='o'brien@person.example.com'"},
        {"query": "status IN ('delivered')"},
        {"query": "sg_message_id_created_at >= '2026-12-01'"},
        {"query": 'sg_message_id_created_at >= TIMESTAMP "noon"'},
        {"query": "to_email='a' AND"},
        {"query": "to_email='a'", "limit": 1001},
        {"query": "to_email='a'", "limit": 0},
        {"query": "to_email='a'", "offset": 10},
        ["to_email='a'"],
    ],
)
def test_what_is_not_understood_is_a_400(start, body):
    with pytest.raises(BadRequestsError):
        start().email().client.logs.post(request_body=body)


def test_another_key_sees_nothing(start):
    with pytest.raises(UnauthorizedError):
        SendGridAPIClient("SG.another", host=start().url).client.logs.post(request_body={"query": "to_email='a'"})


def test_a_message_shows_only_after_the_lag_and_by_the_providers_clock(start):
    sandbox = start(factor=600, logs_lag=20, clock_offset=-180)
    sandbox.post(sandbox.mail(ANN))
    assert search(sandbox, f"to_email='{ANN}'") == []
    sandbox.until(lambda: search(sandbox, f"to_email='{ANN}'"))
    (truth,) = sandbox.messages()
    (line,) = search(sandbox, f"to_email='{ANN}'")
    assert line["sg_message_id_created_at"] < truth["times"]["accepted"]
    assert sandbox.config.clock.now() - NOON > timedelta(minutes=20)


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_logs_may_keep_addresses_in_lower_case_only(start, lowercase):
    sandbox = start(factor=1e-9, logs_lowercase=lowercase)
    sandbox.post(sandbox.mail("Ann@person.example.com"))
    spelling, other = ("ann", "Ann") if lowercase else ("Ann", "ann")
    (line,) = search(sandbox, f"to_email='{spelling}@person.example.com'")
    assert line["to_email"] == f"{spelling}@person.example.com"
    assert search(sandbox, f"to_email='{other}@person.example.com'") == []


def test_what_is_accepted_when_the_client_has_given_up_shows_that_much_later(start):
    sandbox = start(factor=60, late_seconds=90)
    fault = {"channel": "email", "fault": "accept_when_given_up"}
    httpx.post(f"{sandbox.url}/sandbox/faults", json=fault, **PLAIN)
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            f"{sandbox.url}/v3/mail/send",
            json=sandbox.mail(ANN),
            headers={"Authorization": f"Bearer {sandbox.config.api_key}"},
            timeout=0.2,
            **PLAIN,
        )
    given_up = sandbox.config.clock.now()
    sandbox.until(sandbox.messages)
    accepted = datetime.fromisoformat(sandbox.messages()[0]["times"]["accepted"])
    assert accepted - given_up > timedelta(seconds=60)


def test_busy_logs_answer_429(start):
    sandbox = start(logs_busy_share=1)
    with pytest.raises(TooManyRequestsError):
        search(sandbox, f"to_email='{ANN}'")


@pytest.mark.skipif("COMMPLAN_SPECS" not in os.environ, reason="needs the providers' OpenAPI documents")
def test_answers_have_the_shape_of_the_published_schema(start):
    sandbox = start(factor=1e-9)
    spec = json.loads((Path(os.environ["COMMPLAN_SPECS"]) / "sendgrid" / "tsg_logs_v3.json").read_text())
    schemas = spec["components"]["schemas"]

    def check(name, body):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        Draft202012Validator(schema).validate(body)

    sandbox.post(sandbox.mail(ANN, categories=["onboarding"]))
    request = {"query": f"to_email='{ANN}' AND {created('>=')}", "limit": 1000}
    check("EmailLogsGetMessagesByFilterRequest", request)
    client = sandbox.email().client
    found = json.loads(client.logs.post(request_body=request).body)
    check("EmailLogsGetMessagesByFilterResponse", found)
    assert set(found["messages"][0]) == set(schemas["EmailLogsMessage"]["properties"])
    check(
        "EmailLogsGetMessageByIdResponse", json.loads(client.logs._(found["messages"][0]["sg_message_id"]).get().body)
    )
    with pytest.raises(BadRequestsError) as refused:
        client.logs.post(request_body={"query": "?"})
    check("ErrorResponse", json.loads(refused.value.body))
