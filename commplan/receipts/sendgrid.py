"""SendGrid's event webhook: who signed a post, and what its events say.

Never trusts a byte before `verify`, and never lets one unreadable event cost its neighbours.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from commplan.errors import ForgedError, UnreadableError
from commplan.receipts.agent import classify, is_machine
from commplan.receipts.base import Parsed, Receipt, moment, natural_key, text_of, url_key
from commplan.terms import AgentClass, MachineWhy
from commplan.terms import ReceiptKind as Kind

SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"

#: SendGrid's word for an event → ours; `bounce` and `open` are told apart further by a field of theirs.
_KINDS: Mapping[str, Kind] = {
    "processed": Kind.PROCESSED,
    "deferred": Kind.DEFERRED,
    "delivered": Kind.DELIVERED,
    "bounce": Kind.BOUNCED,
    "blocked": Kind.BLOCKED,
    "dropped": Kind.DROPPED,
    "open": Kind.OPENED,
    "click": Kind.CLICKED,
    "spamreport": Kind.COMPLAINED,
    "unsubscribe": Kind.OPTED_OUT,
    "group_unsubscribe": Kind.OPTED_OUT,
    "group_resubscribe": Kind.OPTED_IN,
}
#: Kinds that tell which program it was.
_REACTIONS = frozenset({Kind.OPENED, Kind.MACHINE_OPENED, Kind.CLICKED})
#: Why SendGrid drops a message it has accepted, in its words → in ours (`Receipt.code`).
_DROPS: Mapping[str, str] = {
    "bounced address": "bounced_address",
    "invalid": "invalid",
    "unsubscribed address": "unsubscribed_address",
    "spam reporting address": "spam_reporting_address",
    "recipient list over package quota": "over_quota",
}
_ENHANCED_STATUS = re.compile(r"^\d\.\d{1,3}\.\d{1,3}$")


@lru_cache(maxsize=16)
def _public_key(text: str) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(b64decode(text, validate=True))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic-curve key")
    return key


def verify(
    body: bytes,
    headers: Mapping[str, str],
    public_keys: Sequence[str],
    *,
    of: str = "the event webhook",
    setting: str = "WEBHOOK_KEYS",
) -> None:
    """See that SendGrid signed exactly these bytes: ECDSA over the timestamp header and the raw body.

    `headers` has lower-case names. Any of `public_keys` (base64 DER) may have signed, so a key can be rotated
    without losing a post. The timestamp's age is not judged: retries go on for 24 hours, and repeated facts
    change nothing. Raises ForgedError for whatever else, whatever went wrong; `of` says what was posted to. Inbound
    Parse is signed in the same way, by another key.
    """
    try:
        signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
        signed = headers[TIMESTAMP_HEADER].encode("ascii") + body
    except (KeyError, ValueError):
        raise ForgedError(f"a post to {of} carries no readable signature", why="unsigned") from None
    for text in public_keys:
        try:
            _public_key(text).verify(signature, signed, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError, TypeError):
            continue
        return
    raise ForgedError(
        f"a post to {of} is signed by none of COMMPLAN_EMAIL__{setting}",
        why="wrong_signature" if public_keys else "no_key",
    )


def load(body: bytes) -> list[object]:
    """Return the events of a post as they came; UnreadableError if it is not a JSON list.

    One name of a program that is not UTF-8 does not cost the other events of its batch.
    """
    try:
        events = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise UnreadableError("a signed post to the event webhook is not JSON") from None
    if not isinstance(events, list):
        raise UnreadableError("a signed post to the event webhook is not a list of events")
    return events


def parse(body: bytes) -> Parsed:
    """Return what the events of a post say; what cannot be read is counted. UnreadableError as `load`."""
    receipts: list[Receipt] = []
    unreadable = 0
    for event in load(body):
        receipt = _read(event) if isinstance(event, dict) else None
        if receipt is None:
            unreadable += 1
        else:
            receipts.append(receipt)
    return Parsed(receipts=tuple(receipts), unreadable=unreadable)


def _read(event: Mapping[str, object]) -> Receipt | None:
    """Return one event's receipt, None if it does not even say what happened and when."""
    name, at = text_of(event, "event"), moment(event.get("timestamp"))
    if name is None or at is None:
        return None
    kind = _KINDS.get(name, Kind.IGNORED)
    if kind is Kind.BOUNCED and event.get("type") == "blocked":
        kind = Kind.BLOCKED
    if kind is Kind.OPENED and event.get("sg_machine_open") is True:
        kind = Kind.MACHINE_OPENED
    token, attempt_id, provider_id = text_of(event, "cp_m"), text_of(event, "cp_a"), text_of(event, "sg_message_id")
    address, url = text_of(event, "email", 320), text_of(event, "url", 2_000)
    agent = classify(_agent_name(event)) if kind in _REACTIONS else None
    why, code = _machine_why(kind, agent), _code(kind, event, name)
    return Receipt(
        # All that is kept of an event, so that two of them are never one fact whose columns depend on which came first.
        # Not sg_event_id: it has been seen to change when a post is retried.
        key=natural_key(
            "sendgrid",
            name,
            kind,
            str(event.get("timestamp")),
            token or address or "",
            attempt_id or "",
            provider_id or text_of(event, "smtp-id") or "",
            url or "",
            # A scanner and a person may follow one link in the same second. By the program's own name, not by what we
            # take it for: that changes as we learn of more scanners, and an old event must stay the same fact.
            *([_agent_name(event)] if kind in _REACTIONS else []),
            code or "",
        ),
        source="sendgrid",
        kind=kind,
        token=token,
        attempt_id=attempt_id,
        provider_id=provider_id,
        at=at,
        code=code,
        agent_class=agent,
        url_key=url_key(url) if url and kind is Kind.CLICKED else None,
        machine_why=why,
        address=address,
    )


def _agent_name(event: Mapping[str, object]) -> str:
    name = event.get("useragent")
    return name[:400] if isinstance(name, str) else ""


def _machine_why(kind: Kind, agent: AgentClass | None) -> MachineWhy | None:
    if kind is Kind.MACHINE_OPENED:
        return MachineWhy.FLAGGED
    return MachineWhy.AGENT if agent is not None and is_machine(agent, clicks=kind is Kind.CLICKED) else None


def _code(kind: Kind, event: Mapping[str, object], name: str) -> str | None:
    if kind is Kind.DROPPED:
        return _DROPS.get((text_of(event, "reason") or "").casefold(), "other")
    if kind in (Kind.BOUNCED, Kind.BLOCKED, Kind.DEFERRED):
        status = text_of(event, "status") or ""
        return status if _ENHANCED_STATUS.match(status) else None
    return name[:40] if kind is Kind.IGNORED else None
