"""From what a template says to a mail that mail programs show: MJML to HTML, styles inlined, placeholders intact.

Works on a skeleton, once for all who share it. Fetches nothing: no fonts, no style sheets, no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from xml.parsers import expat

import css_inline
import mrml

from commplan.content.fault import Site, TemplateFault

#: Every element of MJML 4 that is understood here; a misspelt one would silently vanish.
_ELEMENTS = frozenset(
    (
        *("attributes", "all", "breakpoint", "class", "font", "head", "preview", "raw", "style", "title"),
        *("accordion", "accordion-element", "accordion-text", "accordion-title", "body", "button", "column", "divider"),
        *("carousel", "carousel-image", "group", "hero", "image", "navbar", "navbar-link", "section", "spacer"),
        *("social", "social-element", "table", "text", "wrapper"),
    )
)
#: Attributes that a mail program follows or fetches.
_URLS = frozenset({"href", "src", "background", "action", "poster", "cite"})
#: What a value at the start of such an attribute may begin with.
URL_SCHEMES = ("https://", "http://", "mailto:", "tel:", "sms:")

_ELEMENT = re.compile(r"</?mj-([A-Za-z-]+)")
_HEAD = re.compile(r"<mj-head\b[^>]*?(/?)>")
_ROOT = re.compile(r"<mjml\b[^>]*>")
_BODY = re.compile(r"<body\b[^>]*>", re.IGNORECASE)
_PROSE = re.compile(r"<mj-(text|table|button|raw|accordion-text|navbar-link)\b[^>]*(?<!/)>.*?</mj-\1>", re.DOTALL)
_BETWEEN = re.compile(r">\s*\n\s*<")
_STYLE = re.compile(r"<style\b(?![^>]*data-css-inline)")
_VOID = re.compile(r"<(br|hr|img|wbr)\b([^>]*?)/?>")
_ENTITY = re.compile(r"&[A-Za-z][A-Za-z0-9]*;")
_HIDDEN = "display:none;font-size:1px;line-height:1px;max-height:0;max-width:0;opacity:0;overflow:hidden"

_RENDER = mrml.RenderOptions(disable_comments=True, fonts={})
_INLINER = css_inline.CSSInliner(load_remote_stylesheets=False, keep_style_tags=True, keep_at_rules=True)

#: Finds the file and line that a piece of static text comes from.
Locate = Callable[[str], tuple[str, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What one mail's templates say, placeholders in place of values."""

    file: str
    kind: str
    body: str
    preheader: str
    placeholders: Sequence[str]
    sites: Sequence[Site]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """HTML ready to send, and the placeholders (by position) at which an address to follow or fetch begins."""

    html: str
    addresses: tuple[int, ...]


def finish(document: Document, locate: Locate) -> Finished:
    """Return the HTML of a mail.

    Raises TemplateFault if it is not MJML, or if a value would be lost, doubled into a comment, or stand in a style.
    """
    before = Counter({placeholder: document.body.count(placeholder) for placeholder in document.placeholders})
    for placeholder in document.placeholders:
        before[placeholder] += document.preheader.count(placeholder)
    if document.kind == "mjml":
        html = _from_mjml(document, locate)
    else:
        html = _with_hidden_text(document.body, document.preheader)
    html = _INLINER.inline(html).replace(' data-css-inline="ignore"', "")
    survey = _Survey(document.placeholders)
    survey.feed(html)
    survey.close()
    for placeholder, site in zip(document.placeholders, document.sites, strict=True):
        if not before[placeholder]:
            continue
        if html.count(placeholder) > survey.found[placeholder]:
            rule = "stands where a value must not stand: in a style, a script, a comment or a tag's own text"
            raise TemplateFault.at(site, rule, "print it in a text, or in an attribute such as href or alt")
        if survey.found[placeholder] < before[placeholder]:
            rule = "would be lost when the mail is made: MJML does not print what stands there"
            raise TemplateFault.at(site, rule, "print it in a text, or in an attribute such as href or alt")
    return Finished(html=html, addresses=tuple(sorted(survey.addresses)))


def _from_mjml(document: Document, locate: Locate) -> str:
    for match in _ELEMENT.finditer(document.body):
        if match[1] not in _ELEMENTS:
            file, line = locate(match[0]) or (document.file, 0)
            raise TemplateFault(
                file,
                line,
                None,
                f"<mj-{match[1]}> is not an MJML element",
                "check the spelling; other files come in by {% include %}",
            )
    if document.preheader and "<mj-preview" in document.body:
        file, line = locate("<mj-preview") or (document.file, 0)
        raise TemplateFault(file, line, None, "there are two preheaders", "take <mj-preview> out")
    body = _PROSE.sub(lambda match: _BETWEEN.sub("> <", match[0]), document.body)
    try:
        html = str(mrml.to_html(_with_preview(body, document.preheader), None, _RENDER).content)
    except (OSError, ValueError):
        file, line = _unreadable(document, locate)
        rule = "this is not MJML: a tag is not closed, or a < or & is not written &lt; or &amp;"
        raise TemplateFault(file, line, None, rule, "correct the MJML") from None
    return _STYLE.sub('<style data-css-inline="ignore"', html, count=1)


def _with_preview(body: str, preheader: str) -> str:
    if not preheader:
        return body
    preview = f"<mj-preview>{preheader}</mj-preview>"
    head = _HEAD.search(body)
    if head and not head[1]:
        return body[: head.end()] + preview + body[head.end() :]
    if head:
        return f"{body[: head.start()]}<mj-head>{preview}</mj-head>{body[head.end() :]}"
    root = _ROOT.search(body)
    at = root.end() if root else 0
    return f"{body[:at]}<mj-head>{preview}</mj-head>{body[at:]}"


def _with_hidden_text(body: str, preheader: str) -> str:
    if not preheader:
        return body
    start = _BODY.search(body)
    at = start.end() if start else 0
    return f'{body[:at]}<div style="{_HIDDEN}">{preheader}</div>{body[at:]}'


def _unreadable(document: Document, locate: Locate) -> tuple[str, int]:
    """Return the file and line at which MJML stops being XML, as near as the text of that line tells."""
    lines = document.body.split("\n")
    plain = _ENTITY.sub(lambda match: " " * len(match[0]), _VOID.sub(r"<\1\2/>", document.body))
    parser = expat.ParserCreate()
    try:
        parser.Parse(plain.encode(), True)
    except expat.ExpatError as error:
        for line in reversed(lines[: error.lineno]):
            if line.strip():
                pieces = [line.strip()]
                for placeholder in document.placeholders:
                    pieces = [rest for piece in pieces for rest in piece.split(placeholder)]
                return locate(max(pieces, key=len)) or (document.file, 0)
    return document.file, 0


class _Survey(HTMLParser):
    """Counts the placeholders that stand in text or in harmless attributes."""

    def __init__(self, placeholders: Sequence[str]) -> None:
        super().__init__(convert_charrefs=False)
        self.found: Counter[str] = Counter()
        self.addresses: set[int] = set()
        self._placeholders = placeholders
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag if tag in ("style", "script") else None
        for name, value in attrs:
            if value and name != "style" and not name.startswith("on"):
                self._count(value)
                if name in _URLS:
                    self.addresses.update(
                        number
                        for number, placeholder in enumerate(self._placeholders)
                        if value.lstrip().startswith(placeholder)
                    )

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self._count(data)

    def _count(self, text: str) -> None:
        for placeholder in self._placeholders:
            self.found[placeholder] += text.count(placeholder)
