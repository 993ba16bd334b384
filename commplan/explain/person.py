"""Finding a person by an address or an id, and all that is on record about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from commplan.audience.address import find_key
from commplan.consent import Contact
from commplan.errors import InputError, RunError
from commplan.explain import listing
from commplan.explain.explanation import Explanation
from commplan.explain.teller import Teller
from commplan.holder import places
from commplan.ids import AddressKey
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import (
    recipients,
    runs,
)


def explain(
    store: Store, settings: Settings, *, address: str | None = None, contact: str | None = None, key: str | None = None
) -> Explanation:
    """Return every decision about the person with an address, or called ``people:id``; in all runs, or that of `key`.

    InputError when neither can be read, RunError when nothing is on record. Reads only.
    """
    keys = [] if address is None else _keys(store, settings, address)
    who = None if contact is None else _contact(contact)
    with store.read() as connection:
        teller = Teller(connection, store, settings)
        rows = _recipients(connection, keys, who, key)
        parts = [teller.part(row) for row in rows]
        known = {Contact(people=row.people, contact_id=row.contact_id) for row in rows}
        keys += [found for row in rows for found in (row.email_key, row.phone_key) if found is not None]
        if who is not None:
            known.add(who)
        listed, history = listing.listed(connection, keys, known), listing.history(connection, keys, known)
    if not parts and not listed:
        raise RunError("nothing is on record about this person" + (f" in {key}" if key else ""))
    return Explanation(suppressions=tuple(listed), history=tuple(history), runs=tuple(parts))


def _keys(store: Store, settings: Settings, address: str) -> list[AddressKey]:
    if found := find_key(store.keyring, address, settings.default_region):
        return [found[1]]
    raise InputError.one("--address", "it is neither an email address nor a phone number", "write a number as +47…")


def _contact(text: str) -> Contact:
    people, colon, contact_id = text.partition(":")
    if not (people and colon and contact_id):
        raise InputError.one("--contact", "it does not say whose id it is", "write customers:17")
    return Contact(people=people, contact_id=contact_id)


def _recipients(
    connection: Connection, keys: Sequence[AddressKey], who: Contact | None, key: str | None
) -> Sequence[Row[Any]]:
    """Return the person's rows, newest run first: by the address they have, or that a message of theirs went to."""
    of_runs = select(runs.c.run_id) if key is None else select(runs.c.run_id).where(runs.c.run_key == key)
    if who is None:
        found = places(connection, keys, of_runs)
    else:
        found = (
            select(recipients.c.run_id, recipients.c.seq)
            .where(
                recipients.c.run_id.in_(of_runs),
                recipients.c.people == who.people,
                recipients.c.contact_id == who.contact_id,
            )
            .subquery("found")
        )
    return connection.execute(
        select(recipients, runs.c.run_key, runs.c.plan, runs.c.state.label("run_state"), runs.c.snapshot_at)
        .join(found, (found.c.run_id == recipients.c.run_id) & (found.c.seq == recipients.c.seq))
        .join(runs, runs.c.run_id == recipients.c.run_id)
        .order_by(recipients.c.run_id.desc(), recipients.c.seq)
    ).all()
