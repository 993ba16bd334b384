"""What is kept only for a while goes after that while, and nothing goes that is still needed."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from prefect.logging import disable_run_logger
from sqlalchemy import Engine, event, func, insert, select, update

from commplan import tracking
from commplan.ledger import feed
from commplan.ledger.retention import Purged, purge
from commplan.store.tables import feed_beats, inbox, receipts, runs
from commplan.terms import Channel, RunState
from commplan.tracking import PostKind
from flows import upkeep
from tests.conftest import later

WEEK, DAY, HOUR = timedelta(days=7), timedelta(days=1), timedelta(hours=1)


def kept(store) -> int:  # type: ignore[no-untyped-def]
    with store.read() as connection:
        return connection.execute(select(func.count()).select_from(inbox)).scalar_one()


def beat_every_hour(store, since, until) -> None:  # type: ignore[no-untyped-def]
    moments = [since + number * HOUR for number in range((until - since) // HOUR + 1)]
    rows = [
        {"nonce_key": f"{channel}{moment}", "channel": channel, "sent_at": moment, "heard_at": moment}
        for channel in (*Channel, feed.RECEIVER)
        for moment in moments
    ]
    with store.write() as connection:
        connection.execute(insert(feed_beats), rows)


def beats(store) -> list:  # type: ignore[no-untyped-def, type-arg]
    with store.read() as connection:
        return list(connection.execute(select(feed_beats.c.sent_at).order_by(feed_beats.c.sent_at)).scalars())


def test_a_post_goes_a_week_after_it_was_applied_and_what_it_said_stays(store, world) -> None:
    attempt = world.send()
    world.told(world.event("delivered", attempt=attempt))
    later(store, days=7, hours=-1)
    assert purge(store, keep=WEEK).posts == 0
    assert kept(store) == 1
    later(store, hours=2)
    assert purge(store, keep=WEEK).posts == 1
    assert kept(store) == 0
    assert world.row().delivered_at is not None
    with store.read() as connection:
        assert connection.execute(select(receipts.c.kind)).scalars().all() == ["delivered"]


def test_a_post_that_waits_to_be_applied_stays_however_old_it_is(store, world) -> None:
    attempt = world.send()
    body = json.dumps([world.event("delivered", attempt=attempt)]).encode()
    tracking.append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    later(store, days=60)
    assert purge(store, keep=WEEK).posts == 0
    assert tracking.apply_inbox(store).new == 1
    assert purge(store, keep=WEEK).posts == 0


def test_a_post_told_again_after_it_went_is_still_the_same_fact(store, world) -> None:
    click = world.event("click", attempt=world.send(), url="https://example.com")
    assert world.told(click).new == 1
    later(store, days=7, hours=1)
    assert purge(store, keep=WEEK).posts == 1
    again = world.told(click)
    assert (again.new, again.known) == (0, 1)


def test_more_than_a_transaction_may_hold_goes_in_several(store) -> None:
    sizes = [2] * 1_100 + [3_000_000] * 4
    rows = [
        {"kind": "sendgrid.events", "query": "{}", "body": b" " * size, "received_at": at, "applied_at": at}
        for number, size in enumerate(sizes)
        for at in (store.clock.now() + timedelta(seconds=number),)
    ]
    with store.write() as connection:
        connection.execute(insert(inbox), rows)
    later(store, days=7, hours=1)
    taken: list[int] = []

    def note(*given) -> None:  # type: ignore[no-untyped-def]
        _, _, statement, parameters, *_ = given
        if statement.startswith("DELETE FROM inbox"):
            taken.append(len(parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert purge(store, keep=WEEK).posts == len(sizes)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert taken == [500, 500, 102, 2]
    assert kept(store) == 0


def test_heartbeats_go_with_the_run_that_rests_on_them_and_not_before(store, world) -> None:
    begun = store.clock.now()
    with store.write() as connection:
        connection.execute(update(runs).values(state=RunState.EXECUTING, first_accepted_at=begun))
    beat_every_hour(store, begun - 30 * DAY, begun + 30 * DAY)
    later(store, days=30)

    def feed_of_the_run() -> feed.Feed:
        rhythm = feed.rhythm(30 * DAY, store.clock)
        with store.read() as connection:
            return feed.read(
                connection, Channel.EMAIL, since=begun, events={"delivered"}, rhythm=rhythm, now=store.clock.now()
            )

    before = feed_of_the_run()
    assert purge(store, keep=WEEK).beats == 3 * 30 * 24
    assert feed_of_the_run() == before
    assert begun in beats(store)
    with store.write() as connection:
        connection.execute(update(runs).values(state=RunState.FINISHED))
    assert purge(store, keep=WEEK).beats == 3 * 23 * 24
    assert beats(store)[0] == store.clock.now() - WEEK


def test_a_run_that_has_sent_nothing_yet_keeps_the_heartbeats_since_it_was_planned(store, world) -> None:
    planned = store.clock.now()
    beat_every_hour(store, planned - DAY, planned + 20 * DAY)
    later(store, days=20)
    assert purge(store, keep=WEEK).beats == 3 * 24
    assert beats(store)[0] == planned


@pytest.mark.parametrize(("days", "gone"), [("3", 1), ("5", 0)])
def test_upkeep_purges_what_the_settings_say(store, world, monkeypatch, days, gone) -> None:
    monkeypatch.setenv("COMMPLAN_RAW_DAYS", days)
    world.told(world.event("delivered", attempt=world.send()))
    later(store, days=4)
    with disable_run_logger():
        upkeep.purge.fn(store)
    assert kept(store) == 1 - gone


def test_where_there_is_nothing_old_nothing_goes(store, world) -> None:
    assert purge(store, keep=WEEK) == Purged(posts=0, beats=0)
