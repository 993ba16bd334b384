"""Amounts of money: a decimal and a currency, kept as whole micro-units so that sums are exact.

Never a float.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

_AMOUNT = re.compile(r"^(\d+(?:\.\d{1,6})?) ?([A-Z]{3})$")


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """`micros` millionths of one unit of `currency` (ISO 4217)."""

    micros: int
    currency: str

    @classmethod
    def parse(cls, text: str) -> Money:
        """Return the amount written as ``500.00 USD``; ValueError otherwise."""
        match = _AMOUNT.match(text.strip())
        if not match:
            raise ValueError(f"{text!r} is not an amount of money; write it like 500.00 USD")
        return cls(int(Decimal(match[1]) * 1_000_000), match[2])

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Money(self.micros + other.micros, self.currency)

    def __mul__(self, count: int) -> Money:
        return Money(self.micros * count, self.currency)

    @property
    def amount(self) -> Decimal:
        """The amount in whole units."""
        return Decimal(self.micros) / 1_000_000

    def __str__(self) -> str:
        return f"{self.amount:.2f} {self.currency}"
