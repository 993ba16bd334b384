"""Mail of simulated people is posted as Inbound Parse posts it: signed, whole, and until somebody takes it."""

from __future__ import annotations

import pytest

from commplan.receipts import mail, sendgrid
from commplan.terms import AutoWhy, ReceiptKind

REPLY_TO = "r+cprx@reply.sender.example.com"
INBOUND = "/hooks/sendgrid/inbound"


def answerable(sandbox, *people: str, subject: str = "Welcome", text: str = "Welcome.\nReply STOP to end."):
    body = sandbox.mail(*people, subject=subject, reply_to={"email": REPLY_TO})
    body["content"] = [{"type": "text/plain", "value": text}]
    for number, personalization in enumerate(body["personalizations"]):
        personalization["substitutions"] = {"cprx": f"{number}" * 26}
        personalization["headers"] = {
            "List-Unsubscribe": f"<https://x.example.com/u>, <mailto:u+{number}@reply.example.com>"
        }
    return body


def heard(receiver, public_key):
    posts = receiver.to(INBOUND)
    for post in posts:
        headers = {name.lower(): value for name, value in post.headers.items()}
        assert headers["content-type"] == "multipart/form-data; boundary=xYzZY"
        sendgrid.verify(post.body, headers, [public_key])
    return [mail.parse(post.body) for post in posts]


@pytest.mark.parametrize("subject", ["Welcome", "欢迎使用"])
def test_an_answer_goes_to_the_persons_own_address_and_quotes_what_it_answers(start, receiver, public_key, subject):
    sandbox = start()
    sandbox.post(answerable(sandbox, "silent@person.example.com", "reply@person.example.com", subject=subject))
    truth = sandbox.settle()[1]
    (receipt,) = heard(receiver, public_key)
    (post,) = receiver.to(INBOUND)
    assert (truth["replied"], truth["auto_replied"]) == (True, False)
    assert receipt.kind is ReceiptKind.REPLIED
    assert receipt.address == "reply@person.example.com"
    assert receipt.references == (truth["request_id"],)
    assert ("1" * 26).encode() in post.body
    assert b"> Reply STOP to end." in post.body
    assert receipt.text
    assert "STOP" not in receipt.text


def test_stop_and_absence_notes_come_as_such(start, receiver, public_key):
    sandbox = start()
    people = ("stop@person.example.com", "away.1@person.example.com", "away.2@person.example.com")
    sandbox.post(answerable(sandbox, *people))
    stopped, *away = sandbox.settle()
    found = {receipt.address: receipt for receipt in heard(receiver, public_key)}
    assert (stopped["opted_out"], stopped["replied"]) == (True, False)
    assert found[people[0]].kind is ReceiptKind.OPTED_OUT
    for truth in away:
        assert (truth["auto_replied"], truth["replied"]) == (True, False)
        assert found[truth["to"]].kind is ReceiptKind.AUTO_REPLIED
        assert found[truth["to"]].auto_why in (AutoWhy.HEADER, AutoWhy.SUBJECT)


def test_without_an_address_for_answers_nobody_is_heard(start, receiver):
    sandbox = start()
    sandbox.post(sandbox.mail("reply@person.example.com", "stop@person.example.com", "away@person.example.com"))
    sandbox.settle()
    assert receiver.to(INBOUND) == []


def test_a_mail_that_is_not_taken_is_posted_again(start, receiver, public_key):
    sandbox = start()
    receiver.refuse, receiver.refuse_at = 2, INBOUND
    sandbox.post(answerable(sandbox, "reply@person.example.com"))
    sandbox.settle()
    assert len({receipt.key for receipt in heard(receiver, public_key)}) == 1
    assert len(receiver.to(INBOUND)) == 3


def test_in_a_crowd_some_answer_some_are_away_and_some_unsubscribe_by_mail(start, receiver, public_key):
    sandbox = start()
    for at in range(0, 1500, 500):
        sandbox.post(answerable(sandbox, *(f"p{seq}@person.example.com" for seq in range(at, at + 500))))
    truth = sandbox.settle()
    kinds = [receipt.kind for receipt in heard(receiver, public_key)]
    assert kinds.count(ReceiptKind.REPLIED) == sum(one["replied"] for one in truth) > 10
    assert kinds.count(ReceiptKind.AUTO_REPLIED) == sum(one["auto_replied"] for one in truth) > 20
    by_mail = sum(b"u+" in post.body[:600] for post in receiver.to(INBOUND))
    assert kinds.count(ReceiptKind.OPTED_OUT) == sum(one["opted_out"] for one in truth) + by_mail
    assert by_mail > 0
