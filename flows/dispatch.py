"""Dispatch: what is due of a step goes out, from the machine of its campaign and from any other that lends a hand.

Whoever sends reads everything from the store; the ledger gives each message to one of them.
"""

from __future__ import annotations

from contextlib import closing

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from commplan import campaign as work
from commplan.campaign import Campaign
from commplan.dispatch import Tally
from commplan.settings import load_settings
from commplan.store import open_store
from commplan.terms import RunState
from flows.guard import guarded


@flow(name="dispatch", retries=0, persist_result=False)
@guarded
def dispatch(run_key: str, step: int) -> None:
    """Help a campaign to send one of its steps; ends when nothing of it is due, or somebody keeps the campaign back.

    Args:
        run_key: The campaign's run, as the ledger names it, such as onboarding@2026-12-01.
        step: The number of the step in the plan's sequence, from 1.
    """
    settings = load_settings()
    store = open_store(settings, create=False)
    try:
        with closing(work.join(store, settings, key=run_key, step_no=step)) as running:
            if running.state is RunState.EXECUTING:
                send(running, step)
            else:
                get_run_logger().info("%s; there is nothing to help with", running.standing)
    finally:
        store.dispose()


def send(running: Campaign, step_no: int) -> None:
    """Send what is due of a step, by as many senders on this machine as are worth it."""
    step, senders = running.plan.sequence[step_no - 1], running.senders(step_no)
    futures = []
    for number in range(1, senders + 1):
        part = f" · {number} of {senders}" if senders > 1 else ""
        named = send_part.with_options(task_run_name=f"{step.step} · {step.channel}{part}")
        futures.append(named.submit(running, step_no, alone=number == 1))
    tally = Tally()
    for future in futures:
        tally += future.result()
    if senders:
        get_run_logger().info(
            "%s: %s accepted, %s refused, %s unknown", step.step, tally.accepted, tally.rejected, tally.unknown
        )
    if tally.postponed:
        get_run_logger().warning(
            "%s: the provider did not take %s messages for now; they are tried again", step.step, tally.postponed
        )


# Prefect never runs a task that sends a second time, and keeps nothing of it: the ledger is the memory.
@task(name="dispatch", retries=0, cache_policy=NO_CACHE, persist_result=False)
@guarded
def send_part(running: Campaign, step_no: int, *, alone: bool) -> Tally:
    """Send what is due of a step, as one of its senders: claim, last look, send, close, until nothing is due."""
    return running.dispatch(step_no, alone=alone)
