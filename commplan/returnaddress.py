"""Addresses that people's mail comes back to: one for each message to answer it, one to opt out of it.

Never a person's address, and never one that can be guessed: each is the keyed token of one message.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode, urlsafe_b64decode, urlsafe_b64encode

from commplan.ids import Token, TokenPurpose

#: Where mail to them is posted, below the public address.
INBOUND_PATH = "/hooks/sendgrid/inbound"
#: First letter of an address → what mail to it is: an answer, or an opt-out.
_PURPOSES = {"r": TokenPurpose.REPLY, "u": TokenPurpose.UNSUBSCRIBE}
#: Bytes of a request's substitutions that one person's tag and its placeholder take.
FILLED_BYTES = 26 + 3 + 32
_TAGGED = re.compile(r"(?<![\w.+-])([ru])\+([a-z2-7]{26})@", re.IGNORECASE)


def tag_of(token: Token) -> str:
    """Return a token in 26 lower-case letters and digits: mail systems do not always leave capitals as they are."""
    return b32encode(urlsafe_b64decode(token + "==")).decode("ascii").rstrip("=").lower()


def reply_address(tag: str, domain: str) -> str:
    """Return the address that answers to one message go to."""
    return f"r+{tag}@{domain}"


def unsubscribe_address(token: Token, domain: str) -> str:
    """Return the address that takes any mail for an opt-out, by an unsubscribe token."""
    return f"u+{tag_of(token)}@{domain}"


def read(addresses: str) -> tuple[TokenPurpose, Token] | None:
    """Return what the first such address in a text is for, and its token; None if there is none.

    At whatever domain: it may have moved since, and only a token of ours opens anything.
    """
    found = _TAGGED.search(addresses)
    if found is None:
        return None
    sealed = b32decode(found[2].upper() + "======")
    return _PURPOSES[found[1].lower()], Token(urlsafe_b64encode(sealed).decode("ascii").rstrip("="))
