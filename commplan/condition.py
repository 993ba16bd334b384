"""The language of ``when``: claims about an earlier step, joined by ``and``, ``or``, ``not`` and parentheses.

``responded(step)`` means a click or better; ``responded(step, open)`` and ``responded(step, answer)`` ask for less and
for more.

Only the language, never what a claim means in the ledger. Every claim is three-valued: of a message that was not
delivered it is unknown whether it was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from commplan.errors import quoted

#: Claims about the same person's message in an earlier step.
STEP_CLAIMS = ("responded", "opened", "clicked", "replied", "answered", "delivered", "undelivered")
#: What `responded` may ask for, least first: each counts what stands after it, too. An answer is a reply, a survey
#: answer or a conversion; only what people did counts, never what machines did.
GRADES = ("open", "click", "answer")
#: What `responded` asks for when it says nothing.
DEFAULT_GRADE = "click"
#: Claims about a conversion of the same person.
CONVERSION_CLAIMS = ("converted",)
#: Deepest nesting, so that no plan can exhaust the stack here or in a database.
MAX_DEPTH = 20
#: Most claims in one condition.
MAX_CLAIMS = 50

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*|\S")
_EXAMPLE = "write it like `not responded(welcome)`"


@dataclass(frozen=True, slots=True)
class Claim:
    """``verb(subject)``; the subject names a step, or for ``converted`` a conversion.

    `grade` is what ``responded(step, grade)`` asks for, None where none is written.
    """

    verb: str
    subject: str
    grade: str | None = None

    def __str__(self) -> str:
        return f"{self.verb}({self.subject})" if self.grade is None else f"{self.verb}({self.subject}, {self.grade})"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; unknown stays unknown."""

    part: Condition

    def __str__(self) -> str:
        return f"not {_inside(self.part)}"


@dataclass(frozen=True, slots=True)
class And:
    """Every part."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(_inside(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """Any part."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " or ".join(_inside(part) for part in self.parts)


Condition = Claim | Not | And | Or


def _inside(part: Condition) -> str:
    return f"({part})" if isinstance(part, And | Or) else str(part)


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
    """Return the condition written in `text`, which ``str`` of the result writes again; ValueError ``rule; remedy``.

    ``not`` binds closer than ``and``, ``and`` closer than ``or``.
    """
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the words and signs of a condition."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0
        self._depth = 0
        self._claims = 0

    def parse(self) -> Condition:
        condition = self._any()
        if (rest := self._next()) is not None:
            raise ValueError(f"{quoted(rest)} is not expected here; join claims with and, or, not")
        return condition

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, expected: str) -> str:
        token = self._next()
        if token is None:
            raise ValueError(f"it ends where {expected} should follow; {_EXAMPLE}")
        self._at += 1
        return token

    def _sign(self, sign: str) -> None:
        if (token := self._take(sign)) != sign:
            raise ValueError(f"{sign} is missing before {quoted(token)}; {_EXAMPLE}")

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._next() == "or":
            self._at += 1
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._next() == "and":
            self._at += 1
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep; make it simpler")
        word = self._take("a claim")
        condition: Condition
        if word == "not":
            condition = Not(self._one())
        elif word == "(":
            condition = self._any()
            self._sign(")")
        else:
            condition = self._claim(word)
        self._depth -= 1
        return condition

    def _claim(self, verb: str) -> Claim:
        known = (*STEP_CLAIMS, *CONVERSION_CLAIMS)
        if verb not in known:
            near = get_close_matches(verb[:60].lower(), (*known, "and", "or", "not"), n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{quoted(verb)} is not a claim; {remedy}")
        self._sign("(")
        subject = self._take("a name")
        if not subject[0].isalpha() or len(subject) > 60:
            raise ValueError(f"{quoted(subject)} is not a name; {_EXAMPLE}")
        grade = self._grade(verb) if self._next() == "," else None
        self._sign(")")
        self._claims += 1
        if self._claims > MAX_CLAIMS:
            raise ValueError(f"it makes more than {MAX_CLAIMS} claims; make it simpler")
        return Claim(verb, subject, grade)

    def _grade(self, verb: str) -> str:
        if verb != "responded":
            raise ValueError(f"{verb} takes one name; only responded takes a grade, like `responded(welcome, open)`")
        self._at += 1
        grade = self._take("a grade")
        if grade not in GRADES:
            near = get_close_matches(grade[:60].lower(), GRADES, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(GRADES)}"
            raise ValueError(f"{quoted(grade)} is no grade of a response; {remedy}")
        return grade
