"""Who has, or has had, an address in a run: by the snapshot, or by a message that went there before it changed.

Only reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Select, Subquery, Text, select, union

from commplan.consent import Contact
from commplan.ids import AddressKey
from commplan.store.given import given
from commplan.store.tables import messages, recipients, runs


def places(connection: Connection, keys: Iterable[AddressKey], of_runs: Select[tuple[int]] | None = None) -> Subquery:
    """Return the subquery of `address_key`, `run_id` and `seq` of everybody at addresses, in all runs or in some."""
    wanted = given(connection, {"address_key": Text()}, [(key,) for key in sorted(set(keys))])
    chosen = select(runs.c.run_id) if of_runs is None else of_runs
    r, m, key = recipients.c, messages.c, wanted.c.address_key
    person = select(key, r.run_id, r.seq).where(r.run_id.in_(chosen))
    # Each way by an index of its own, where one condition with OR would read every snapshot.
    return union(
        person.where(r.email_key == key),
        person.where(r.phone_key == key),
        select(key, m.run_id, m.seq).where(m.address_key == key, m.run_id.in_(chosen)),
    ).subquery("places")


def people_at(connection: Connection, keys: Iterable[AddressKey]) -> dict[AddressKey, frozenset[Contact]]:
    """Return everybody who has, or has had, each address in a run; an address that no run knows is left out."""
    found = places(connection, keys)
    rows = connection.execute(
        select(found.c.address_key, recipients.c.people, recipients.c.contact_id)
        .join(recipients, (recipients.c.run_id == found.c.run_id) & (recipients.c.seq == found.c.seq))
        .distinct()
    )
    people: dict[AddressKey, frozenset[Contact]] = {}
    for row in rows:
        key, contact = AddressKey(row.address_key), Contact(people=row.people, contact_id=row.contact_id)
        people[key] = people.get(key, frozenset()) | {contact}
    return people


def addresses_of(connection: Connection, keys: Iterable[AddressKey]) -> dict[AddressKey, str]:
    """Return the addresses behind keys, as far as the snapshot of a run still has them."""
    wanted = given(connection, {"address_key": Text()}, [(key,) for key in sorted(set(keys))])
    r, key = recipients.c, wanted.c.address_key
    in_a_run = r.run_id.in_(select(runs.c.run_id))
    found = union(
        select(key, r.email.label("address")).where(in_a_run, r.email_key == key),
        select(key, r.phone.label("address")).where(in_a_run, r.phone_key == key),
    )
    return {AddressKey(row.address_key): row.address for row in connection.execute(found) if row.address is not None}
