"""The table of everything that providers post to: a hook that is added here passes the same contract as the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from commplan.ids import AttemptId
from commplan.terms import MessageState
from tests.listening.conftest import NUDGE, PUBLIC, Signer, World
from tests.listening.test_replies import reply_to
from tests.receipts import shapes
from tests.receipts.test_inbound import written


@dataclass(frozen=True, kw_only=True)
class Post:
    """One post; `asked` is path and query as they are sent."""

    asked: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One way in.

    `post` writes what it is about into `world` and makes a good post, which is answered with `answer` and kept as
    `kind` and `query`. Once applied, its `effect` is that of `after`. `sign` returns the headers that prove a post.
    `tampered` is what a forger would make of a signed one, `malformed` cannot be read though signed, and `not_utf8`
    has, with the answer to each, what is not UTF-8.
    """

    kind: str
    answer: int
    post: Callable[[World], Post]
    sign: Callable[[Signer, Post], dict[str, str]]
    query: Callable[[World], dict[str, str]]
    effect: Callable[[World], object]
    after: object
    tampered: Callable[[Post], list[Post]]
    malformed: Callable[[Post], list[Post]]
    not_utf8: Callable[[Post], list[tuple[Post, int]]]
    #: Bytes that are too many.
    too_large: int = 10 * 1024 * 1024

    def __str__(self) -> str:
        return self.kind


def _fields(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))


def _sign_events(signer: Signer, post: Post) -> dict[str, str]:
    return signer.sendgrid(post.body) | {"Content-Type": "application/json"}


def _sign_form(signer: Signer, post: Post) -> dict[str, str]:
    return signer.twilio(PUBLIC + post.asked, _fields(post.body))


_EVENTS = {shape.name: shape for shape in shapes.SENDGRID}
_STATUSES = {shape.name: shape for shape in shapes.TWILIO}
_TOLD = ("delivered", "click", "spamreport")
_MAIL, _STATUS, _TEXT, _ANSWERED = (AttemptId(letter * 32) for letter in "abcd")


def _events(world: World) -> Post:
    world.send(attempt_id=_MAIL)
    at = int(world.start.timestamp()) + 900
    events = [
        shapes.sendgrid(_EVENTS[name], email=world.email(seq), timestamp=at, cp_m=world.token(seq), cp_a=_MAIL)
        for seq, name in enumerate(_TOLD, start=1)
    ]
    return Post(asked="/hooks/sendgrid/events", body=json.dumps(events).encode() + b"\r\n")


def _states(world: World) -> list[tuple[str, bool, bool]]:
    rows = [world.row(seq) for seq in (1, 2, 3)]
    return [(row.state, row.clicked_at is not None, row.complained_at is not None) for row in rows]


def _not_utf8_events(post: Post) -> list[tuple[Post, int]]:
    # One name of a program that is not UTF-8 costs no event of the batch.
    spoilt = post.body.replace(b"Mozilla/5.0", b"Mozilla/5.0 \xff\xfe\xc3")
    assert spoilt != post.body
    return [(replace(post, body=spoilt), 204), (replace(post, body=b"\xff\xfe\x00"), 400)]


def _callback(world: World) -> Post:
    world.send([1], step_no=NUDGE, attempt_id=_STATUS)
    form = shapes.twilio_status(_STATUSES["delivered"], phone=world.phone(1), sid="SM" + "1" * 32)
    # Byte for byte as it was asked for, whatever a framework would make of it.
    asked = f"/hooks/twilio/status?m={world.token(1, NUDGE)}&a={_STATUS}&z=%2f+%E4%BD%A0"
    return Post(asked=asked, body=urlencode(form).encode())


def _reply(world: World) -> Post:
    world.send([1], step_no=NUDGE, attempt_id=_TEXT)
    form = shapes.twilio_inbound("退订", phone=world.phone(1), sid="SM" + "2" * 32)
    return Post(asked="/hooks/twilio/inbound", body=urlencode(form).encode())


def _mail(world: World) -> Post:
    world.send([1], attempt_id=_ANSWERED)
    body = written("退订", to=reply_to(world), sender=world.email(1))
    return Post(asked="/hooks/sendgrid/inbound", body=body)


def _opted_out_by_mail(world: World) -> Any:
    return world.row(1).opted_out_at is not None, {entry[2:] for entry in world.suppressed()}


def _not_utf8_mail(post: Post) -> list[tuple[Post, int]]:
    # In the charset that the form names, and in none: what says nothing readable is still somebody's mail.
    assert "退订".encode() in post.body
    named = post.body.replace("退订".encode(), "退订".encode("gb18030")).replace(b'"UTF-8"', b'"gb2312"')
    return [(replace(post, body=named), 200), (replace(post, body=b"\xff\xfe\x00"), 400)]


def _other_forms(post: Post) -> list[Post]:
    return [
        replace(post, body=post.body.replace(b"ApiVersion=2010-04-01", b"ApiVersion=2010-04-02")),
        replace(post, body=post.body + b"&Extra="),
        replace(post, asked=post.asked + ("&" if "?" in post.asked else "?") + "x=1"),
        replace(post, asked="/hooks/twilio/" + ("inbound" if "status" in post.asked else "status")),
    ]


def _without(post: Post, *names: str) -> Post:
    return replace(post, body=urlencode({k: v for k, v in _fields(post.body).items() if k not in names}).encode())


def _not_utf8_form(post: Post) -> list[tuple[Post, int]]:
    # Nothing that Twilio signs is like that.
    return [(replace(post, body=post.body + more), 403) for more in (b"&Body=\xff\xfe", b"&Body=%ff%fe")]


def _statused(world: World) -> Any:
    row = world.row(1, NUDGE)
    return row.state, row.delivered_at is not None, row.provider_id


def _opted_out(world: World) -> Any:
    return world.row(1, NUDGE).opted_out_at is not None, [entry[2:] for entry in world.suppressed()]


HOOKS = (
    Hook(
        kind="sendgrid.events",
        answer=204,
        post=_events,
        sign=_sign_events,
        query=lambda world: {},
        effect=_states,
        after=[
            (MessageState.DELIVERED, False, False),
            (MessageState.ACCEPTED, True, False),
            (MessageState.ACCEPTED, False, True),
        ],
        tampered=lambda post: [
            replace(post, body=post.body.replace(b'"delivered"', b'"bounce"')),
            replace(post, body=post.body.rstrip()),
            replace(post, headers={**post.headers, "X-Twilio-Email-Event-Webhook-Timestamp": "1764554401"}),
            *(
                replace(post, headers={**post.headers, "X-Twilio-Email-Event-Webhook-Signature": other})
                for other in ("", "!!!", "AAAA")
            ),
        ],
        malformed=lambda post: [
            replace(post, body=body)
            for body in (b"", b"{", post.body[:-5], b'{"event":"open"}', b"[" * 5000, b"null", b"1" * 10_000)
        ],
        not_utf8=_not_utf8_events,
    ),
    Hook(
        kind="sendgrid.inbound",
        answer=200,
        post=_mail,
        sign=_sign_events,
        query=lambda world: {},
        effect=_opted_out_by_mail,
        after=(True, {("getting-started", "unsubscribed")}),
        tampered=lambda post: [
            replace(post, body=post.body.replace(b"Re: Welcome", b"Re: welcome")),
            replace(post, body=post.body + b" "),
            replace(post, headers={**post.headers, "X-Twilio-Email-Event-Webhook-Timestamp": "1764554401"}),
        ],
        malformed=lambda post: [
            replace(post, body=body) for body in (b"", b"{", post.body.replace(b'"headers"', b'"Headers"'), b"--\r\n")
        ],
        not_utf8=_not_utf8_mail,
        too_large=32 * 1024 * 1024,
    ),
    Hook(
        kind="twilio.status",
        answer=204,
        post=_callback,
        sign=_sign_form,
        query=lambda world: {"m": world.token(1, NUDGE), "a": _STATUS, "z": "/ 你"},
        effect=_statused,
        after=(MessageState.DELIVERED, True, "SM" + "1" * 32),
        tampered=_other_forms,
        malformed=lambda post: [_without(post, "MessageStatus"), _without(post, "MessageSid"), replace(post, body=b"")],
        not_utf8=_not_utf8_form,
    ),
    Hook(
        kind="twilio.inbound",
        answer=200,
        post=_reply,
        sign=_sign_form,
        query=lambda world: {},
        effect=_opted_out,
        after=(True, [("all", "stop")]),
        tampered=_other_forms,
        malformed=lambda post: [_without(post, "From"), _without(post, "MessageSid"), replace(post, body=b"")],
        not_utf8=_not_utf8_form,
    ),
)
