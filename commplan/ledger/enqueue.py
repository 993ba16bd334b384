"""Writing the ledger's rows: one for every recipient and step, excluded people included.

Nothing is due before every row of the run is there; a planning that was cut short starts again from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, text

from commplan.audience.planning import Planning
from commplan.content import Skeleton
from commplan.errors import RunError
from commplan.ids import AddressKey, RunId
from commplan.ledger.run import ranges
from commplan.ledger.schedule import drop_orphans
from commplan.store import Store
from commplan.store.bulk import insert_rows
from commplan.store.tables import message_values, messages, runs, skeletons
from commplan.store.types import to_micros
from commplan.terms import Channel, MessageState, Reason, RunState

_HEADER = ("run_id", "step_no", "channel", "state", "due_at", "not_after")
_MESSAGE = (*_HEADER, "seq", "address_key", "skeleton_no", "parts")
_EXCLUDED = ("run_id", "step_no", "seq", "channel", "state", "reason")
_VALUES = ("run_id", "step_no", "seq", "slot_values", "targets")


class Header(NamedTuple):
    """What many drafts of a step have in common; those that share one object are written the faster."""

    step_no: int
    channel: Channel
    due_at: datetime | None = None  #: None: waits for an earlier step
    not_after: datetime | None = None


class Draft(NamedTuple):
    """A message about to be written: excluded for a `reason`, or with its frozen content.

    `values`: the skeleton's values as a JSON list; `targets`: where its counted links lead, as another.
    """

    header: Header
    seq: int
    reason: Reason | None = None
    address_key: AddressKey | None = None
    skeleton: Skeleton | None = None
    values: str = "[]"
    parts: int | None = None
    targets: str | None = None


class Enqueuer:
    """Writes the drafts of one run in chunks; remembers which skeletons the store already has.

    `planning`: whose hold on the run every chunk depends on.
    """

    def __init__(self, store: Store, run_id: RunId, *, planning: Planning | None = None) -> None:
        self._store = store
        self._run_id = run_id
        self._planning = planning
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
        once the run may send: nothing is ever added to what was planned; or when another process plans it by now.
        """
        with self._store.write() as connection:
            self._require_frozen(connection)
            if self._planning is not None:
                self._planning.hold(connection)
            self._write_skeletons(connection, drafts)
            sendable = [draft for draft in drafts if draft.reason is None]
            self._exclude(connection, ((draft, draft.reason) for draft in drafts if draft.reason is not None))
            rows = self._rows(sendable)
            written = insert_rows(connection, messages, _MESSAGE, rows, skip_conflicts=True)
            values = [
                (self._run_id, draft.header.step_no, draft.seq, draft.values, draft.targets) for draft in sendable
            ]
            insert_rows(connection, message_values, _VALUES, values)
            if written < len(sendable):
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
                    "links": json.dumps(list(skeleton.links)) if skeleton.links else None,
                }
            )
        if fresh:
            connection.execute(insert(skeletons), fresh)

    def _rows(self, drafts: Sequence[Draft]) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        header: Header | None = None
        common: tuple[object, ...] = ()
        for draft in drafts:
            if draft.skeleton is None or draft.address_key is None:
                raise ValueError("a draft has either a reason to be excluded or content and an address")
            if draft.header is not header:
                header = draft.header
                common = self._common(header)
            number = self._numbers[draft.skeleton.digest]
            rows.append((*common, draft.seq, draft.address_key, number, draft.parts))
        return rows

    def _common(self, header: Header) -> tuple[object, ...]:
        due, late = header.due_at, header.not_after
        return (
            self._run_id,
            header.step_no,
            header.channel.value,
            (MessageState.NOT_DUE if due is None else MessageState.QUEUED).value,
            None if due is None else to_micros(due),
            None if late is None else to_micros(late),
        )

    def _exclude(self, connection: Connection, drafts: Iterable[tuple[Draft, Reason]]) -> None:
        rows = [
            (
                *(self._run_id, draft.header.step_no, draft.seq, draft.header.channel.value),
                *(MessageState.EXCLUDED.value, reason.value),
            )
            for draft, reason in drafts
        ]
        insert_rows(connection, messages, _EXCLUDED, rows)

    def _exclude_refused(self, connection: Connection, drafts: Sequence[Draft]) -> None:
        by_step: dict[int, list[Draft]] = {}
        for draft in drafts:
            by_step.setdefault(draft.header.step_no, []).append(draft)
        for step_no, wanted in by_step.items():
            seqs = [draft.seq for draft in wanted]
            there = set(
                connection.execute(
                    select(messages.c.seq).where(
                        messages.c.run_id == self._run_id,
                        messages.c.step_no == step_no,
                        messages.c.seq.between(min(seqs), max(seqs)),
                    )
                ).scalars()
            )
            refused = ((draft, Reason.SAME_ADDRESS) for draft in wanted if draft.seq not in there)
            self._exclude(connection, refused)

    def finish(self) -> None:
        """Close what can never become due. Short transactions.

        On PostgreSQL the new rows are counted for the planner of queries, which would not know of them for a minute:
        it would look through all of them for every batch.
        """
        drop_orphans(self._store, self._run_id)
        if not self._store.is_sqlite:
            with self._store.write() as connection:
                connection.execute(text("ANALYZE recipients, messages, message_values, enrolments"))
