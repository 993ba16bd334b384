"""Answers by mail find the message they answer, opt out who asks for it, and weigh nothing if a machine wrote them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import select, update

from commplan import returnaddress, tracking
from commplan.ids import TokenPurpose
from commplan.store.tables import attempts, audit, inbox, receipts, replies
from commplan.terms import AutoWhy
from commplan.tracking import PostKind
from commplan.tracking.consequence import OBJECTION
from commplan.web.app import MAX_MAIL
from tests.receipts.test_inbound import post, written

INBOUND = "/hooks/sendgrid/inbound"
DOMAIN = "reply.sender.example.com"
NUDGE, SURVEY = 2, 3


def reply_to(world, seq: int = 1, step_no: int = 1) -> str:
    token = world.store.keyring.token(TokenPurpose.REPLY, world.ref(seq, step_no))
    return returnaddress.reply_address(returnaddress.tag_of(token), DOMAIN)


def mailed(world, text: str = "Thank you", **fields: str) -> tracking.Applied:
    """Let Inbound Parse post a mail, and apply it."""
    body = written(text, **{"to": reply_to(world), "sender": world.email(1), **fields})
    tracking.append(world.store, kind=PostKind.SENDGRID_INBOUND, query={}, body=body)
    return tracking.apply_inbox(world.store)


def kept(world) -> list[Any]:
    with world.store.read() as connection:
        return list(connection.execute(select(replies).order_by(replies.c.reply_id)))


def name_request(world, attempt: str, request_id: str) -> None:
    with world.store.write() as connection:
        connection.execute(update(attempts).where(attempts.c.attempt_id == attempt).values(provider_id=request_id))


@pytest.fixture
def hearing_settings(signed_settings, signer):  # type: ignore[no-untyped-def]
    email = signed_settings.email.model_copy(
        update={
            "webhook_keys": (),
            "inbound_domain": DOMAIN,
            "inbound_keys": (type(signer)().public_key, signer.public_key),
        }
    )
    return signed_settings.model_copy(update={"email": email})


def test_a_signed_mail_is_kept_without_its_files_and_then_applied(world, signer, serve, hearing_settings) -> None:
    world.send()
    fields = {"headers": "", "to": reply_to(world, 2), "from": world.email(2), "text": "See the picture"}
    body = post(fields, files={"attachment1": b"\xff\xd8" * 4_000_000})
    with serve(world.store, hearing_settings) as client:
        assert client.post(INBOUND, content=body, headers=signer.sendgrid(body)).status_code == 200
    with world.store.read() as connection:
        (row,) = connection.execute(select(inbox)).all()
    assert (row.kind, len(row.body) < 1_000) == ("sendgrid.inbound", True)
    tracking.apply_inbox(world.store)
    assert [row.text for row in kept(world)] == ["See the picture"]
    assert world.row(2).replied_at is not None


def test_a_mail_that_is_not_signed_with_a_key_of_inbound_parse_is_refused(
    world, signer, serve, hearing_settings
) -> None:
    body = written()
    good = signer.sendgrid(body)
    with serve(world.store, hearing_settings) as client:
        for tried, headers in (
            (body, {}),
            (body, type(signer)().sendgrid(body)),
            (body + b" ", good),
            (body, {**good, "X-Twilio-Email-Event-Webhook-Timestamp": "1764554401"}),
            (body, {**good, "X-Twilio-Email-Event-Webhook-Signature": "é".encode()}),
        ):
            assert client.post(INBOUND, content=tried, headers=headers).status_code == 403
        assert client.post("/hooks/sendgrid/events", content=b"[]", headers=signer.sendgrid(b"[]")).status_code == 403
        assert client.post(INBOUND, content=b"no mail", headers=signer.sendgrid(b"no mail")).status_code == 400
        zipped = {**good, "Content-Encoding": "gzip"}
        assert client.post(INBOUND, content=body, headers=zipped).status_code == 415
        assert client.post(INBOUND, content=b"x" * (MAX_MAIL + 1)).status_code == 413
    assert tracking.waiting(world.store) == 0


def test_without_keys_nothing_is_believed(world, signer, client) -> None:
    body = written()
    assert client.post(INBOUND, content=body, headers=signer.sendgrid(body)).status_code == 403


def test_an_answer_belongs_to_the_message_whose_address_it_came_to_whoever_sends_it(world) -> None:
    world.send()
    world.send(step_no=SURVEY)
    mailed(world, "Works!", to=reply_to(world, 2), sender="private@person.example.com")
    (row,) = kept(world)
    assert (row.step_no, row.seq, row.channel, row.text) == (1, 2, "email", "Works!")
    assert (row.auto_why, row.inferred) == (None, False)
    assert world.row(2).replied_at is not None
    assert world.row(2, SURVEY).replied_at is None


def test_the_same_mail_posted_twice_is_one_answer(world) -> None:
    world.send()
    assert mailed(world).new == 1
    assert mailed(world).known == 1
    assert len(kept(world)) == 1


def test_without_a_readable_address_the_mails_it_refers_to_tell(world) -> None:
    first, second = world.send(), world.send(step_no=SURVEY)
    name_request(world, first, "Xj5LrecvdXabcdef012345")
    name_request(world, second, "BBBBrecvdXabcdef012345")
    lost = f"r+{'a' * 26}@{DOMAIN}"
    mailed(world, to=lost, sender=world.email(3), headers="In-Reply-To: <Xj5LrecvdXabcdef012345@geopod-ismtpd-1>")
    (row,) = kept(world)
    assert (row.step_no, row.seq, row.inferred) == (1, 3, False)


def test_an_answer_to_a_request_with_one_message_needs_no_known_sender(world) -> None:
    name_request(world, world.send([2]), "Xj5LrecvdXabcdef012345")
    name_request(world, world.send([1, 3]), "BBBBrecvdXabcdef012345")
    for request in ("Xj5LrecvdXabcdef012345", "BBBBrecvdXabcdef012345"):
        headers = f"Message-ID: <{request}@x>\nReferences: <{request}@geopod-ismtpd-1>"
        mailed(world, request, to=f"lost@{DOMAIN}", sender="private@person.example.com", headers=headers)
    assert [row.seq for row in kept(world)] == [2, None]


def test_without_either_an_answer_belongs_to_the_newest_message_to_its_sender_and_is_marked(world) -> None:
    world.send()
    world.send(step_no=SURVEY, at=world.start.replace(microsecond=1))
    mailed(world, to=f"lost@{DOMAIN}", sender=world.email(2).upper())
    (row,) = kept(world)
    assert (row.step_no, row.seq, row.inferred) == (SURVEY, 2, True)


def test_an_answer_of_nobody_we_know_is_kept_and_belongs_to_no_message(world) -> None:
    world.send()
    mailed(world, to=f"lost@{DOMAIN}", sender="stranger@person.example.com")
    (row,) = kept(world)
    assert (row.run_id, row.text) == (None, "Thank you")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"headers": "Auto-Submitted: auto-replied"}, AutoWhy.HEADER),
        ({"subject": "自动回复：欢迎"}, AutoWhy.SUBJECT),
        ({"return_path": ""}, AutoWhy.RETURN_PATH),
        ({"sender": "mailer-daemon@person.example.com"}, AutoWhy.SENDER),
    ],
)
def test_a_machines_answer_is_kept_and_marked_and_is_no_response(world, made, why) -> None:
    world.send()
    mailed(world, "I am away; to unsubscribe write to my deputy", **made)
    (row,) = kept(world)
    assert (row.auto_why, row.seq) == (why, 1)
    assert world.row().replied_at is None
    assert world.suppressed() == set()


@pytest.mark.parametrize("said", ["STOP", "Unsubscribe", "退订"])
def test_a_mail_that_says_nothing_but_stop_opts_out_of_what_it_answers_on_every_channel(world, said) -> None:
    world.send()
    quoted = f"{said}\n\nOn Tue, Dec 1, 2026 at 10:00 AM Kite <hello@sender.example.com> wrote:\n> Welcome"
    mailed(world, quoted, sender="private@person.example.com")
    assert world.suppressed() == {world.email_suppressed(1, "getting-started", "unsubscribed")}
    assert world.people_suppressed() == {("all", 1, "getting-started", "unsubscribed")}
    assert world.row().opted_out_at is not None
    assert world.row().replied_at is None
    assert kept(world) == []


def test_an_opt_out_that_cannot_be_placed_stops_everything_to_its_sender(world) -> None:
    mailed(world, "STOP", to=f"lost@{DOMAIN}", sender="stranger@person.example.com")
    key = world.store.keyring.address_key("email", "stranger@person.example.com")
    assert world.suppressed() == {("email", key, "all", "unsubscribed")}


def test_a_mail_to_the_opt_out_address_of_a_message_opts_out_whatever_it_says(world) -> None:
    world.send()
    stop = world.store.keyring.token(TokenPurpose.UNSUBSCRIBE, world.ref(2))
    mailed(world, "", to=returnaddress.unsubscribe_address(stop, DOMAIN), sender="private@person.example.com")
    assert world.people_suppressed() == {("all", 2, "getting-started", "unsubscribed")}


def test_a_token_for_answers_opens_no_opt_out_and_the_other_way_round(world) -> None:
    world.send()
    tag = reply_to(world, 2)[2:]
    mailed(world, "Hello", to=f"u+{tag}", sender="stranger@person.example.com")
    assert world.people_suppressed() == set()
    assert world.row(2).replied_at is None


def test_a_word_inside_a_longer_mail_stops_marketing_until_the_owner_decides(world) -> None:
    world.send()
    mailed(world, "Please STOP sending these to my work address", sender="private@person.example.com")
    assert world.suppressed() == {world.email_suppressed(1, "marketing", "unsubscribed")}
    assert world.row().replied_at is not None
    with world.store.read() as connection:
        assert connection.execute(select(audit.c.run_id).where(audit.c.what == OBJECTION)).scalars().all() == [
            world.run_id
        ]


def test_a_word_in_what_a_mail_quotes_says_nothing(world) -> None:
    world.send()
    mailed(world, "Great!\n\n-----Original Message-----\nReply STOP to unsubscribe")
    assert world.suppressed() == set()
    assert [row.text for row in kept(world)] == ["Great!"]


def test_a_mail_that_cannot_be_read_is_counted_and_holds_up_no_other(world) -> None:
    world.send()
    tracking.append(world.store, kind=PostKind.SENDGRID_INBOUND, query={}, body=b"no mail")
    applied = mailed(world)
    assert (applied.posts, applied.unreadable, applied.new) == (2, 1, 1)


def test_no_address_of_a_mail_reaches_a_log_or_the_receipts(world, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    world.send()
    mailed(world, "My number is +12025550199", sender="private@person.example.com")
    told = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records if "commplan" in record.name)
    with world.store.read() as connection:
        told += repr(connection.execute(select(receipts)).all())
    assert not any(private in told for private in ("private@", "2025550199", DOMAIN))
