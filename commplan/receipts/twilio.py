"""Twilio's webhooks: who signed a post, what a status callback says, and what a person wrote back.

Never trusts a field before `verify`, and never takes a word inside a longer message for an opt-out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import product
from urllib.parse import parse_qsl

from twilio.request_validator import SIGNATURE_SETTINGS_HEADER, RequestValidator, get_signature_algorithm

from commplan.errors import ForgedError, UnreadableError
from commplan.receipts.base import Receipt, clean, natural_key, text_of
from commplan.terms import ReceiptKind as Kind

SIGNATURE_HEADER = "x-twilio-signature"

#: Twilio's message status → ours. Statuses before the carrier has the message change nothing but prove acceptance.
_STATUSES: Mapping[str, Kind] = {
    "accepted": Kind.PROCESSED,
    "scheduled": Kind.PROCESSED,
    "queued": Kind.PROCESSED,
    "sending": Kind.PROCESSED,
    "sent": Kind.SENT,
    "delivered": Kind.DELIVERED,
    "read": Kind.OPENED,
    "undelivered": Kind.UNDELIVERED,
    "failed": Kind.UNDELIVERED,
    "canceled": Kind.UNDELIVERED,
}
#: Whole messages that opt out: Twilio's and the carriers' words, those the FCC names, and the Chinese ones.
STOP_WORDS = frozenset(
    {"stop", "stopall", "stop all", "unsubscribe", "end", "quit", "cancel", "revoke", "optout", "opt out", "opt-out"}
    | {"td", "t", "退订", "退訂"}
)
#: Whole messages that opt in again. Not "yes", which Twilio also takes: to us it may be an answer.
START_WORDS = frozenset({"start", "unstop"})
#: Whole messages that ask who is writing; the provider answers them.
HELP_WORDS = frozenset({"help", "info"})
_OPT_OUT_TYPES: Mapping[str, Kind] = {"STOP": Kind.OPTED_OUT, "START": Kind.OPTED_IN, "HELP": Kind.IGNORED}
_ERROR_CODE = re.compile(r"^\d{5}$")


class Form(dict[str, list[str]]):
    """The fields of a form post; one name may come several times."""

    def getlist(self, name: str) -> list[str]:
        """Return every value of a field, in order (what the provider's validator asks for)."""
        return self.get(name, [])

    def one(self, name: str) -> str:
        """Return the first value of a field, empty when it is missing."""
        return self.get(name, [""])[0]


def read_form(body: bytes) -> Form:
    """Return the fields of a form body, blank values included; UnreadableError if it is not one."""
    form = Form()
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=500, separator="&"
        )
    except ValueError:
        raise UnreadableError("a post to a Twilio webhook is not a form") from None
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def verify(urls: Iterable[str], body: bytes, headers: Mapping[str, str], auth_tokens: Iterable[str]) -> None:
    """See that Twilio signed this post: HMAC over the address it was sent to and every form field.

    `urls` are the public addresses it may have been sent to, with the query string byte for byte as it came, without a
    fragment; `auth_tokens` those it may be signed with; `headers` has lower-case names. Raises ForgedError, whatever
    went wrong.
    """
    signature, ways = headers.get(SIGNATURE_HEADER), [*product(filter(None, auth_tokens), urls)]
    if not signature:
        raise ForgedError("a post to a Twilio webhook carries no signature", why="unsigned")
    if not ways:
        raise ForgedError("a post to a Twilio webhook cannot be verified: set COMMPLAN_SMS__AUTH_TOKEN", why="no_key")
    algorithm = get_signature_algorithm(headers.get(SIGNATURE_SETTINGS_HEADER.lower(), ""))
    try:
        form = read_form(body)
        good = any(RequestValidator(token).validate(url, form, signature, algorithm) for token, url in ways)
    except (UnreadableError, ValueError, TypeError):
        good = False
    if not good:
        raise ForgedError("a post to a Twilio webhook is not signed with COMMPLAN_SMS__AUTH_TOKEN for this address")


def parse_status(query: Mapping[str, str], form: Form) -> Receipt:
    """Return what a status callback says; `query` names the message (`m`) and the attempt (`a`).

    Twilio tells no time and keeps no order, so one status of one message is one fact. Raises UnreadableError when
    the message or its status is missing.
    """
    status, sid = clean(form.one("MessageStatus")).lower(), clean(form.one("MessageSid"))
    if not status or not sid:
        raise UnreadableError("a signed status callback names no message or no status")
    kind = _STATUSES.get(status, Kind.IGNORED)
    code = form.one("ErrorCode")
    token, attempt_id = text_of(query, "m"), text_of(query, "a")
    return Receipt(
        key=natural_key("twilio", "status", sid, status, token or "", attempt_id or ""),
        source="twilio",
        kind=kind,
        token=token,
        attempt_id=attempt_id,
        provider_id=sid,
        code=code if _ERROR_CODE.match(code) else (status[:40] if kind is Kind.IGNORED else None),
    )


def parse_inbound(form: Form) -> Receipt:
    """Return what a person wrote: an opt-out, an opt-in, a call for help, or a reply.

    Twilio's own judgement (`OptOutType`) counts first; else a message that is nothing but a keyword. Raises
    UnreadableError when the sender or the message's id is missing.
    """
    sid, sender = clean(form.one("MessageSid")), clean(form.one("From"))
    if not sid or not sender:
        raise UnreadableError("a signed inbound message names no sender or no id")
    body = clean(form.one("Body"), 2_000)
    kind = _OPT_OUT_TYPES.get(form.one("OptOutType").upper())
    return Receipt(
        key=natural_key("twilio", "inbound", sid),
        source="twilio",
        kind=kind or judge(body),
        provider_id=sid,
        address=sender,
        text=body,
    )


def parse_listed(form: Form) -> Receipt:
    """Return what a person wrote, as Twilio's list shows it: the fact that `parse_inbound` returns, with its time.

    `At` is in ISO 8601. UnreadableError as there, or without such a time.
    """
    try:
        at = datetime.fromisoformat(form.one("At"))
    except ValueError:
        raise UnreadableError("a listed message tells no time") from None
    return replace(parse_inbound(form), at=at)


def judge(body: str) -> Kind:
    """Return what a message means as a whole: width, case, and punctuation or spaces around it do not matter."""
    word = unicodedata.normalize("NFKC", body).casefold()
    word = " ".join("".join(c if c.isalnum() or c == "-" else " " for c in word).split()).strip("-")
    if word in STOP_WORDS:
        return Kind.OPTED_OUT
    if word in START_WORDS:
        return Kind.OPTED_IN
    return Kind.IGNORED if word in HELP_WORDS else Kind.REPLIED
