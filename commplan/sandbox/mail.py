"""What each recipient of a mail/send request receives: the content with that person's values in it.

Pure: a checked body in, envelopes out. Never sends or stores anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_HREF = re.compile(r"""<a\b[^>]*?\bhref\s*=\s*["']([^"']+)["'][^>]*>""", re.IGNORECASE)
_PLAIN_URL = re.compile(r"https?://[^\s<>\"']+")
_ENTITIES = {"&amp;": "&", "&#38;": "&", "&#x26;": "&"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link of a message; `tracked` unless it says ``clicktracking=off``."""

    url: str
    tracked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One message to one mailbox, as it arrives."""

    to: str = field(repr=False)
    sender: str
    #: Where answers go; None: to the sender, where nobody of the sandbox reads them.
    reply_to: str | None = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    links: tuple[Link, ...] = field(repr=False)
    args: Mapping[str, str]
    categories: tuple[str, ...]
    send_at: int | None
    personalization: int


def envelopes(body: Mapping[str, Any], *, nested: bool) -> Iterator[Envelope]:
    """Yield what each recipient of a checked request receives.

    `nested`: tags inside substituted values are substituted again, as a careless implementation would.
    """
    blocks = {block["type"]: block["value"] for block in body["content"]}
    html, text = _Skeleton(blocks.get("text/html", "")), _Skeleton(blocks.get("text/plain", ""))
    for position, given in enumerate(body["personalizations"]):
        # What broke a rule and was let through arrives as a message to nobody, and is dropped.
        person = _mapping(given)
        values = {tag: str(value) for tag, value in _mapping(person.get("substitutions")).items()}
        subject = _Skeleton(str(person.get("subject") or body.get("subject") or "")).filled(values, nested)
        reply_to = _Skeleton(str(_mapping(body.get("reply_to")).get("email", ""))).filled(values, nested)
        own_html, own_text = html.filled(values, nested), text.filled(values, nested)
        links = _links(own_html, own_text)
        for kind in ("to", "cc", "bcc"):
            entries = person.get(kind) or ([{}] if kind == "to" else [])
            for entry in entries if isinstance(entries, list) else [{}]:
                yield Envelope(
                    to=str(_mapping(entry).get("email", "")),
                    sender=str(_mapping(body.get("from")).get("email", "")),
                    reply_to=reply_to or None,
                    subject=subject,
                    text=own_text,
                    html=own_html,
                    headers={**_mapping(body.get("headers")), **_mapping(person.get("headers"))},
                    links=links,
                    args={**_mapping(body.get("custom_args")), **_mapping(person.get("custom_args"))},
                    categories=tuple(body.get("categories") or ()),
                    send_at=person.get("send_at", body.get("send_at")),
                    personalization=position,
                )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class _Skeleton:
    """A text with tags in it, cut at the tags once for all recipients that use the same ones."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tags: tuple[str, ...] | None = None
        self._pieces: list[str] = []

    def filled(self, values: Mapping[str, str], nested: bool) -> str:
        if not values:
            return self._text
        tags = tuple(filter(None, values))
        if tags != self._tags:
            self._tags = tags
            self._pieces = re.split("(" + "|".join(map(re.escape, tags)) + ")", self._text)
        pieces = self._pieces
        filled = "".join([values[piece] if at % 2 else piece for at, piece in enumerate(pieces)])
        if nested and any(tag in value for value in values.values() for tag in tags):
            for tag, value in values.items():
                filled = filled.replace(tag, value)
        return filled


def _links(html: str, text: str) -> tuple[Link, ...]:
    found: dict[str, bool] = {}
    for match in _HREF.finditer(html):
        url = match[1]
        for entity, character in _ENTITIES.items():
            url = url.replace(entity, character)
        found[url] = found.get(url, False) or "clicktracking=off" not in match[0].replace('"', "").replace("'", "")
    if not html:
        found = dict.fromkeys(_PLAIN_URL.findall(text), True)
    return tuple(Link(url=url, tracked=tracked) for url, tracked in found.items() if url.startswith("http"))
