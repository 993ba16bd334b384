"""Whether emails share requests: substitutions are proven at a provider before live mail is trusted to them.

Only keeps what was sent to prove it, and tells; `doctor` sends and judges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from commplan.ids import AddressKey, AttemptId
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import batch_proofs


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A request that was sent as a proof: who got it, in order, and whether it has been found to have arrived right."""

    attempt_id: AttemptId
    placeholder: str
    address_keys: tuple[AddressKey, ...]
    sent_at: datetime
    sent_by: str
    passed_at: datetime | None = None
    passed_by: str | None = None


def why_unbatched(store: Store, settings: Settings) -> str | None:
    """Return why each email goes in a request of its own, and the remedy, as one sentence; None if they share them."""
    alone = "each email goes in a request of its own"
    if settings.email.batching == "off":
        return f"{alone}: COMMPLAN_EMAIL__BATCHING is off; unset it where that is not meant"
    if store.is_sandbox or last_passed(store, settings) is not None:
        return None
    host = urlsplit(settings.email.base_url).hostname
    return f"{alone}: batching is not proven at {host} yet; run `commplan doctor --live-batch --to YOUR-ADDRESS`"


def last_passed(store: Store, settings: Settings) -> Proof | None:
    """Return the newest proof that passed at the provider that the settings name."""
    query = select(batch_proofs).where(batch_proofs.c.passed_at.is_not(None), _here(settings))
    with store.read() as connection:
        row = connection.execute(query.order_by(batch_proofs.c.passed_at.desc()).limit(1)).one_or_none()
    return None if row is None else _proof(row)


def last_sent(store: Store, settings: Settings) -> Proof | None:
    """Return the newest proof that was sent to the provider that the settings name."""
    query = select(batch_proofs).where(_here(settings)).order_by(batch_proofs.c.sent_at.desc()).limit(1)
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else _proof(row)


def note_sent(store: Store, settings: Settings, proof: Proof) -> None:
    """Write down a proof that is about to be sent. Own transaction."""
    with store.write() as connection:
        connection.execute(
            insert(batch_proofs).values(
                attempt_id=proof.attempt_id,
                base_url=_base_url(settings),
                placeholder=proof.placeholder,
                address_keys=json.dumps(proof.address_keys),
                sent_at=proof.sent_at,
                sent_by=proof.sent_by,
            )
        )


def forget(store: Store, proof: Proof) -> None:
    """Strike out a proof that certainly was not sent. Own transaction."""
    with store.write() as connection:
        connection.execute(delete(batch_proofs).where(batch_proofs.c.attempt_id == proof.attempt_id))


def note_passed(store: Store, proof: Proof, *, by: str) -> None:
    """Write down that a proof arrived as it was meant: emails share requests from now on. Own transaction."""
    with store.write() as connection:
        connection.execute(
            update(batch_proofs)
            .where(batch_proofs.c.attempt_id == proof.attempt_id)
            .values(passed_at=store.clock.now(), passed_by=by)
        )


def _here(settings: Settings) -> ColumnElement[bool]:
    return batch_proofs.c.base_url == _base_url(settings)


def _base_url(settings: Settings) -> str:
    return settings.email.base_url.rstrip("/")


def _proof(row: Row[Any]) -> Proof:
    return Proof(
        attempt_id=row.attempt_id,
        placeholder=row.placeholder,
        address_keys=tuple(json.loads(row.address_keys)),
        sent_at=row.sent_at,
        sent_by=row.sent_by,
        passed_at=row.passed_at,
        passed_by=row.passed_by,
    )
