"""A process's hold on resolving a run's audience: whoever begins last goes on, and nobody else writes.

Never by the time alone: a process that was stalled finds out in the transaction in which it would write.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select, update

from commplan.errors import RunError
from commplan.ids import RunId
from commplan.store.tables import messages, runs
from commplan.store.types import machine_now
from commplan.terms import RunState

#: Machine seconds of silence after which a run whose audience is complete, and which has not begun to send, is taken
#: for abandoned.
SILENCE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """One attempt to resolve and render a run, in the hands of one process."""

    run_id: RunId
    planner: str

    @classmethod
    def begin(cls, connection: Connection, run_id: RunId) -> Planning:
        """Take over the planning of a run from whoever had it, in the caller's transaction.

        The audiences of one plan are resolved one after the other, so whoever else is still at one of this plan is
        stalled or dead: it loses its hold too. RunError once the run has messages, or is not to be planned.
        """
        if connection.execute(select(messages.c.seq).where(messages.c.run_id == run_id).limit(1)).first():
            raise RunError("this run has its messages already; its audience is frozen and cannot be resolved again")
        planning = cls(run_id=run_id, planner=secrets.token_hex(16))
        begun = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state == RunState.FROZEN)
            .values(planner=planning.planner, audience_size=None, alive_machine=machine_now())
            .returning(runs.c.plan)
        ).one_or_none()
        if begun is None:
            raise RunError("this run is planned already, or gone; start it again to join it")
        connection.execute(
            update(runs)
            .where(
                runs.c.plan == begun.plan,
                runs.c.run_id != run_id,
                runs.c.state == RunState.FROZEN,
                runs.c.audience_size.is_(None),
                runs.c.planner.is_not(None),
            )
            .values(planner=None)
        )
        return planning

    @classmethod
    def of_complete(cls, connection: Connection, run_id: RunId) -> tuple[Planning, int]:
        """Return the planning that completed a run's audience, and the number of people in it.

        RunError when the audience is not complete, or was given up.
        """
        row = connection.execute(
            select(runs.c.planner, runs.c.audience_size).where(
                runs.c.run_id == run_id, runs.c.planner.is_not(None), runs.c.audience_size.is_not(None)
            )
        ).one_or_none()
        if row is None:
            raise RunError("the audience of this run is not complete; start the run again")
        return cls(run_id=run_id, planner=row.planner), row.audience_size

    def hold(self, connection: Connection) -> None:
        """Give a sign of life in a transaction that is about to write; RunError when another process took over."""
        if not self._update(connection, alive_machine=machine_now()):
            raise lost()

    def complete(self, connection: Connection, *, size: int, since: datetime | None, at: datetime) -> None:
        """Note that the audience is complete: how many people it has, what ``:since`` meant, and as of when it holds.

        RunError when another process took over.
        """
        values = {"audience_size": size, "since": since, "snapshot_at": at}
        if not self._update(connection, alive_machine=machine_now(), **values):
            raise lost()

    def _update(self, connection: Connection, **values: object) -> bool:
        return bool(
            connection.execute(
                update(runs)
                .where(
                    runs.c.run_id == self.run_id,
                    runs.c.planner == self.planner,
                    runs.c.state == RunState.FROZEN,
                )
                .values(**values)
            ).rowcount
        )


def give_up_silent(connection: Connection, *, plan: str, but: RunId) -> None:
    """Take the hold from every other run of a plan that was planned and then fell silent, in the caller's transaction.

    Such a run has sent nothing. When its process wakes up, or somebody starts it again, its audience is resolved anew.
    """
    connection.execute(
        update(runs)
        .where(
            runs.c.plan == plan,
            runs.c.run_id != but,
            runs.c.state == RunState.FROZEN,
            runs.c.planner.is_not(None),
            runs.c.alive_machine < machine_now() - SILENCE,
        )
        .values(planner=None, audience_size=None)
    )


def lost() -> RunError:
    """Return the error of a process whose hold another has taken."""
    return RunError("another process has taken over planning this run; start it again to join it")
