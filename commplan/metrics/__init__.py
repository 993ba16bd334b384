"""Read-only counts of one run: what became of every message and every person.

Never judges (that is evaluation's), never writes, and never carries anything that names a person.
"""

from commplan.metrics.count import (
    OPEN_STATES,
    Cell,
    Converted,
    Gathering,
    LinkClicks,
    Metrics,
    People,
    RunFacts,
    Scores,
    Tally,
    tally,
)
from commplan.metrics.query import measure

__all__ = [
    "OPEN_STATES",
    "Cell",
    "Converted",
    "Gathering",
    "LinkClicks",
    "Metrics",
    "People",
    "RunFacts",
    "Scores",
    "Tally",
    "measure",
    "tally",
]
