"""Chance that can be repeated: every draw is a hash of the seed, of whom it concerns and of what is asked.

Never depends on the order in which anything arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Draws for one subject (a person, or a person's nth message); each question has one answer for ever."""

    __slots__ = ("_key",)

    def __init__(self, seed: int, *subject: object) -> None:
        self._key = "|".join(map(str, (seed, *subject))).encode()

    def draw(self, question: str) -> float:
        """Return a number in [0, 1)."""
        digest = blake2b(question.encode(), key=blake2b(self._key, digest_size=32).digest(), digest_size=7)
        return int.from_bytes(digest.digest(), "big") / (1 << 56)

    def chance(self, question: str, share: float) -> bool:
        """Return True in `share` of all subjects."""
        return self.draw(question) < share

    def between(self, question: str, low: float, high: float) -> float:
        """Return a number, evenly spread."""
        return low + self.draw(question) * (high - low)

    def delay(self, question: str, mean: float, most: float) -> float:
        """Return a waiting time around `mean` with a long tail (exponential), never above `most`."""
        return min(most, -math.log(1.0 - self.draw(question)) * mean)

    def pick(self, question: str, options: Sequence[T]) -> T:
        """Return one of several."""
        return options[int(self.draw(question) * len(options))]
