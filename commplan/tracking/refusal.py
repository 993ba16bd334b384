"""Addresses that refuse too often: soft bounces that come to the same as a hard one.

Never counts a message twice, and never takes an address off the list: that is for a person to do.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, Text, case, func, select

from commplan.consent import SCOPE_ALL
from commplan.ids import AddressKey
from commplan.store.given import given
from commplan.store.tables import messages
from commplan.suppression import suppress
from commplan.terms import Channel, Reason

#: So many of an address's last emails are looked at, over all runs.
LAST = 5
#: So many of them refused, and the address is suppressed.
MOST = 3


def suppress_refusing(connection: Connection, address_keys: Iterable[AddressKey]) -> None:
    """Suppress those of some email addresses that refused `MOST` of their last `LAST` emails.

    In the caller's transaction. As of the newest of these refusals, so that the order in which they are told makes no
    difference.
    """
    keys = given(connection, {"address_key": Text()}, [(key,) for key in sorted(set(address_keys))])
    age = func.row_number().over(
        partition_by=messages.c.address_key,
        order_by=(messages.c.accepted_at.desc(), messages.c.run_id.desc(), messages.c.step_no.desc()),
    )
    is_soft = messages.c.reason == Reason.BLOCKED
    last = (
        select(
            messages.c.address_key,
            case((is_soft, 1), else_=0).label("soft"),
            case((is_soft, messages.c.failed_at)).label("failed_at"),
            age.label("age"),
        )
        .join(keys, keys.c.address_key == messages.c.address_key)
        .where(messages.c.channel == Channel.EMAIL, messages.c.accepted_at.is_not(None))
        .subquery("last")
    )
    for key, at in connection.execute(
        select(last.c.address_key, func.max(last.c.failed_at, type_=messages.c.failed_at.type))
        .where(last.c.age <= LAST)
        .group_by(last.c.address_key)
        .having(func.sum(last.c.soft) >= MOST)
    ).all():
        suppress(
            connection,
            channel=Channel.EMAIL,
            address_key=AddressKey(key),
            contact=None,
            scope=SCOPE_ALL,
            reason=Reason.SOFT_BOUNCES,
            source=f"{MOST} of its last {LAST} emails were refused",
            at=at,
        )
