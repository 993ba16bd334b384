"""What a condition takes from silence."""

from __future__ import annotations

import pytest

from commplan.condition import parse
from commplan.silence import silences


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("not responded(a)", ["responded(a)"]),
        ("responded(a)", []),
        ("not not clicked(a)", []),
        ("clicked(a) and not converted(b)", ["converted(b)"]),
        ("not (opened(a) or clicked(a) and not replied(b))", ["opened(a)", "clicked(a)"]),
        ("not answered(a) or undelivered(a)", ["answered(a)"]),
        ("not delivered(a) and not undelivered(a)", []),
    ],
)
def test_a_condition_rests_on_the_silence_that_could_make_it_hold(condition, found):
    assert [str(claim) for claim in silences(parse(condition))] == found


def test_a_step_without_a_condition_rests_on_nothing():
    assert list(silences(None)) == []
