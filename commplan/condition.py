"""The language of ``when``: claims about an earlier step, joined by ``and``, ``or``, ``not`` and parentheses.

Only the language: what a claim means in the ledger is the ledger's. Every claim is three-valued (RULES R10).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Claims about the same person's message in an earlier step.
STEP_CLAIMS = ("responded", "opened", "clicked", "replied", "answered", "delivered", "undelivered")
#: Claims about a conversion of the same person.
CONVERSION_CLAIMS = ("converted",)

_TOKEN = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9_-]*)|(.))")


@dataclass(frozen=True, slots=True)
class Claim:
    """``verb(subject)``; the subject names a step, or for ``converted`` a conversion."""

    verb: str
    subject: str


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; unknown stays unknown."""

    part: Condition


@dataclass(frozen=True, slots=True)
class And:
    """Every part."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any part."""

    parts: tuple[Condition, ...]


Condition = Claim | Not | And | Or


def claims(condition: Condition) -> Iterator[Claim]:
    """Yield every claim of a condition, left to right."""
    match condition:
        case Claim():
            yield condition
        case Not(part):
            yield from claims(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from claims(part)


def parse(text: str) -> Condition:
    """Return the condition written in `text`; ValueError says what is wrong and what is allowed."""
    return _Parser(text).parse()


class _Parser:
    """Recursive descent; at most 20 levels deep, so that no plan can exhaust the stack."""

    def __init__(self, text: str) -> None:
        self._tokens = [(word or sign).strip() for word, sign in _TOKEN.findall(text) if (word or sign).strip()]
        self._at = 0
        self._depth = 0

    def parse(self) -> Condition:
        condition = self._any()
        if self._next() is not None:
            raise ValueError(f"unexpected {self._next()!r}; join claims with and, or, not")
        return condition

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str:
        token = self._next()
        if token is None:
            raise ValueError(f"it ends too early; {expected or 'a claim'} is missing")
        if expected is not None and token != expected:
            raise ValueError(f"{expected!r} is missing before {token!r}")
        self._at += 1
        return token

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._next() == "or":
            self._take()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._next() == "and":
            self._take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > 20:
            raise ValueError("it is nested more than 20 levels deep; make it simpler")
        try:
            token = self._take()
            if token == "not":
                return Not(self._one())
            if token == "(":
                condition = self._any()
                self._take(")")
                return condition
            known = (*STEP_CLAIMS, *CONVERSION_CLAIMS)
            if token not in known:
                raise ValueError(f"{token!r} is not a claim; known are {', '.join(known)}")
            self._take("(")
            subject = self._take()
            self._take(")")
            return Claim(token, subject)
        finally:
            self._depth -= 1
