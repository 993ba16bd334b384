"""Event webhooks: signed, batched, disordered, repeated, and never lost."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import httpx
from sendgrid.helpers.eventwebhook import EventWebhook

from commplan.receipts import mail, sendgrid, twilio
from commplan.terms import ReceiptKind

SIGNATURE, STAMP = "X-Twilio-Email-Event-Webhook-Signature", "X-Twilio-Email-Event-Webhook-Timestamp"


def verify(public_key, post):
    webhook = EventWebhook()
    return webhook.verify_signature(
        post.body.decode(),
        post.headers[SIGNATURE],
        post.headers[STAMP],
        webhook.convert_public_key_to_ecdsa(public_key),
    )


def lowered(post):
    return {name.lower(): value for name, value in post.headers.items()}


def test_events_carry_the_custom_args_and_verify_with_the_real_sdk(start, receiver, public_key):
    sandbox = start()
    body = sandbox.mail("open@person.example.com", categories=["onboarding"])
    body["personalizations"][0]["custom_args"]["event"] = "a reserved name"
    sandbox.post(body)
    (truth,) = sandbox.settle()
    assert sorted(event["event"] for event in receiver.events()) == ["delivered", "open", "processed"]
    for event in receiver.events():
        assert (event["cp_m"], event["cp_a"], event["category"]) == ("m0", "attempt", "onboarding")
        assert event["sg_message_id"] == truth["provider_id"]
        assert isinstance(event["timestamp"], int)
        assert abs(event["timestamp"] - datetime.fromisoformat(truth["times"]["accepted"]).timestamp()) < 86_400
    for post in receiver.to("/hooks/sendgrid/events"):
        assert post.body.endswith(b"]\r\n")
        assert verify(public_key, post)
        post.body = post.body.rstrip()
        assert not verify(public_key, post)


def test_an_outage_of_the_receiver_loses_no_event(start, receiver, public_key):
    sandbox = start(calm=False, stray_share=0.2, stray_hours=24)
    receiver.refuse = 3
    people = [f"person{number}@person.example.com" for number in range(200)]
    assert sandbox.post(sandbox.mail(*people)).status_code == 202
    truth = sandbox.settle()
    ids = {message["provider_id"]: message for message in truth}
    told = {(event["sg_message_id"], event["event"]) for event in receiver.events() if event["sg_message_id"] in ids}
    for sg_message_id, message in ids.items():
        for happening in ("processed", "delivered", "deferred"):
            assert message[happening] == ((sg_message_id, happening) in told)
        assert (message["opened"] or message["machine_opened"]) == ((sg_message_id, "open") in told)
    posts = receiver.to("/hooks/sendgrid/events")
    assert all(verify(public_key, post) for post in posts)
    assert receiver.refuse == 0


def test_repeated_posts_change_their_event_ids_and_keep_their_timestamp(start, receiver):
    sandbox = start(event_ids_change=True, retries_resigned=False)
    receiver.refuse = 1
    sandbox.post(sandbox.mail("silent@person.example.com"))
    sandbox.settle()
    first, second = [post for post in receiver.to("/hooks/sendgrid/events") if b"processed" in post.body]
    assert first.headers[STAMP] == second.headers[STAMP]
    one, other = json.loads(first.body)[0], json.loads(second.body)[0]
    assert one.pop("sg_event_id") != other.pop("sg_event_id")
    assert one == other


def test_duplicates_and_foreign_events_come_in_the_share_asked_for(start, receiver):
    sandbox = start(duplicate_share=1.0, foreign_share=1.0)
    sandbox.post(sandbox.mail("silent@person.example.com"))
    (truth,) = sandbox.settle()
    counts = Counter(event["event"] for event in receiver.events() if event["sg_message_id"] == truth["provider_id"])
    assert counts == {"processed": 2, "delivered": 2}
    foreign = [event for event in receiver.events() if event["sg_message_id"] != truth["provider_id"]]
    assert len(foreign) == len(receiver.to("/hooks/sendgrid/events"))
    assert all("cp_m" not in event for event in foreign)


def test_the_providers_clock_may_be_ahead(start, receiver):
    sandbox = start(factor=86_400, clock_offset=600)
    sandbox.post(sandbox.mail("silent@person.example.com"))
    (truth,) = sandbox.settle()
    (event,) = receiver.events("delivered")
    delivered = datetime.fromisoformat(truth["times"]["delivered"]).astimezone(UTC).timestamp()
    assert event["timestamp"] == int(delivered + 600)


def test_the_product_reads_everything_that_is_posted(start, receiver, public_key):
    sandbox = start(people={"+12025550123": "stop", "+12025550124": "undelivered"})
    roles = ("click", "spam", "bounce", "block", "defer", "scanner", "reply", "away")
    body = sandbox.mail(*(f"{role}@person.example.com" for role in roles), reply_to={"email": "r@reply.example.com"})
    body["content"][1]["value"] = f'<a href="{receiver.url}/x/1">x</a>'
    sandbox.post(body)
    for number in ("+12025550123", "+12025550124"):
        sandbox.text(To=number, StatusCallback=f"{receiver.url}/hooks/twilio/status?m=token&a=attempt#rc=5&rp=all")
    sandbox.settle()
    kinds = set()
    for post in receiver.to("/hooks/sendgrid/events"):
        sendgrid.verify(post.body, lowered(post), [public_key])
        parsed = sendgrid.parse(post.body)
        assert parsed.unreadable == 0
        kinds |= {receipt.kind for receipt in parsed.receipts}
    for post in receiver.to("/hooks/sendgrid/inbound"):
        sendgrid.verify(post.body, lowered(post), [public_key])
        kinds.add(mail.parse(post.body).kind)
    for post in receiver.to("/hooks/twilio/"):
        twilio.verify([receiver.url + post.path], post.body, lowered(post), [sandbox.config.auth_token])
        form = twilio.read_form(post.body)
        is_status = post.path.startswith("/hooks/twilio/status")
        query = {"m": "token", "a": "attempt"}
        kinds.add((twilio.parse_status(query, form) if is_status else twilio.parse_inbound(form)).kind)
    assert kinds == set(ReceiptKind) - {
        ReceiptKind.DROPPED, ReceiptKind.OPTED_IN, ReceiptKind.ANSWERED, ReceiptKind.IGNORED,
        ReceiptKind.MACHINE_OPENED,
    }  # fmt: skip


def hooks(sandbox, method, path, **json):
    headers = {"Authorization": "Bearer SG.of-the-tests"}
    url = f"{sandbox.url}/v3/user/webhooks/event/{path}"
    return httpx.request(method, url, headers=headers, trust_env=False, **({"json": json} if json else {}))


def test_events_that_are_switched_off_are_told_to_nobody_and_the_settings_say_so(start, receiver, public_key):
    sandbox = start(events_off=("delivered", "click"))
    sandbox.post(sandbox.mail("open@person.example.com"))
    sandbox.settle()
    assert {event["event"] for event in receiver.events()} == {"processed", "open"}
    (hook,) = hooks(sandbox, "GET", "settings/all").json()["webhooks"]
    assert {name for name, value in hook.items() if value is False} == {"delivered", "click", "account_status_change"}
    assert (hook["enabled"], hook["url"]) == (True, f"{receiver.url}/hooks/sendgrid/events")
    assert hook["public_key"] == public_key
    assert httpx.get(f"{sandbox.url}/v3/user/webhooks/event/settings/all", trust_env=False).status_code == 401


def test_a_test_of_the_webhook_is_one_signed_post_to_the_address_asked_for_and_is_not_repeated(
    start, receiver, public_key
):
    sandbox = start()
    url = f"{receiver.url}/hooks/sendgrid/events?beat=one"
    receiver.refuse = 1
    assert hooks(sandbox, "POST", "test", url=url).status_code == 204
    sandbox.settle()
    assert hooks(sandbox, "POST", "test", url=url.replace("one", "two")).status_code == 204
    sandbox.settle()
    posts = receiver.to("/hooks/sendgrid/events")
    assert [post.path.partition("?")[2] for post in posts] == ["beat=one", "beat=two"]
    assert all(verify(public_key, post) for post in posts)
    assert hooks(sandbox, "POST", "test", url="https://elsewhere.example.com/").status_code == 400
    assert hooks(sandbox, "POST", "test", url=url, id="of nobody").status_code == 404


def test_while_the_feed_is_down_events_are_kept_and_tests_and_callbacks_are_lost(start, receiver):
    sandbox = start()

    def cut(down):
        return httpx.post(f"{sandbox.url}/sandbox/feed", json={"down": down}, trust_env=False).status_code

    assert (cut(True), cut("yes")) == (204, 400)
    sandbox.post(sandbox.mail("silent@person.example.com"))
    hooks(sandbox, "POST", "test", url=f"{receiver.url}/hooks/sendgrid/events?beat=one")
    sandbox.text(StatusCallback=f"{receiver.url}/hooks/twilio/status#rc=0")
    sandbox.until(lambda: sandbox.summary()["callbacks_given_up"] == 2)
    assert receiver.requests == []
    assert cut(False) == 204
    sandbox.settle()
    assert sorted(event["event"] for event in receiver.events()) == ["delivered", "processed"]
    assert receiver.to("/hooks/twilio") == []
