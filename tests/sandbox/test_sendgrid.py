"""mail/send over HTTP with the real SDK: what is taken, what is refused and in which words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from python_http_client.exceptions import ForbiddenError, UnauthorizedError
from sendgrid import SendGridAPIClient

from commplan.sandbox.mail import envelopes
from commplan.sandbox.validation import check


def change(body, path, value):
    *steps, last = path
    for step in steps:
        body = body[step]
    body[last] = value


def test_an_accepted_request_is_202_with_an_id_and_nothing_else(start):
    sandbox = start()
    answer = sandbox.email().send(sandbox.mail("ann@person.example.com", "bob@person.example.com"))
    assert (answer.status_code, answer.body) == (202, b"")
    assert answer.headers["X-Message-Id"]
    assert answer.headers["Content-Type"] is None
    assert answer.headers["X-Sandbox"] == "SANDBOX"
    truth = sandbox.messages()
    assert [message["to"] for message in truth] == ["ann@person.example.com", "bob@person.example.com"]
    assert {message["request_id"] for message in truth} == {answer.headers["X-Message-Id"]}
    assert truth[1]["args"] == {"cp_m": "m1", "cp_a": "attempt"}
    assert all(message["provider_id"].startswith(message["request_id"] + ".") for message in truth)


def test_a_wrong_key_is_401_and_an_unverified_sender_403(start):
    sandbox = start(settings={"verified_senders": ("known@sender.example.com",)})
    with pytest.raises(UnauthorizedError):
        SendGridAPIClient("SG.another", host=sandbox.url).send(sandbox.mail("ann@person.example.com"))
    with pytest.raises(ForbiddenError) as refused:
        sandbox.email().send(sandbox.mail("ann@person.example.com"))
    assert "verified Sender Identity" in json.loads(refused.value.body)["errors"][0]["message"]
    assert sandbox.messages() == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["personalizations"], [], "personalizations"),
        (["personalizations", 0, "to"], [], "personalizations.0.to"),
        (["personalizations", 1, "to", 0, "email"], "ann@person.example.com", "personalizations.1.to"),
        (["personalizations", 1, "to", 0, "email"], "ANN@person.example.com", "personalizations.1.to"),
        (["personalizations", 1, "to", 0, "email"], "nobody", "personalizations.1.to.0.email"),
        (["personalizations", 1, "to", 0, "email"], "吴@person.example.com", "personalizations.1.to.0.email"),
        (["personalizations", 0, "substitutions"], {"%n%": 7}, None),
        (["personalizations", 0, "substitutions"], {"%n%": "x" * 10_000}, "personalizations.0.substitutions"),
        (["personalizations", 0, "custom_args"], {"a": "值" * 4_000}, "personalizations.0.custom_args"),
        (["personalizations", 0, "headers"], {"Reply-To": "x"}, "personalizations.0.headers.Reply-To"),
        (["personalizations", 0, "send_at"], 2_000_000_000, "personalizations.0.send_at"),
        (["personalizations", 0, "colour"], "red", "personalizations.0.colour"),
        (["from"], {"name": "nobody"}, "from.email"),
        (["subject"], "", "subject"),
        (["content"], [], "content"),
        (["content", 0, "type"], "text/html", "content"),
        (["content", 1, "value"], "", "content.1.value"),
        (["categories"], ["a", "a"], "categories"),
        (["sections"], {"%a%": "b"}, "sections"),
        (["template_id"], "d-0123", "template_id"),
        (["batch_id"], "abc", "batch_id"),
    ],
)
def test_each_broken_rule_refuses_the_whole_request_and_names_its_field(start, path, value, field):
    sandbox = start()
    body = sandbox.mail("ann@person.example.com", "bob@person.example.com")
    change(body, path, value)
    answer = sandbox.post(body)
    assert answer.status_code == 400
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert all(set(error) == {"message", "field", "help"} for error in answer.json()["errors"])
    assert sandbox.messages() == []


def test_more_than_a_thousand_recipients_are_refused(start):
    sandbox = start()
    everybody = [f"p{number}@person.example.com" for number in range(1001)]
    assert sandbox.post(sandbox.mail(*everybody)).status_code == 400
    assert sandbox.post(sandbox.mail(*everybody[:1000])).status_code == 202


def test_without_the_field_an_error_does_not_say_what_is_wrong(start):
    sandbox = start(errors_name_field=False)
    answer = sandbox.post(sandbox.mail("ann@person.example.com", "nobody"))
    assert [error["field"] for error in answer.json()["errors"]] == [None]


def test_one_bad_recipient_may_be_dropped_instead_of_refusing_everybody(start, receiver):
    sandbox = start(whole_request_refused=False)
    assert sandbox.post(sandbox.mail("silent.1@person.example.com", "nobody")).status_code == 202
    truth = {message["to"]: message for message in sandbox.settle()}
    assert truth["silent.1@person.example.com"]["delivered"]
    assert truth["nobody"]["dropped"]
    assert not truth["nobody"]["delivered"]
    assert [event["reason"] for event in receiver.events("dropped")] == ["Invalid"]


def test_sandbox_mode_is_200_and_leaves_no_trace(start):
    sandbox = start()
    body = sandbox.mail("ann@person.example.com", mail_settings={"sandbox_mode": {"enable": True}})
    assert sandbox.post(body).status_code == 200
    assert sandbox.messages() == []


def test_what_is_no_json_and_what_is_too_large_are_refused_as_the_service_does(start):
    sandbox = start()
    assert sandbox.post(["not", "an", "object"]).json()["errors"][0]["message"] == "Bad Request"
    body = sandbox.mail("ann@person.example.com")
    body["attachments"] = [{"content": "A" * 31_500_000, "filename": "large.txt"}]
    too_large = sandbox.post(body)
    assert too_large.status_code == 413
    assert "<html>" in too_large.text


def test_who_bounced_or_complained_is_dropped_next_time_with_the_reason(start, receiver):
    sandbox = start()
    people = ("bounce@person.example.com", "spam@person.example.com", "block@person.example.com")
    sandbox.post(sandbox.mail(*people))
    sandbox.settle()
    sandbox.post(sandbox.mail(*people))
    truth = sandbox.settle()
    reasons = {event["email"]: event["reason"] for event in receiver.events("dropped")}
    assert reasons == {people[0]: "Bounced Address", people[1]: "Spam Reporting Address"}
    assert [message["status"] for message in truth] == [
        "bounced", "delivered", "blocked", "dropped", "dropped", "blocked",
    ]  # fmt: skip
    bounces = {(event["email"], event["type"]) for event in receiver.events("bounce")}
    assert bounces == {(people[0], "bounce"), (people[2], "blocked")}


def test_what_arrived_can_be_looked_at(start):
    sandbox = start(nested_substitution=True)
    body = sandbox.mail("silent@person.example.com", subject="Hi %n%")
    body["personalizations"][0]["substitutions"] = {"%n%": "%m% Wu", "%m%": "Ann"}
    body["personalizations"][0]["headers"] = {"X-Own": "1"}
    body["content"][1]["value"] = "<p>%n% %m%</p>"
    sandbox.post(body)
    shown = sandbox.get("/sandbox/messages/" + sandbox.messages()[0]["provider_id"]).json()
    assert shown["subject"] == "Hi Ann Wu"
    assert shown["html"] == "<p>Ann Wu Ann</p>"
    assert shown["headers"] == {"X-Own": "1"}
    assert sandbox.get("/sandbox/messages/unknown").status_code == 404


TAGS = st.from_regex(r"%[a-z]{1,3}%", fullmatch=True)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="%"), max_size=12)


@given(values=st.dictionaries(TAGS, VALUES, max_size=5), pieces=st.lists(TAGS | VALUES, max_size=12))
def test_substitution_is_plain_replacement_of_every_tag(values, pieces):
    text = "".join(pieces)
    body = {
        "personalizations": [{"to": [{"email": "ann@person.example.com"}], "substitutions": values}],
        "subject": text,
        "content": [{"type": "text/plain", "value": text + "."}],
    }
    (envelope,) = envelopes(body, nested=False)
    expected = text
    for tag, value in values.items():
        expected = expected.replace(tag, value)
    # Nothing overlaps: tags begin and end with a character that no value has.
    if "%%" not in text and text.count("%") % 2 == 0:
        assert envelope.subject == expected
        assert envelope.text == expected + "."


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["to", "cc", "subject", "headers", "substitutions", "custom_args", "send_at"]
WRITTEN = st.fixed_dictionaries(
    {"to": st.just([{"email": "ann@person.example.com"}])}, optional=dict.fromkeys(NAMES[2:], JUNK)
)
PERSONS = st.lists(JUNK | st.dictionaries(st.sampled_from(NAMES), JUNK), max_size=3) | st.lists(WRITTEN, max_size=3)
ROOTS = ["from", "subject", "content", "headers", "custom_args", "categories", "send_at", "reply_to", "sections"]


@given(root=st.just({}) | st.dictionaries(st.sampled_from(ROOTS), JUNK), people=PERSONS | JUNK, nested=st.booleans())
def test_no_body_whatever_makes_the_rules_or_the_rendering_stumble(root, people, nested):
    body = {
        "from": {"email": "hello@sender.example.com"},
        "subject": "s",
        "content": [{"type": "text/plain", "value": "t"}],
        **root,
        "personalizations": people,
    }
    problems = check(body, now=0)
    if all(problem.recipient is not None for problem in problems):
        told = {problem.recipient for problem in problems}
        rendered = list(envelopes(body, nested=nested))
        assert {envelope.personalization for envelope in rendered} == set(range(len(people)))
        assert all("@" in envelope.to for envelope in rendered if envelope.personalization not in told)


def test_links_are_found_with_their_tracking_and_their_entities_resolved():
    html = (
        '<a class="x" href="http://h/a?b=1&amp;c=2">a</a>'
        "<a clicktracking=\"off\" href='http://h/u/1'>u</a>"
        '<a href="mailto:a@b">m</a>'
    )
    body = {
        "personalizations": [{"to": [{"email": "ann@person.example.com"}]}],
        "subject": "s",
        "content": [{"type": "text/html", "value": html}],
    }
    (envelope,) = envelopes(body, nested=False)
    assert [(link.url, link.tracked) for link in envelope.links] == [
        ("http://h/a?b=1&c=2", True),
        ("http://h/u/1", False),
    ]


@pytest.mark.skipif("COMMPLAN_SPECS" not in os.environ, reason="needs the providers' OpenAPI documents")
def test_requests_are_judged_as_the_published_schema_judges_them(start):
    sandbox = start()
    spec = json.loads((Path(os.environ["COMMPLAN_SPECS"]) / "sendgrid" / "tsg_mail_v3.json").read_text())
    schema = spec["components"]["requestBodies"]["PostMailSend"]["content"]["application/json"]["schema"]
    # A known error of the document: the SDK and the service take an object.
    schema["properties"]["custom_args"] = {"type": "object"}
    validator = Draft202012Validator({**schema, "components": spec["components"]})
    good = sandbox.mail("ann@person.example.com", custom_args={"a": "b"}, categories=["onboarding"])
    many = sandbox.mail(*[f"p{number}@person.example.com" for number in range(1001)])
    nobody = {name: value for name, value in good.items() if name != "from"}
    unknown = sandbox.mail("ann@person.example.com", categories=[str(number) for number in range(11)])
    for body in (good, many, nobody, unknown):
        assert validator.is_valid(body) == (check(body, now=0) == []), body.keys()
    error = spec["components"]["schemas"]["ErrorResponse"]
    answer = sandbox.post(nobody).json()
    # The document has no null; the service writes one where it has nothing to say.
    answer["errors"] = [{name: value for name, value in one.items() if value is not None} for one in answer["errors"]]
    Draft202012Validator({**error, "components": spec["components"]}).validate(answer)
