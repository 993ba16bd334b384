"""Skeletons: finished texts that many people share, with placeholders where they differ.

A skeleton of many people holds nothing of any one of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from commplan.returnaddress import FILLED_BYTES
from commplan.terms import Channel

#: Bytes that one recipient's placeholders and values may take in a request: the strictest limit SendGrid publishes,
#: less what each recipient's address for answers takes of it.
MAX_VALUES = 10_000 - FILLED_BYTES


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Finished texts: put the values where the placeholders are, and the message is as its recipient sees it.

    `content` and `locale` say which files it came from. An SMS has only `text`, and `links` names those of its
    links that are counted, in their order.
    """

    content: str
    channel: Channel
    locale: str
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    placeholders: tuple[str, ...] = field(repr=False)
    links: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the skeleton, as hex."""
        said = (self.content, self.channel, self.locale, self.subject, self.text, self.html)
        parts = (*said, *self.placeholders, *self.links)
        measured = b"".join(b"%d:%b" % (len(data), data) for data in (part.encode() for part in parts))
        return hashlib.sha256(measured).hexdigest()


class Link(NamedTuple):
    """A link that is counted: which of a message's values it is, and where it leads."""

    place: int
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One person's message: a skeleton, and the values in the order of its placeholders, escaped for where they stand.

    `parts` is the number of SMS parts, None for an email. `oversize` means that the values would not fit in a shared
    request: then the skeleton is this person's alone, already filled, and there are no values. At the place of each of
    `links` the values have a stand-in of the same length.
    """

    skeleton: Skeleton
    values: tuple[str, ...] = field(repr=False)
    parts: int | None = None
    oversize: bool = False
    links: tuple[Link, ...] = field(default=(), repr=False)

    def subject(self) -> str:
        """Return the subject as this person sees it."""
        return fill(self.skeleton.subject, self.skeleton.placeholders, self.values)

    def text(self) -> str:
        """Return the plain text, or the SMS, as this person sees it."""
        return fill(self.skeleton.text, self.skeleton.placeholders, self.values)

    def html(self) -> str:
        """Return the HTML as this person's mail program gets it."""
        return fill(self.skeleton.html, self.skeleton.placeholders, self.values)


def fill(text: str, placeholders: Sequence[str], values: Sequence[str]) -> str:
    """Put values where their placeholders are, in one pass: nothing inside a value is replaced."""
    if len(placeholders) != len(values):
        raise ValueError(f"{len(placeholders)} placeholders, {len(values)} values")
    if not placeholders:
        return text
    by_placeholder = dict(zip(placeholders, values, strict=True))
    return _pattern(tuple(placeholders)).sub(lambda match: by_placeholder[match[0]], text)


def values_size(placeholders: tuple[str, ...], values: Sequence[str]) -> int:
    """Return the bytes that placeholders and values take as a JSON object in UTF-8, quotes and commas counted."""
    return len("".join(values).encode()) + placeholders_size(placeholders)


@lru_cache(maxsize=256)
def placeholders_size(placeholders: tuple[str, ...]) -> int:
    """Return the bytes of `values_size` that the values have no part in."""
    return sum(map(len, placeholders)) + 6 * len(placeholders)


@lru_cache(maxsize=256)
def _pattern(placeholders: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(placeholders, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
