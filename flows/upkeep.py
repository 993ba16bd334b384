"""Upkeep: every minute, what no single run can do for itself. Brings silent runs back, applies what came in,
and drops what was kept long enough.

``python -m flows.upkeep`` brings silent runs back once, without a flow run.
"""

from __future__ import annotations

import os
from datetime import timedelta

from prefect import State, flow, get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from commplan import campaign as work
from commplan import logs
from commplan.ledger.retention import purge as drop_old
from commplan.ledger.revival import SILENCE
from commplan.ledger.upkeep import at_work
from commplan.reviver import Revival
from commplan.reviver import revive as revive_silent
from commplan.settings import load_settings
from commplan.store import Store, open_store
from flows.guard import guarded
from flows.orchestrator import PrefectOrchestrator


@flow(name="upkeep", flow_run_name="upkeep", retries=0, persist_result=False)
@guarded
def upkeep(silence: float = SILENCE.total_seconds()) -> list[State[None]]:
    """Bring back runs, apply what waits, tell of feedback, prove the feed, poll, settle, keep lists in step, purge.

    Args:
        silence: Seconds after which a run that has not been heard of is looked after.
    """
    store = open_store(load_settings())
    at_work(store)
    # One that fails keeps none of the others from its turn; the flow run fails with it.
    return [
        receipts(store, return_state=True),
        feedback(store, return_state=True),
        beats(store, return_state=True),
        polls(store, return_state=True),
        settle(store, return_state=True),
        lists(store, return_state=True),
        revive(store, silence, return_state=True),
        purge(store, return_state=True),
    ]


@task(task_run_name="receipts", cache_policy=NO_CACHE)
@guarded
def receipts(store: Store) -> None:
    """Apply what providers have posted, where no receiver has done it."""
    applied = work.apply_receipts(store)
    if applied:
        get_run_logger().info("applied %s receipts", f"{applied:,}")


@task(task_run_name="feedback", cache_policy=NO_CACHE)
@guarded
def feedback(store: Store) -> None:
    """Tell owners that people wrote, once an hour at most."""
    work.tell_of_feedback(store, load_settings())


@task(task_run_name="beats", cache_policy=NO_CACHE)
@guarded
def beats(store: Store) -> None:
    """Prove the feeds that runs rest on, while none of their processes is awake."""
    work.prove_feeds(store, load_settings())


@task(task_run_name="polls", cache_policy=NO_CACHE)
@guarded
def polls(store: Store) -> None:
    """Ask about texts whose callbacks never arrived."""
    polled = work.poll_texts(store, load_settings())
    if polled.asked:
        get_run_logger().info("asked about %s texts, of which %s have come to an end", polled.asked, polled.told)


@task(task_run_name="settle", cache_policy=NO_CACHE)
@guarded
def settle(store: Store) -> None:
    """Ask the providers about requests whose outcome nobody knows."""
    for run, settled in work.settle_runs(store, load_settings(), force=False):
        if settled.asked:
            get_run_logger().info("%s: asked about %s requests of unknown outcome", run.run_key, settled.asked)


@task(task_run_name="lists", cache_policy=NO_CACHE)
@guarded
def lists(store: Store) -> None:
    """Take in the email provider's suppression lists, and put our opt-outs into its groups."""
    pulled, pushed = work.exchange_lists(store, load_settings())
    if pulled.new or pushed.joined or pushed.left:
        get_run_logger().info(
            "%s new on the suppression lists; %s put into unsubscribe groups, %s taken out",
            *(f"{count:,}" for count in (pulled.new, pushed.joined, pushed.left)),
        )
    for why in filter(None, (pulled.failure, pushed.failure)):
        get_run_logger().warning("the suppression lists wait: %s", why)


@task(task_run_name="revive", cache_policy=NO_CACHE)
@guarded
def revive(store: Store, silence: float) -> None:
    """Look after the runs that have been silent for so many seconds."""
    done = _revive(store, silence)
    if done != Revival():
        get_run_logger().warning("%s started again, %s cancelled, %s held", done.revived, done.cancelled, done.held)


@task(task_run_name="purge", cache_policy=NO_CACHE)
@guarded
def purge(store: Store) -> None:
    """Drop raw posts, and heartbeats, that were kept as long as the settings say."""
    gone = drop_old(store, keep=timedelta(days=load_settings().raw_days))
    if gone.posts or gone.beats:
        get_run_logger().info("purged %s posts and %s heartbeats", f"{gone.posts:,}", f"{gone.beats:,}")


def _revive(store: Store, silence: float) -> Revival:
    with get_client(sync_client=True) as client:
        return revive_silent(store, PrefectOrchestrator(client), os.environ, silence=timedelta(seconds=silence))


def main() -> None:
    """Bring silent runs back once."""
    logs.set_up()
    store = open_store(load_settings())
    at_work(store)
    _revive(store, SILENCE.total_seconds())
    store.dispose()


if __name__ == "__main__":
    main()
