"""Of several late occasions only the newest is carried out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from commplan.ledger.occasion import Occasion, newer_due

NOW = datetime(2026, 12, 8, 9, 30, tzinfo=UTC)


def at(hours: float, *, called_off: bool = False) -> Occasion:
    return Occasion(flow_run_id=f"{hours}", scheduled=NOW + timedelta(hours=hours), called_off=called_off)


def test_a_late_occasion_gives_way_to_the_newest_that_is_due() -> None:
    assert newer_due(at(-72), [at(-72), at(-48), at(-24), at(1)], now=NOW) == at(-24)


def test_an_occasion_with_nothing_due_after_it_is_carried_out_however_late() -> None:
    assert newer_due(at(-24), [at(-72), at(-48), at(-24), at(1)], now=NOW) is None


def test_an_occasion_that_a_person_called_off_is_nobodys_successor() -> None:
    assert newer_due(at(-48), [at(-24, called_off=True)], now=NOW) is None


@given(st.lists(st.integers(-500, 500), min_size=1, unique=True))
def test_exactly_one_of_the_occasions_that_are_due_is_carried_out(hours: list[int]) -> None:
    occasions = [at(hour) for hour in hours]
    due = [one for one in occasions if one.scheduled <= NOW]
    carried_out = [one for one in due if newer_due(one, occasions, now=NOW) is None]
    assert carried_out == ([max(due, key=lambda one: one.scheduled)] if due else [])
