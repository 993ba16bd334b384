"""Strangers: whoever gets somebody else's mail, and says so.

Never tells a stranger, or the plan's owner, whose it was.
"""

from __future__ import annotations

import json

from sqlalchemy import insert

from commplan.consent import SCOPE_ALL
from commplan.ids import TokenPurpose
from commplan.store import Store
from commplan.store.tables import audit
from commplan.suppression import active, lift, suppress
from commplan.terms import Reason
from commplan.tracking.inbox import take_turn
from commplan.tracking.page import Visit, find

#: What the record calls an address that is somebody else's; its plan's owner is told of it.
MISDIRECTED = "address of somebody else"
_SOURCE = "page for strangers"


def is_disowned(store: Store, visit: Visit) -> bool:
    """Tell whether whoever has the address said that they are not the person we mean."""
    with store.read() as connection:
        known = active(
            connection,
            channel=visit.channel,
            address_key=visit.address_key,
            contact=None,
            now=store.clock.now(),
        )
    return any(entry.reason is Reason.WRONG_PERSON for entry in known)


def disown(store: Store, token: str, *, said: str | None = None) -> Visit | None:
    """Write to the address of a link's message no more, whoever it is about; None for a token that is not ours.

    Its person is written to again as soon as the source has another address. Own transaction; doing it again changes
    nothing.
    """
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.STRANGER, token)
        if visit is None:
            return None
        ref, now = visit.ref, store.clock.now()
        if suppress(
            connection,
            channel=visit.channel,
            address_key=visit.address_key,
            contact=None,
            scope=SCOPE_ALL,
            reason=Reason.WRONG_PERSON,
            source=_SOURCE,
            at=now,
            said=said,
        ):
            detail = json.dumps({"step_no": ref.step_no, "seq": ref.seq})
            connection.execute(insert(audit).values(run_id=ref.run_id, at=now, what=MISDIRECTED, detail=detail))
    return visit


def own(store: Store, token: str, *, said: str | None = None) -> Visit | None:
    """Take that back; None for a token that is not ours. Own transaction."""
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.STRANGER, token)
        if visit is not None:
            lift(
                connection,
                channel=visit.channel,
                address_key=visit.address_key,
                contacts=(),
                scope=SCOPE_ALL,
                reason=Reason.WRONG_PERSON,
                source=_SOURCE,
                at=store.clock.now(),
                said=said,
            )
    return visit
