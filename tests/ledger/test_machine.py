"""No sequence of events breaks the ledger: Hypothesis looks for one, against books of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from commplan.store import Store
from tests.ledger.machine import LedgerMachine, World


def search(store: Store, *, examples: int, steps: int, shrinks: bool = False) -> None:
    """Look for a sequence that breaks something; `shrinks`: another one each time, made as short as can be."""

    class Machine(LedgerMachine):
        world = World.of(store)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not shrinks,
            # To shorten a sequence takes minutes: what was found is shown step by step as it is.
            phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_short_sequence_of_events_breaks_an_invariant_of_the_ledger(store: Store) -> None:
    search(store, examples=20 if store.is_sqlite else 5, steps=30)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_long_sequence_of_events_breaks_an_invariant_of_the_ledger(store: Store) -> None:
    search(store, examples=50 if store.is_sqlite else 20, steps=40)


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_no_sequence_of_events_that_a_long_search_finds_breaks_an_invariant_of_the_ledger(store: Store) -> None:
    search(store, examples=3_000, steps=80, shrinks=True)
