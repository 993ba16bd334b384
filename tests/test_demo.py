"""The demo's timetable."""

from __future__ import annotations

import pytest

from commplan.demo import day_for


@pytest.mark.parametrize(
    ("contacts", "load", "day"),
    [(1_000, 0.0, 4.0), (1_000, 0.9, 4.0), (1_000, 2.5, 10.0), (1_000, 50.0, 16.0), (10_000, 1.0, 25.0)],
)
def test_a_day_is_as_slow_as_its_people_and_a_busy_machine_need_and_no_slower(contacts, load, day):
    assert day_for(contacts, load=load) == day
