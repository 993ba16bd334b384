"""Books: what the providers know of requests whose outcome nobody knows, and whether it all adds up."""

from __future__ import annotations

from dataclasses import replace

from commplan.campaign.listening import apply_receipts
from commplan.campaign.opening import Campaign
from commplan.ledger import close, proof, unsettled
from commplan.ledger import run as ledger_run
from commplan.ledger.run import Run
from commplan.settings import Settings
from commplan.settle import Settled
from commplan.store import Store
from commplan.witness import ask_sandbox


def settle_runs(
    store: Store, settings: Settings, key: str | None = None, *, force: bool = True
) -> list[tuple[Run, Settled]]:
    """Ask the providers about the unknown outcomes of a run, or of all runs; receipts are applied first.

    About all of them at once, or without `force` about those that are due for it, as a run in progress does. Returns
    the runs that had any, each with what came of it. RunError when there is no such run.
    """
    chosen = [ledger_run.find_run(store, key)] if key is not None else ledger_run.list_runs(store, limit=10_000)
    apply_receipts(store)
    found: list[tuple[Run, Settled]] = []
    for run in chosen:
        close.sweep(store, run.run_id)
        with store.read() as connection:
            if not unsettled.exist(connection, run.run_id):
                continue
        here = Campaign(store, settings, run)
        try:
            found.append((run, here.settle(force=force)))
        finally:
            here.close()
    return found


def prove(store: Store, settings: Settings, key: str, *, witness: bool = True) -> proof.Proof:
    """Return the books of a run, held against the sandbox's own count where there is one and `witness` is asked for.

    RunError when there is no such run, or the sandbox does not answer.
    """
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        found = proof.balance(connection, run.run_id, run.run_key)
    checks = ask_sandbox(store, settings, run.run_id) if witness else ()
    return replace(found, checks=(*found.checks, *checks))
