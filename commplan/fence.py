"""The fence of a live store: whose addresses may be written to while not everybody's are.

Only tells; the planning of a run and the last look before each message both ask.
"""

from __future__ import annotations

from sqlalchemy import select

from commplan.audience.address import read_email, read_phone
from commplan.ids import AddressKey
from commplan.plan import Plan
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import store_info
from commplan.terms import Channel


def allowed_addresses(store: Store, plan: Plan, settings: Settings) -> frozenset[AddressKey] | None:
    """Return the keys of the only addresses that may be written to, or None: everybody's.

    Real sending needs three to agree: the environment's name, the name the store was born with, and the plan. Where
    they do not, only the allow list is written to. A sandbox reaches nobody, so all may be.
    """
    return reachable(store, settings, live=plan.live)


def reachable(store: Store, settings: Settings, *, live: bool) -> frozenset[AddressKey] | None:
    """Do what `allowed_addresses` does where no plan says whether real sending is meant: `live` does."""
    with store.read() as connection:
        birth = connection.execute(select(store_info)).one()
    if birth.kind == "sandbox":
        return None
    if live and settings.live is not None and settings.live == birth.environment:
        return None
    keys = set()
    for address in settings.allow_list:
        if email := read_email(address.strip()):
            keys.add(store.keyring.address_key(Channel.EMAIL, email.casefold()))
        elif phone := read_phone(address.strip(), settings.default_region):
            keys.add(store.keyring.address_key(Channel.SMS, phone[0]))
    return frozenset(keys)
