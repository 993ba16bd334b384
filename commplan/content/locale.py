"""Which of the languages that exist is right for a person: BCP 47 tags, compared and shortened.

Knows no language by name, and never guesses a script or a region.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A language tag as file names and CRMs spell it: ``zh``, ``zh-TW``, ``zh_Hant_TW``.
TAG = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")


def normalise(tag: str) -> str:
    """Return a tag in the one spelling used for comparison: lower case, hyphens."""
    return tag.strip().replace("_", "-").lower()


def fallbacks(tag: str | None) -> Iterator[str]:
    """Yield a tag and what it shortens to, most exact first: ``zh-hant-tw``, ``zh-hant``, ``zh``.

    The lookup of RFC 4647 §3.4: subtags are dropped from the right, a single-letter one together with its successor.
    Something that is no tag yields nothing.
    """
    if tag is None or not TAG.fullmatch(tag.strip()):
        return
    subtags = normalise(tag).split("-")
    while subtags:
        yield "-".join(subtags)
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:
            subtags.pop()
