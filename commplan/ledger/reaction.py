"""What people did with a message, and what machines did: told from all of its receipts, whenever one more arrives.

Never from the receipts that happen to arrive together: the second link that is clicked in one moment makes the first a
machine's, too, and a delivery that is told late may make a click too soon.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, Integer, String, select, type_coerce, update

from commplan.ids import MessageRef, RunId
from commplan.store.given import given
from commplan.store.tables import messages, receipts
from commplan.store.types import UtcDateTime
from commplan.terms import MachineWhy, ReceiptKind

#: A click sooner than this after the delivery, or before it, is a machine's. The message has yet to reach a screen, be
#: noticed, opened and read; audits of click logs put what no person manages at five seconds. Scanners that take longer
#: are told by their names and by what they click: a higher limit would cost the clicks of those who were waiting.
SOONEST_CLICK = timedelta(seconds=5)

#: What somebody does with a message, and the column that holds when they first did.
_FIRSTS: Mapping[ReceiptKind, str] = {
    ReceiptKind.OPENED: "opened_at",
    ReceiptKind.CLICKED: "clicked_at",
    ReceiptKind.REPLIED: "replied_at",
    ReceiptKind.ANSWERED: "answered_at",
    ReceiptKind.COMPLAINED: "complained_at",
}
_MACHINE_FIRSTS: Mapping[ReceiptKind, str] = {
    ReceiptKind.OPENED: "machine_opened_at",
    ReceiptKind.CLICKED: "machine_clicked_at",
}
_COLUMNS = (*_FIRSTS.values(), *_MACHINE_FIRSTS.values(), "opted_out_at")
#: Kinds that the rows above follow from.
REACTIONS = frozenset({*_FIRSTS, ReceiptKind.MACHINE_OPENED, ReceiptKind.OPTED_OUT, ReceiptKind.OPTED_IN})
_REF = {"run_id": BigInteger(), "step_no": Integer(), "seq": Integer()}
_SECOND = 1_000_000
_SOONEST = SOONEST_CLICK // timedelta(microseconds=1)


class Told(NamedTuple):
    """One receipt of a message; `at` in microseconds, `machine_why` as the store has it; `is_ours`: of our own page."""

    key: str
    kind: ReceiptKind
    at: int
    attempt_id: str | None = None
    url_key: str | None = None
    machine_why: MachineWhy | None = None
    is_ours: bool = False


def known(connection: Connection, refs: Collection[MessageRef]) -> dict[MessageRef, list[Told]]:
    """Return what is on record of some messages; to be asked before more is, so that only that is read."""
    if not refs:
        return {}
    wanted = given(connection, _REF, [(ref.run_id, ref.step_no, ref.seq) for ref in refs])
    r = receipts.c
    found: dict[MessageRef, list[Told]] = {}
    for run_id, step_no, seq, key, kind, at, attempt_id, url_key, why, provider in connection.execute(
        select(
            r.run_id,
            r.step_no,
            r.seq,
            r.receipt_key,
            r.kind,
            type_coerce(r.at, BigInteger),
            r.attempt_id,
            r.url_key,
            r.machine_why,
            r.provider,
        ).where(*(r[name] == wanted.c[name] for name in _REF), r.kind.in_((*REACTIONS, ReceiptKind.DELIVERED)))
    ):
        marked = None if why is None else MachineWhy(why)
        told = Told(key, ReceiptKind(kind), at, attempt_id, url_key, marked, provider == "page")
        found.setdefault(MessageRef(RunId(run_id), step_no, seq), []).append(told)
    return found


def fold(
    connection: Connection, before: Mapping[MessageRef, Sequence[Told]], new: Mapping[MessageRef, Sequence[Told]]
) -> None:
    """Write what people and machines did with the messages of `new` receipts, in the caller's transaction.

    `before` is what was `known` of them. Every open and click is marked anew, so whatever else became known in the
    meantime counts for all of them.
    """
    marks: list[tuple[str, str | None]] = []
    rows: list[tuple[int | None, ...]] = []
    for ref, added in new.items():
        told = [*before.get(ref, ()), *added]
        whys = judge(told)
        changed = [(one.key, whys[one.key]) for one in told if one.key in whys and whys[one.key] != one.machine_why]
        marks += changed
        if changed or any(one.kind in REACTIONS for one in added):
            moments = _moments(told, whys)
            rows.append((ref.run_id, ref.step_no, ref.seq, *map(moments.get, _COLUMNS)))
    if marks:
        marked = given(connection, {"receipt_key": String(), "machine_why": String()}, marks)
        connection.execute(
            update(receipts)
            .where(receipts.c.receipt_key == marked.c.receipt_key)
            .values(machine_why=marked.c.machine_why)
        )
    if rows:
        firsts = given(connection, {**_REF, **{name: UtcDateTime() for name in _COLUMNS}}, rows)
        connection.execute(
            update(messages)
            .where(*(messages.c[name] == firsts.c[name] for name in _REF))
            .values({name: firsts.c[name] for name in _COLUMNS})
        )


def judge(told: Sequence[Told]) -> dict[str, MachineWhy | None]:
    """Return for every open and click of one message why it is a machine's, None if it is a person's.

    Clicks on different links in one second, or in two that follow each other, are a machine's: the provider cuts times
    off to seconds, so a moment may lie across two.
    """
    arrived: dict[str | None, int] = {}
    links: dict[int, set[str]] = {}
    for one in told:
        if one.kind is ReceiptKind.DELIVERED:
            arrived[one.attempt_id] = min(one.at, arrived.get(one.attempt_id, one.at))
        elif one.kind is ReceiptKind.CLICKED and one.url_key is not None:
            links.setdefault(one.at // _SECOND, set()).add(one.url_key)
    whys: dict[str, MachineWhy | None] = {}
    for one in told:
        if one.kind is ReceiptKind.MACHINE_OPENED:
            whys[one.key] = MachineWhy.FLAGGED
        elif one.kind is ReceiptKind.OPENED:
            whys[one.key] = one.machine_why
        elif one.kind is ReceiptKind.CLICKED:
            # By its name, or because it says so, it is one whatever else is known.
            own = one.machine_why in (MachineWhy.AGENT, MachineWhy.FLAGGED)
            at = _heard_of(one, arrived.values()) if one.is_ours else arrived.get(one.attempt_id)
            # Of our own links the receiver told at once whether the text had only just left.
            soon = MachineWhy.TOO_SOON if one.is_ours and one.machine_why is MachineWhy.TOO_SOON else None
            whys[one.key] = one.machine_why if own else _why_of_click(one, at, links) or soon
    return whys


def _heard_of(click: Told, arrived: Collection[int]) -> int | None:
    """Return the last delivery that was known when one of our links was followed, whichever request it was of.

    Of texts a delivery has no time but that of its callback, so that one after the click may have been long before it.
    """
    return max((at for at in arrived if at <= click.at), default=None)


def _why_of_click(click: Told, arrived: int | None, links: Mapping[int, set[str]]) -> MachineWhy | None:
    second = click.at // _SECOND
    for near in (second - 1, second, second + 1):
        others = links.get(near)
        if others is not None and click.url_key is not None and (len(others) > 1 or click.url_key not in others):
            return MachineWhy.ALL_LINKS
    return MachineWhy.TOO_SOON if arrived is not None and click.at < arrived + _SOONEST else None


def _moments(told: Sequence[Told], whys: Mapping[str, MachineWhy | None]) -> dict[str, int]:
    """Return when each thing was first done; an opt-out that was taken back counts no more."""
    back = max((one.at for one in told if one.kind is ReceiptKind.OPTED_IN), default=None)
    moments: dict[str, int] = {}
    for one in told:
        kind = ReceiptKind.OPENED if one.kind is ReceiptKind.MACHINE_OPENED else one.kind
        name: str | None
        if kind is ReceiptKind.OPTED_OUT:
            # At the same instant the opt-out wins, as on the suppression list.
            name = "opted_out_at" if back is None or one.at >= back else None
        else:
            name = (_MACHINE_FIRSTS if whys.get(one.key) else _FIRSTS).get(kind)
        if name is not None:
            moments[name] = min(one.at, moments.get(name, one.at))
    return moments
