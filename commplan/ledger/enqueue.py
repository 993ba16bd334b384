"""Writing the ledger's rows: one for every recipient and step, excluded people included.

Nothing is due before every row of the run is there; a planning that was cut short starts again from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.content import Skeleton
from commplan.errors import RunError
from commplan.ids import AddressKey, RunId
from commplan.ledger.run import ranges
from commplan.ledger.schedule import drop_orphans
from commplan.store import Store
from commplan.store.tables import message_values, messages, runs, skeletons
from commplan.terms import Channel, MessageState, Reason, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A message about to be written: excluded for a `reason`, or with its frozen content."""

    step_no: int
    seq: int
    channel: Channel
    reason: Reason | None = None
    address_key: AddressKey | None = None
    due_at: datetime | None = None  #: None: waits for an earlier step
    not_after: datetime | None = None
    skeleton: Skeleton | None = None
    values: Sequence[str] = ()
    parts: int | None = None


class Enqueuer:
    """Writes the drafts of one run in chunks; remembers which skeletons the store already has."""

    def __init__(self, store: Store, run_id: RunId) -> None:
        self._store = store
        self._run_id = run_id
        self._numbers: dict[str, int] = {}

    def clear(self) -> None:
        """Remove what an earlier, unfinished planning of this run wrote; RunError once the run may send.

        Short transactions over ranges of recipients.
        """
        for first, last in ranges(self._store, self._run_id):
            with self._store.write() as connection:
                self._require_frozen(connection)
                for table in (messages, message_values):
                    connection.execute(
                        delete(table).where(table.c.run_id == self._run_id, table.c.seq.between(first, last))
                    )
        with self._store.write() as connection:
            self._require_frozen(connection)
            connection.execute(delete(skeletons).where(skeletons.c.run_id == self._run_id))
        self._numbers.clear()

    def write(self, drafts: Sequence[Draft]) -> None:
        """Write a chunk of drafts in one short transaction.

        A second person with the same address in the same step gets a row too, excluded as `same_address`. RunError
        once the run may send: nothing is ever added to what was planned.
        """
        with self._store.write() as connection:
            self._require_frozen(connection)
            self._write_skeletons(connection, drafts)
            rows = [self._row(draft) for draft in drafts]
            sendable = [row for row in rows if row["state"] != MessageState.EXCLUDED]
            excluded = [row for row in rows if row["state"] == MessageState.EXCLUDED]
            if excluded:
                connection.execute(insert(messages), excluded)
            if sendable:
                upsert = sqlite.insert if self._store.is_sqlite else postgresql.insert
                connection.execute(upsert(messages).on_conflict_do_nothing(), sendable)
                connection.execute(
                    insert(message_values), [self._values(draft) for draft in drafts if not draft.reason]
                )
                self._exclude_refused(connection, sendable)

    def _require_frozen(self, connection: Connection) -> None:
        state = connection.execute(
            select(runs.c.state).where(runs.c.run_id == self._run_id).with_for_update()
        ).scalar_one_or_none()
        if state != RunState.FROZEN:
            raise RunError("this run was planned by another process; start it again to join it")

    def _write_skeletons(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        fresh: list[dict[str, Any]] = []
        for draft in drafts:
            skeleton = draft.skeleton
            if skeleton is None or skeleton.digest in self._numbers:
                continue
            number = self._numbers[skeleton.digest] = len(self._numbers) + 1
            fresh.append(
                {
                    "run_id": self._run_id,
                    "skeleton_no": number,
                    "digest": skeleton.digest,
                    "content": skeleton.content,
                    "channel": skeleton.channel,
                    "locale": skeleton.locale,
                    "subject": skeleton.subject,
                    "text": skeleton.text,
                    "html": skeleton.html,
                    "placeholders": json.dumps(list(skeleton.placeholders)),
                }
            )
        if fresh:
            connection.execute(insert(skeletons), fresh)

    def _row(self, draft: Draft) -> dict[str, Any]:
        row: dict[str, Any] = {
            "run_id": self._run_id,
            "step_no": draft.step_no,
            "seq": draft.seq,
            "channel": draft.channel,
            "state": MessageState.EXCLUDED,
            "reason": draft.reason,
        }
        if draft.reason is not None:
            return row
        if draft.skeleton is None or draft.address_key is None:
            raise ValueError("a draft has either a reason to be excluded or content and an address")
        return row | {
            "state": MessageState.NOT_DUE if draft.due_at is None else MessageState.QUEUED,
            "address_key": draft.address_key,
            "due_at": draft.due_at,
            "not_after": draft.not_after,
            "skeleton_no": self._numbers[draft.skeleton.digest],
            "parts": draft.parts,
        }

    def _values(self, draft: Draft) -> dict[str, Any]:
        values = json.dumps(list(draft.values), ensure_ascii=False)
        return {"run_id": self._run_id, "step_no": draft.step_no, "seq": draft.seq, "slot_values": values}

    def _exclude_refused(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        by_step: dict[int, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_step.setdefault(row["step_no"], []).append(row)
        for step_no, wanted in by_step.items():
            low, high = min(row["seq"] for row in wanted), max(row["seq"] for row in wanted)
            there = set(
                connection.execute(
                    select(messages.c.seq).where(
                        messages.c.run_id == self._run_id,
                        messages.c.step_no == step_no,
                        messages.c.seq.between(low, high),
                    )
                ).scalars()
            )
            refused = [row for row in wanted if row["seq"] not in there]
            if refused:
                connection.execute(
                    insert(messages),
                    [
                        {
                            "run_id": self._run_id,
                            "step_no": step_no,
                            "seq": row["seq"],
                            "channel": row["channel"],
                            "state": MessageState.EXCLUDED,
                            "reason": Reason.SAME_ADDRESS,
                        }
                        for row in refused
                    ],
                )

    def finish(self) -> None:
        """Close what can never become due. Short transactions."""
        drop_orphans(self._store, self._run_id)
