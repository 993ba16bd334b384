"""What the suppression list says of a person and their addresses, and how it came to say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, Text, and_, select, union

from commplan.consent import EVERY_CHANNEL, Contact
from commplan.explain.explanation import RULES, Decision
from commplan.ids import AddressKey
from commplan.store.given import given
from commplan.store.tables import (
    suppression_changes,
    suppressions,
)
from commplan.terms import Reason


def listed(connection: Connection, keys: Sequence[AddressKey], known: set[Contact]) -> list[Decision]:
    """Return what the suppression list says, or said, about addresses and people."""
    found = []
    for row in _rows(connection, suppressions, suppressions.c.suppression_id, keys, known):
        lifted = f", lifted {row.lifted_at:%Y-%m-%d %H:%M} UTC" if row.lifted_at is not None else ""
        what = f"{_about(row)} is suppressed ({_entry(row)}{lifted})"
        found.append(Decision(at=row.at, what=what, rule=f"{RULES[Reason(row.reason)]}; {_said(row)}"))
    return found


def history(connection: Connection, keys: Sequence[AddressKey], known: set[Contact]) -> list[Decision]:
    """Return every change of what the list says about addresses and people, oldest first."""
    return [
        Decision(
            at=row.at,
            what=f"{_about(row)}: {'listed' if row.listed else 'taken off'} ({_entry(row)})",
            rule=_said(row),
        )
        for row in _rows(connection, suppression_changes, suppression_changes.c.change_id, keys, known)
    ]


def _rows(
    connection: Connection, table: Table, by: Column[Any], keys: Sequence[AddressKey], known: set[Contact]
) -> Sequence[Row[Any]]:
    people = sorted((who.people, who.contact_id) for who in known)
    named = given(connection, {"people": Text(), "contact_id": Text()}, people)
    at = given(connection, {"address_key": Text()}, [(key,) for key in sorted(set(keys))])
    mine = union(
        select(by).join(at, table.c.address_key == at.c.address_key),
        select(by).join(named, and_(table.c.people == named.c.people, table.c.contact_id == named.c.contact_id)),
    )
    return connection.execute(select(table).where(by.in_(mine)).order_by(table.c.at, by)).all()


def _about(row: Row[Any]) -> str:
    where = "every channel" if row.channel == EVERY_CHANNEL else row.channel
    return f"{where}: {'the address' if row.people is None else f'{row.people} {row.contact_id}'}"


def _entry(row: Row[Any]) -> str:
    until = f", until {row.until:%Y-%m-%d %H:%M} UTC" if row.until is not None else ""
    return f"{row.reason}, scope {row.scope}{until}"


def _said(row: Row[Any]) -> str:
    return f"said by {row.source}" + (f": {row.said}" if row.said else "")
