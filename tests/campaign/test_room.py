"""A disk that is full: a clear error, nothing half-done, and the run goes on when there is room."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from commplan import campaign
from commplan.campaign import Campaign
from commplan.dispatch import Sender
from commplan.errors import StoreError
from commplan.store.tables import batches
from commplan.store.types import machine_now
from tests.campaign.conftest import LETTER, Rehearsal, crowd, until

LEASE = 1.0


def leave_room(here: Rehearsal, pages: int) -> None:
    """Let the database file grow by so many pages and no further, as a full disk would."""
    with here.store.write() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used + pages}")


def send(running: Campaign) -> None:
    sender = Sender(store=running.store, gateways=running.gateways, settings=running.frozen_settings, lease=LEASE)
    sender.send_step(running.run.run_id, 1)


def was_refused(running: Campaign) -> bool:
    """Send; tell whether the store had no room for it, and said so."""
    try:
        send(running)
    except StoreError as error:
        return "has room on its disk" in str(error)
    return False


def lease_is_over(here: Rehearsal) -> bool:
    with here.store.read() as connection:
        newest = select(func.max(batches.c.lease_machine)).where(batches.c.closed_machine.is_(None))
        left = connection.execute(select(newest.scalar_subquery() - machine_now())).scalar_one()
    return left is None or left < 0


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_disk_that_is_full_at_any_moment_of_sending_loses_nothing_and_repeats_nothing(rehearse):
    here = rehearse(crowd(400), batch=2)
    running = here.ready(LETTER)
    refused = 0
    for room in range(7):
        leave_room(here, room)
        refused += was_refused(running)
        until(lambda: lease_is_over(here), why="that the lease ended")
        assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0
    assert refused > 3, "there was room all the time"
    assert len(here.truth()) < 400, "everybody was written to although there was no room"
    leave_room(here, 1_000_000)
    running.next_due()
    send(running)
    here.deliver_all()
    refs = [one["ref"] for one in here.truth()]
    assert len(refs) == len(set(refs)) == 400
    assert {row.state for row in here.rows().values()} == {"delivered"}
    here.require_balance(running)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_planning_for_which_there_is_no_room_leaves_nothing_and_is_done_again(rehearse):
    here = rehearse(crowd(300))
    running = here.start(LETTER)
    leave_room(here, 0)
    with pytest.raises(StoreError, match="has room on its disk"):
        running.resolve_audience()
    assert running.state == "frozen"
    leave_room(here, 1_000_000)
    # Its turn at planning is kept until its lease is over; whoever starts again waits for it.
    again = here.start(LETTER)
    again.resolve_audience()
    again.render()
    assert here.send_due(again).accepted == 300
    here.require_balance(again)
