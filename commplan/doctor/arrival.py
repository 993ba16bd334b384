"""A mail as it was received: read from a file that a mail program saved.

Undoes only what transport does: encodings, folded headers, parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from commplan.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One mail that arrived. `source` says where it was read; `to` are the addresses in its To, in lower case."""

    source: str
    to: frozenset[str] = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)


def read_arrival(file: Path) -> Arrival:
    """Return the mail in a file, its parts decoded; InputError when it cannot be read, or is no mail."""
    try:
        message = message_from_bytes(file.read_bytes(), policy=policy.default)
    except OSError as error:
        raise InputError.one(str(file), f"it cannot be read ({error.strerror})", "name a file that is there") from None
    assert isinstance(message, EmailMessage)
    if message["to"] is None:
        raise InputError.one(
            str(file), "it is not a mail: it has no To", "save the mail as it was received (.eml, or *show original*)"
        )
    return Arrival(
        source=str(file),
        to=frozenset(address.addr_spec.casefold() for address in message["to"].addresses),
        subject=str(message["subject"] or ""),
        text=_part(message, "plain", file),
        html=_part(message, "html", file),
    )


def _part(message: EmailMessage, kind: str, file: Path) -> str:
    part = message.get_body((kind,))
    if part is None:
        return ""
    try:
        return str(part.get_content())
    except (LookupError, ValueError):
        raise InputError.one(
            str(file), f"its {kind} part is in no encoding that is known", "save the mail again as it was received"
        ) from None
