"""What a mail says against what it was meant to say.

Line ends, white space at ends of lines, the spelling of entities and the picture that counts opens are the mail
system's to choose; everything else is a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlsplit

from commplan.doctor.arrival import Arrival
from commplan.doctor.specimen import Mail, Specimen
from commplan.errors import Finding

_STAYS = "live mail stays unbatched; ask the provider's support why"
_SAVE = "save the mail as it was received; if it is the same then, live mail stays unbatched"
#: Elements that a mail program or a server may add or leave out without a change to be seen.
_FRAME = frozenset({"html", "head", "meta", "body", "tbody"})
_OPEN_COUNTER = "/wf/open"
_DAMAGED = re.compile(r"[^\x00-\x7f]+|\?+")
_SHOWN = 40


def compare(meant: Mail, arrived: Arrival, specimen: Specimen) -> Iterator[Finding]:
    """Yield the first difference of each part: where, what is wrong, and what to do."""
    parts = [
        ("subject", " ".join(meant.subject.split()), " ".join(arrived.subject.split())),
        ("text", _lines(meant.text), _lines(arrived.text)),
        *_html_parts(meant.html, arrived.html),
    ]
    for name, should, does in parts:
        found = _difference(should, does, specimen)
        if found is not None:
            rule, remedy = found
            yield Finding(place=name, rule=rule, remedy=remedy)


def _lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in re.split(r"\r\n|\r|\n", text)).strip("\n")


@dataclass
class _Seen(HTMLParser):
    """What a mail program makes of HTML: its words, its elements, where its links lead and what its titles say."""

    words: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in _FRAME or (tag == "img" and _OPEN_COUNTER in (given.get("src") or "")):
            return
        self.elements.append(tag)
        self.links += [given["href"] or ""] if "href" in given else []
        self.titles += [given["title"] or ""] if "title" in given else []

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def _html_parts(meant: str, arrived: str) -> list[tuple[str, str, str]]:
    should, does = _Seen(), _Seen()
    for seen, html in ((should, meant), (does, arrived)):
        seen.feed(html)
        seen.close()
    if not does.words:
        return [("HTML", " ".join(should.words), "")]
    return [
        ("HTML", " ".join(should.words), " ".join(does.words)),
        ("elements of the HTML", " ".join(should.elements), " ".join(does.elements)),
        ("link in the HTML", " ".join(should.links), " ".join(does.links)),
        ("attribute in the HTML", " ".join(should.titles), " ".join(does.titles)),
    ]


def _difference(meant: str, arrived: str, specimen: Specimen) -> tuple[str, str] | None:
    if arrived == meant:
        return None
    if not arrived:
        return "it is not there", _SAVE
    if specimen.placeholder in arrived:
        return "a placeholder arrived as it is, without its value", _STAYS
    if unescape(arrived) in (meant, unescape(meant)):
        return f"entities are escaped once too {'often' if len(arrived) > len(meant) else 'seldom'}", _STAYS
    start, end = _middle(meant, arrived)
    lost, came = meant[start : len(meant) - end], arrived[start : len(arrived) - end]
    told = f"at character {start + 1} {_shown(lost)} was meant and {_shown(came)} arrived"
    if _DAMAGED.sub("", arrived) == _DAMAGED.sub("", meant):
        return f"characters are damaged: {told}", _SAVE
    if (host := _leads_elsewhere(meant, arrived)) is not None:
        remedy = "turn off what rewrites links, click tracking or a gateway's link protection, and send a new proof"
        return f"a link was rewritten: it leads to {host}", remedy
    if len(meant) - len(arrived) == len(lost):
        return f"it is cut short: {len(lost):,} characters are missing at character {start + 1}", _STAYS
    for lookalike in specimen.lookalikes:
        for found in re.finditer(re.escape(lookalike), meant):
            if found.start() <= start < found.end():
                return f"something inside a value was replaced, which only looks like a placeholder: {told}", _STAYS
    return told, _STAYS


def _middle(meant: str, arrived: str) -> tuple[int, int]:
    """Return how long the beginning and the end are that both have in common."""
    most = min(len(meant), len(arrived))
    start = next((at for at in range(most) if meant[at] != arrived[at]), most)
    end = next((at for at in range(most - start) if meant[-1 - at] != arrived[-1 - at]), most - start)
    return start, end


def _shown(text: str) -> str:
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return f"“{short}”" if short else "nothing"


def _leads_elsewhere(meant: str, arrived: str) -> str | None:
    """Return the host of the first web address that is not the one it was meant to be."""
    ours = _hosts(meant)
    return next((host for host in _hosts(arrived) if host not in ours), None)


def _hosts(text: str) -> list[str]:
    return [urlsplit(found).netloc for found in re.findall(r"https?://[^\s/?#\"'<>]+", text)]
