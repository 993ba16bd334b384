"""Whom something came from: the keys of addresses and numbers in whatever form somebody wrote them.

Never keeps the address itself.
"""

from __future__ import annotations

import re

from commplan.audience.address import read_email
from commplan.ids import AddressKey
from commplan.store import Store
from commplan.terms import Channel

#: What the code of a receipt says that was placed by nothing but its address.
INFERRED = "inferred"

_NUMBER = re.compile(r"^\+[1-9]\d{5,14}$")


def number_key(store: Store, number: str | None) -> AddressKey | None:
    """Return the key of a sender's number, None for a short code or a name."""
    return store.keyring.address_key(Channel.SMS, number) if number and _NUMBER.match(number) else None


def email_key(store: Store, address: str | None) -> AddressKey | None:
    """Return the key of an email address in whatever form a provider or a person wrote it, None if it is not one."""
    normal = read_email(address) if address else None
    return store.keyring.address_key(Channel.EMAIL, normal.casefold()) if normal else None
