"""The receiver beyond what every hook is held to: moved addresses, rotated keys, a failing store, whatever comes."""

from __future__ import annotations

import json
import logging
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import select

from commplan import tracking
from commplan.store.tables import inbox
from commplan.terms import MessageState

EVENTS = "/hooks/sendgrid/events"
STATUS = "/hooks/twilio/status"
INBOUND = "/hooks/twilio/inbound"
PUBLIC = "https://mail.sender.example.com/cp"


def kept(store) -> list:  # type: ignore[no-untyped-def, type-arg]
    with store.read() as connection:
        return list(connection.execute(select(inbox.c.kind, inbox.c.query, inbox.c.body)))


def test_without_a_key_in_the_settings_every_event_is_refused(store, settings, signer, serve) -> None:
    with serve(store, settings) as client:
        assert client.post(EVENTS, content=b"[]", headers=signer.sendgrid(b"[]")).status_code == 403
        form = {"MessageSid": "SM1", "MessageStatus": "sent"}
        headers = signer.twilio("http://127.0.0.1:8025" + STATUS, form)
        assert client.post(STATUS, data=form, headers=headers).status_code == 403
    assert kept(store) == []


@pytest.mark.parametrize("public", ["https://old.sender.example.com", PUBLIC])
def test_after_the_public_address_has_moved_callbacks_to_the_earlier_one_are_still_taken(
    signed_settings, world, signer, serve, public
) -> None:
    attempt = world.send([1], step_no=2)
    asked = f"{STATUS}?m={world.token(1, 2)}&a={attempt}"
    form = {"MessageSid": "SM" + "1" * 32, "MessageStatus": "delivered"}
    moved = signed_settings.model_copy(update={"earlier_public_urls": ("https://old.sender.example.com",)})
    with serve(world.store, moved) as client:
        answer = client.post(asked, content=urlencode(form), headers=signer.twilio(public + asked, form))
        assert answer.status_code == 204
        elsewhere = signer.twilio("https://other.sender.example.com" + asked, form)
        assert client.post(asked, content=urlencode(form), headers=elsewhere).status_code == 403
    tracking.apply_inbox(world.store)
    assert world.row(1, 2).state == MessageState.DELIVERED


def test_while_the_auth_token_is_rotated_posts_signed_with_the_earlier_one_are_still_taken(
    store, signed_settings, signer, serve
) -> None:
    form = {"MessageSid": "SM" + "1" * 32, "From": "+12025550123", "Body": "Hello"}
    sms = signed_settings.sms.model_copy(
        update={"auth_token": SecretStr("new"), "earlier_auth_tokens": (SecretStr(signer.auth_token),)}
    )
    headers = signer.twilio(PUBLIC + INBOUND, form)
    with serve(store, signed_settings.model_copy(update={"sms": sms})) as client:
        assert client.post(INBOUND, content=urlencode(form), headers=headers).status_code == 200
    with serve(
        store, signed_settings.model_copy(update={"sms": sms.model_copy(update={"earlier_auth_tokens": ()})})
    ) as client:
        assert client.post(INBOUND, content=urlencode(form), headers=headers).status_code == 403


def test_a_text_from_a_person_is_kept_and_never_answered_with_a_text(client, store, world, signer) -> None:
    form = {"MessageSid": "SM" + "2" * 32, "From": world.phone(1), "Body": "退订", "NumMedia": "0"}
    answer = client.post(INBOUND, content=urlencode(form), headers=signer.twilio(PUBLIC + INBOUND, form))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/xml")
    assert answer.text.endswith("<Response/>")
    tracking.apply_inbox(store)
    assert world.suppressed() == {world.sms_suppressed(1, "all", "stop")}


def test_when_the_store_fails_the_provider_is_asked_to_come_back(client, store, signer) -> None:
    with store.write() as connection:
        inbox.drop(connection)
    answer = client.post(EVENTS, content=b"[]", headers=signer.sendgrid(b"[]"))
    assert answer.status_code == 503
    assert client.get("/healthz").status_code == 503


def test_health_says_how_much_is_waiting(client, store, signer) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "waiting": 0}
    client.post(EVENTS, content=b"[]", headers=signer.sendgrid(b"[]"))
    assert client.get("/healthz").json() == {"status": "ok", "waiting": 1}


def test_no_address_and_no_token_reaches_a_log(client, world, signer, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    attempt = world.send()
    body = json.dumps([world.event("bounce", attempt=attempt, type="bounce")]).encode()
    client.post(EVENTS, content=body, headers=signer.sendgrid(body))
    client.post(EVENTS, content=body, headers={})
    client.post(EVENTS, content=b"p1@person.example.com", headers=signer.sendgrid(b"p1@person.example.com"))
    tracking.apply_inbox(world.store)
    ours = [record for record in caplog.records if record.name.startswith("commplan")]
    assert len(ours) >= 3
    told = " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
    assert "person.example.com" not in told
    assert world.token() not in told


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=20,
)
_FIELDS = st.sampled_from(
    ["event", "email", "timestamp", "sg_message_id", "cp_m", "cp_a", "type", "reason", "status", "url", "smtp-id"]
)
_EVENTS = st.lists(
    st.dictionaries(_FIELDS, _JSON | st.sampled_from(["bounce", "delivered", "dropped", 1764554400, "Invalid"]))
    | _JSON,
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_EVENTS)
def test_no_signed_events_whatever_they_say_break_the_receiver_or_hold_up_the_inbox(
    client, store, world, signer, events
) -> None:
    body = json.dumps(events).encode()
    assert client.post(EVENTS, content=body, headers=signer.sendgrid(body)).status_code == 204
    applied = tracking.apply_inbox(store)
    assert applied.posts == 1
    assert applied.unreadable + applied.new + applied.known + applied.foreign == len(events)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_no_signed_bytes_whatever_they_are_break_the_receiver(client, signer, body) -> None:
    assert client.post(EVENTS, content=body, headers=signer.sendgrid(body)).status_code in (204, 400)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.dictionaries(
        st.sampled_from(["MessageSid", "MessageStatus", "ErrorCode", "From", "Body", "OptOutType"]),
        st.text(max_size=40),
    )
)
def test_no_signed_form_whatever_it_says_breaks_the_receiver_or_holds_up_the_inbox(client, store, signer, form) -> None:
    for path in (STATUS, INBOUND):
        body = urlencode(form, errors="replace")
        headers = signer.twilio(PUBLIC + path, {k: v.encode("utf-8", "replace").decode() for k, v in form.items()})
        assert client.post(path, content=body, headers=headers).status_code in (200, 204, 400)
    tracking.apply_inbox(store)
    assert tracking.waiting(store) == 0
