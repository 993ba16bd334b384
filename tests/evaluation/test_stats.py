"""Intervals and tests agree with their definitions and with published figures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from commplan import stats

_SHARES = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(_SHARES)
def test_wilson_is_where_the_score_test_just_does_not_reject(share):
    k, n = share
    interval = stats.wilson(k, n)
    assert 0 <= interval.low <= k / n <= interval.high <= 1
    z = norm.ppf(0.975)
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            assert abs(k / n - bound) / math.sqrt(bound * (1 - bound) / n) == pytest.approx(z, rel=1e-6)


def test_wilson_matches_newcombes_published_example():
    # Newcombe (1998), Statistics in Medicine 17:857, table I: 81 of 263, score method without correction.
    interval = stats.wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_a_coin_that_falls_nine_times_of_ten_differs_from_a_fair_one():
    assert stats.differs_from(9, 10, 0.5) == pytest.approx(22 / 1024)
    assert stats.differs_from(8, 10, 0.5) == pytest.approx(112 / 1024)


def test_fishers_tea_tasting():
    # Fisher (1935): all eight cups right, two-sided.
    assert stats.differ((4, 0), (4, 4)) == pytest.approx(2 / 70)


def test_the_interval_around_a_mean_is_students():
    mean, interval = stats.mean_interval({3.0: 1, 4.0: 1, 5.0: 1})
    # t(0.975, 2) = 4.3027; standard error 1/sqrt(3)
    assert mean == 4
    assert interval.high - 4 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 4 - interval.low == pytest.approx(interval.high - 4)


def test_one_answer_has_no_interval():
    with pytest.raises(ValueError, match="two values"):
        stats.mean_interval({5.0: 1})


def test_holm_rejects_in_order_and_stops_at_the_first_that_stands():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert stats.holm([0.06]) == [False]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_rejects_more_than_each_test_alone_nor_less_than_bonferroni(p_values):
    for p, stands in zip(p_values, stats.holm(p_values), strict=True):
        assert not stands or p <= 0.05 + 1e-12
        assert stands or p > 0.05 / len(p_values) - 1e-12
