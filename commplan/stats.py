"""What chance alone can do: intervals and tests, computed by scipy.

Judges no goal: a count over the whole audience is a fact, and chance is only how much of it would come back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Confidence of every interval here, and 1 minus the error that every test allows.
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval; `low` ≤ `high`."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """Return the Wilson score interval of a share (Wilson 1927), at `CONFIDENCE`; ValueError without trials."""
    from scipy.stats import binomtest  # noqa: PLC0415 (half a second that most commands never need)

    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(max(0.0, float(found.low)), min(1.0, float(found.high)))


def differs_from(successes: int, trials: int, share: float) -> float:
    """Return the two-sided p-value of the exact binomial test that the share behind the trials is `share`."""
    from scipy.stats import binomtest  # noqa: PLC0415

    return float(binomtest(successes, trials, share).pvalue)


def differ(successes: tuple[int, int], trials: tuple[int, int]) -> float:
    """Return the two-sided p-value of Fisher's exact test that two groups share one rate."""
    import numpy as np  # noqa: PLC0415
    from scipy.stats import fisher_exact  # noqa: PLC0415

    table = np.array([[s, t - s] for s, t in zip(successes, trials, strict=True)])
    return float(fisher_exact(table).pvalue)


def mean_interval(counts: Mapping[float, int]) -> tuple[float, Interval]:
    """Return the mean of values given with how often each occurs, and Student's interval around it at `CONFIDENCE`.

    ValueError for fewer than two values: one value says nothing of its own spread.
    """
    from scipy.stats import t  # noqa: PLC0415

    total = sum(counts.values())
    if total < 2:
        raise ValueError("an interval around a mean needs two values")
    mean = math.fsum(value * count for value, count in counts.items()) / total
    variance = math.fsum(count * (value - mean) ** 2 for value, count in counts.items()) / (total - 1)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, total - 1)) * math.sqrt(variance / total)
    return mean, Interval(mean - reach, mean + reach)


def holm(p_values: Sequence[float]) -> list[bool]:
    """Tell for each test whether it still stands at 1 − `CONFIDENCE` when all were looked at (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    stands = [False] * len(p_values)
    for place, i in enumerate(order):
        if p_values[i] > (1 - CONFIDENCE) / (len(p_values) - place):
            break
        stands[i] = True
    return stands
