"""How single values are written in a plan: names, durations, targets, hours, zones, references to the environment.

Never repeats a wrong value that may be an address or a secret. Every function here takes the text, or the value it
stands for, and raises ValueError ``rule; remedy`` for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from commplan import condition
from commplan.errors import quoted
from commplan.terms import Metric
from commplan.window import Window

#: A name, and how other values are written; the whole text must match.
NAME = re.compile(r"[a-z][a-z0-9-]{0,59}")
LOCALE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
ENV = re.compile(r"env:[A-Z][A-Z0-9_]*")
DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,7})M)?(?:(\d{1,9})S)?)?", re.ASCII
)
NUMBER = r"(-?\d{1,12}(?:\.\d{1,6})?)(%?)"
TARGET = re.compile(rf"(at least|at most) {NUMBER}", re.ASCII)
_SHARE = re.compile(NUMBER, re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_COUNT = re.compile(r"\d{1,12}", re.ASCII)

#: Words that stand for every topic, and for all of marketing, wherever an opt-out names what it is from.
NO_TOPICS = frozenset({"all", "marketing"})

#: Longest duration a plan may use.
MAX_DURATION = timedelta(days=3650)


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known word that `word` was probably meant to be, None if none is close."""
    folded = {name.lower().replace("-", "_"): name for name in islice(known, 1000)}
    found = get_close_matches(word[:60].lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def suggestion(word: str, known: Collection[str]) -> str:
    """Return a remedy for a word that is none of `known`: the nearest, or all of them; never what may be private."""
    known = [name for name in islice(known, 100) if quoted(name) == f'"{name}"']
    if (match := nearest(word, known)) is not None:
        return f"did you mean {match}?"
    if len(known) > 10:
        return "write one of those that the plan defines"
    if len(known) == 1:
        return f"write {known[0]}"
    return f"write one of {', '.join(known)}" if known else "there is none to choose from"


def parse_duration(text: object) -> timedelta:
    """Return an ISO 8601 duration in weeks, days, hours, minutes and seconds (months and years have no fixed length).

    ValueError for anything else, and for more than `MAX_DURATION`.
    """
    if isinstance(text, timedelta):
        return text
    match = DURATION.fullmatch(str(text))
    if not match:
        raise ValueError(f"{quoted(text)} is not an ISO 8601 duration; write {_likely_duration(str(text))}")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    if duration > MAX_DURATION:
        raise ValueError(f"{quoted(text)} is longer than ten years; write P{MAX_DURATION.days}D or less")
    return duration


_UNITS = {"w": "P{}W", "d": "P{}D", "h": "PT{}H", "m": "PT{}M", "s": "PT{}S"}


def _likely_duration(text: str) -> str:
    match = re.fullmatch(r"\s*(\d{1,4}) ?(w|d|h|m(?=i|$)|s)[a-z]*\s*", text.lower(), re.ASCII)
    return _UNITS[match[2]].format(int(match[1])) if match else "P2D, P1W or PT4H"


def write_duration(duration: timedelta) -> str:
    """Return the ISO 8601 form that `parse_duration` reads."""
    days, rest = duration.days, duration.seconds
    clock = "".join(f"{n}{unit}" for n, unit in ((rest // 3600, "H"), (rest // 60 % 60, "M"), (rest % 60, "S")) if n)
    return "P" + (f"{days}D" if days or not clock else "") + (f"T{clock}" if clock else "")


def parse_positive(value: object) -> timedelta:
    """Return a duration above zero."""
    duration = parse_duration(value)
    if duration <= timedelta(0):
        raise ValueError(f"{quoted(value)} is no time at all; write a duration above zero")
    return duration


def parse_zone(value: object) -> ZoneInfo:
    """Return the IANA time zone of that name."""
    if isinstance(value, ZoneInfo):
        return value
    text = str(value)
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # no such file; not a relative path; a folder or a name too long
        likely = nearest(text, sorted(available_timezones())) or "Asia/Shanghai"
        raise ValueError(f"{quoted(text)} is not a time zone; write an IANA name such as {likely}") from None


def parse_window(value: object) -> Window:
    """Return hours of the day."""
    return value if isinstance(value, Window) else Window.parse(str(value))


def parse_name(value: object) -> str:
    """Return the name of a plan, step, goal or the like; ValueError if it cannot be one."""
    text = str(value)
    if not NAME.fullmatch(text):
        likely = re.sub(r"[^a-z0-9]+", "-", text.lower()[:60]).strip("-")
        shown = quoted(text)
        example = likely if NAME.fullmatch(likely) and shown.startswith('"') else "welcome-vip"
        raise ValueError(f"{shown} is not a name; use small letters, digits and hyphens, at most 60, such as {example}")
    return text


def parse_locale(value: object) -> str:
    """Return a language as BCP 47 spells it, ``_`` tolerated; ValueError otherwise."""
    text = str(value)
    if len(text) > 35 or not LOCALE.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a language; write one such as en or zh-CN")
    return text


def parse_env(value: object) -> str:
    """Return a reference to a variable of the environment, ``env:NAME``."""
    text = str(value)
    if not ENV.fullmatch(text):
        # What stands here instead is likely to be the secret itself: it is not repeated.
        raise ValueError("must come from the environment; write env:NAME_OF_A_VARIABLE in capitals")
    return text


def parse_date(value: object) -> date:
    """Return the date written as ``2026-12-01``."""
    if isinstance(value, date):
        return value
    try:
        if DATE.fullmatch(str(value)):
            return date.fromisoformat(str(value))
    except ValueError:
        pass
    raise ValueError(f"{quoted(value)} is not a date; write it like 2026-12-01")


def parse_flag(value: object) -> bool:
    """Return what ``true`` or ``false`` says."""
    if isinstance(value, bool):
        return value
    if str(value) not in ("true", "True", "TRUE", "false", "False", "FALSE"):
        raise ValueError(f"{quoted(value)} is neither yes nor no; write true or false")
    return str(value).lower() == "true"


def parse_count(value: object) -> int:
    """Return a whole number above zero."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif _COUNT.fullmatch(str(value)):
        number = int(str(value))
    else:
        raise ValueError(f"{quoted(value)} is not a whole number; write digits only, such as 1000")
    if number < 1:
        raise ValueError(f"{quoted(value)} is too small; write 1 or more")
    return number


def parse_share(value: object) -> Decimal:
    """Return the number written as ``31%`` (a fraction of 1) or ``4.2``; ValueError otherwise."""
    if isinstance(value, Decimal):
        return value
    match = _SHARE.fullmatch(str(value))
    if not match:
        raise ValueError(f"{quoted(value)} is not a number; write 31% or 4.2")
    return Decimal(match[1]) / 100 if match[2] else Decimal(match[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound that a metric must keep; shares are fractions of 1."""

    bound: Literal["at least", "at most"]
    value: Decimal
    is_share: bool

    @classmethod
    def parse(cls, text: object) -> Target:
        """Return the target written as ``at least 40%`` or ``at most 4.2``; ValueError otherwise."""
        if isinstance(text, Target):
            return text
        match = TARGET.fullmatch(str(text))
        if not match:
            raise ValueError(f"{quoted(text)} is not a target; write `at least 40%` or `at most 2%`")
        value = Decimal(match[2])
        bound: Literal["at least", "at most"] = "at least" if match[1] == "at least" else "at most"
        return cls(bound=bound, value=value / 100 if match[3] else value, is_share=bool(match[3]))

    def __str__(self) -> str:
        shown = f"{(self.value * 100).normalize():f}%" if self.is_share else f"{self.value.normalize():f}"
        return f"{self.bound} {shown}"


def parse_line(limit: int) -> Callable[[object], str]:
    """Return a parser of text that fits on one line of `limit` characters."""

    def parse(value: object) -> str:
        text = str(value)
        if not text.strip():
            raise ValueError("is empty; write some text, or leave the line out")
        if len(text) > limit or not text.isprintable():
            raise ValueError(f"is not one line of at most {limit} characters; shorten it")
        return text

    return parse


def parse_text(value: object) -> str:
    """Return text that is not empty."""
    if not str(value).strip():
        raise ValueError("is empty; write some text, or leave the line out")
    return str(value)


def parse_metric(value: object) -> str:
    """Return the name of a metric, or ``conversion.<name>``."""
    text = str(value)
    kind, dot, name = text.partition(".")
    if kind == "conversion" and dot:
        return f"conversion.{parse_name(name)}"
    if text not in tuple(Metric):
        likely = nearest(text, tuple(Metric))
        known = f"did you mean {likely}?" if likely else f"write one of {', '.join(Metric)}, or conversion.<name>"
        raise ValueError(f"{quoted(text)} is not a metric; {known}")
    return text


def parse_when(value: object) -> str:
    """Return the text of a condition that can be read."""
    condition.parse(str(value))
    return str(value)


def parse_enroll(value: object) -> Literal["once", "every_run"] | timedelta:
    """Return a rule of enrolment: ``once``, ``every_run``, or once in a duration."""
    if value == "once":
        return "once"
    if value == "every_run":
        return "every_run"
    try:
        return parse_positive(value)
    except ValueError:
        raise ValueError(f"{quoted(value)} is not a rule of enrolment; write once, every_run or P90D") from None


def parse_localized(value: object) -> object:
    """Return one text, or one for each language."""
    if isinstance(value, dict):
        if not value:
            raise ValueError("has no language; write one text, or one for each language")
        for locale, text in value.items():
            parse_locale(locale)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"has no text for {locale}; write one")
        return value
    if isinstance(value, list | tuple):
        raise ValueError("is a list where text belongs; write one text, or one for each language")
    return parse_text(value)
