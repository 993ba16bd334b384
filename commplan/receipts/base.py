"""What providers report, in one vocabulary: the shape that every provider's posts are translated into.

Pure: bytes in, receipts out. Nothing here reads a clock, a setting or the store, and no address or text is in a repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

from commplan.ids import TokenPurpose
from commplan.terms import AgentClass, AutoWhy, MachineWhy, ReceiptKind

#: Who said so: a provider, or the recipient on one of our own pages.
Source = Literal["sendgrid", "twilio", "page"]

#: 2000-01-01 and 2100-01-01: a time outside is a mistake in the payload, not a fact.
_FIRST, _LAST = 946_684_800, 4_102_444_800
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One fact about a message, or about an address.

    `key` is the same however often and in whatever post the fact is told. `at` is the provider's time, None when it
    told none. `code` is a word of the provider's own closed vocabulary (never free text, which may quote an
    address). `address` is for facts that nothing else places, and is kept by nobody; `text` is only there when the
    fact is an answer. Of who opened or clicked there is the kind of program, and `machine_why` if the event alone
    tells that it was no person; of the link, `url_key`. `token` is for `token_purpose`; of a mail without a readable
    one, `references` are the provider's names of the requests it answers. `auto_why` says why an answer is a machine's.
    """

    key: str
    source: Source
    kind: ReceiptKind
    token: str | None = None
    token_purpose: TokenPurpose = TokenPurpose.MESSAGE
    references: tuple[str, ...] = ()
    attempt_id: str | None = None
    provider_id: str | None = None
    at: datetime | None = None
    code: str | None = None
    agent_class: AgentClass | None = None
    url_key: str | None = None
    machine_why: MachineWhy | None = None
    auto_why: AutoWhy | None = None
    address: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The readable receipts of one post, in its order, and how many of its events could not be read."""

    receipts: tuple[Receipt, ...]
    unreadable: int = 0


def natural_key(source: Source, *parts: str) -> str:
    """Return the name of a fact made of what the fact is, not of how it was told: SHA-256 as hex."""
    return sha256("\x1f".join((source, *parts)).encode("utf-8", "surrogatepass")).hexdigest()


def url_key(url: str) -> str:
    """Return a digest that tells one link from another and does not say where it leads: 128 bits as hex."""
    return sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def clean(value: object, limit: int = 200) -> str:
    """Return a text that every database can hold: no control characters, no lone surrogates, at most `limit` long.

    Anything but a text counts as empty.
    """
    return _UNPRINTABLE.sub("", value)[:limit] if isinstance(value, str) else ""


def text_of(event: Mapping[str, object], name: str, limit: int = 200) -> str | None:
    """Return a field of an event as `clean` text, None when it is missing or empty."""
    return clean(event.get(name), limit).strip() or None


def moment(seconds: object) -> datetime | None:
    """Return the time of a Unix timestamp (a number, or its text), None when it is not one of this century."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float, str)):
        return None
    try:
        value = float(seconds)
    except (ValueError, OverflowError):
        return None
    return datetime.fromtimestamp(value, UTC) if _FIRST <= value <= _LAST else None
