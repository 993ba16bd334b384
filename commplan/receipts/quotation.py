"""What somebody wrote themselves in a mail, without what they quote and without the signature below it.

Never throws away words because it is not sure: what it does not know as a quotation stays.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape

#: Most characters of a text that are looked at.
_MOST = 200_000
#: How far down the line that begins a quotation may be broken.
_BROKEN_OVER = 3
#: Lines that say: from here on it is an earlier mail.
_BEGINS = (
    re.compile(
        r"^-{2,}\s*(?:original message|forwarded message|原始邮件|转发邮件|原始郵件|轉寄郵件)\s*-{2,}$", re.IGNORECASE
    ),
    re.compile(r"^_{10,}$"),
    re.compile(r"^(?:on|le|am)\b.{4,300}\b(?:wrote|a écrit|schrieb)\s*(?:[^:]{0,80})[:：]$", re.IGNORECASE),
    re.compile(r"^(?:在|于|於)?.{4,300}(?:写道|寫道|写到|来信|來信)\s*[:：]$"),
    re.compile(r"^.{1,200}<[^<>\s]+@[^<>\s]+>.{0,80}(?:wrote|于.{2,80}|写道)\s*[:：]?$", re.IGNORECASE),
)
_STARTS_BROKEN = re.compile(r"^(?:on\b|在|于|於)", re.IGNORECASE)
#: A head of an earlier mail: one of each must follow within a few lines.
_FROM = re.compile(r"^\*?(?:from|发件人|寄件者|寄件人)\*?\s*[:：]", re.IGNORECASE)
_SENT = re.compile(
    r"^\*?(?:sent|date|to|subject|发送时间|日期|收件人|主题|寄件日期|收件者|主旨)\*?\s*[:：]", re.IGNORECASE
)
_SIGNATURE = re.compile(r"^-- ?$")
_DEVICE = re.compile(
    r"^(?:sent from (?:my |outlook for |mail for |yahoo mail)|get outlook for |发自|來自我的|从我的.{1,20}发送|发送自)",
    re.IGNORECASE,
)


def own_words(text: str) -> str:
    """Return what the writer of a mail added to it; empty when they added nothing."""
    lines = [line.rstrip() for line in text[:_MOST].replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    kept: list[str] = []
    for at, line in enumerate(lines):
        bare = line.strip().replace("\u00a0", " ")
        if _SIGNATURE.match(line.lstrip()) or _begins_quotation(lines, at, bare):
            break
        if bare.startswith((">", "＞")) or _DEVICE.match(bare):
            continue
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _begins_quotation(lines: list[str], at: int, bare: str) -> bool:
    if not bare:
        return False
    if any(begin.match(bare[:500]) for begin in _BEGINS):
        return True
    if _FROM.match(bare):
        return sum(bool(_SENT.match(line.strip())) for line in lines[at + 1 : at + 6]) >= 2
    if _STARTS_BROKEN.match(bare) and len(bare) < 200:
        joined = bare
        for line in lines[at + 1 : at + _BROKEN_OVER]:
            # What is a beginning by itself needs no words of the writer's before it.
            if not line.strip() or any(begin.match(line.strip()[:500]) for begin in _BEGINS):
                return False
            joined = f"{joined} {line.strip()}"
            if any(begin.match(joined[:500]) for begin in _BEGINS[2:4]):
                return True
    return False


#: What mail programs wrap an earlier mail in: by class, or by id.
_QUOTING_CLASSES = frozenset(
    {"gmail_quote", "gmail_quote_container", "yahoo_quoted", "moz-cite-prefix", "protonmail_quote"}
)
_QUOTING_IDS = frozenset({"appendonsend", "divrplyfwdmsg", "mail-editor-reference-message-container", "isreplycontent"})
_UNSHOWN = frozenset({"head", "style", "script", "title", "template"})
_VOID = frozenset(
    {"br", "hr", "img", "input", "link", "meta", "col", "area", "base", "embed", "source", "track", "wbr"}
)
_BLOCKS = frozenset(
    {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "blockquote", "table", "ul", "ol", "hr", "pre"}
)


#: A comment, a tag or a declaration, text. Each begins where the one before it ends and none is looked through twice:
#: no mail, however it is made, takes longer than its length.
_TOKEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(?P<end>/?)(?P<tag>[a-zA-Z][^\s/<>]*)(?P<attributes>[^<>]*)>|<[!?][^<>]*>|(?P<data>[^<]+|<)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"""(?:^|\s)(id|class)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']+))""", re.IGNORECASE)


class _Reader:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        #: Depth at which something began that is not the writer's; 0: nothing did.
        self._hidden = 0
        self._is_over = False

    def read(self, html: str) -> None:
        for token in _TOKEN.finditer(html):
            if (tag := token["tag"]) is None:
                self._text(token["data"] or "")
            elif token["end"]:
                self._end(tag.lower())
            else:
                self._start(tag.lower(), token["attributes"])

    def _start(self, tag: str, attributes: str) -> None:
        given = {name.lower(): "".join(value).lower() for name, *value in _ATTRIBUTE.findall(attributes)}
        if given.get("id") in _QUOTING_IDS:
            # What follows this mark is the earlier mail, to the end.
            self._is_over = True
        if tag in _BLOCKS:
            self.pieces.append("\n")
        if tag in _VOID:
            return
        self._open.append(tag)
        self._count[tag] += 1
        quotes = tag == "blockquote" or bool(_QUOTING_CLASSES & set(given.get("class", "").split()))
        if not self._hidden and (quotes or tag in _UNSHOWN):
            self._hidden = len(self._open)

    def _end(self, tag: str) -> None:
        if not self._count[tag]:
            return
        closed = None
        while closed != tag:
            closed = self._open.pop()
            self._count[closed] -= 1
        if len(self._open) < self._hidden:
            self._hidden = 0
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def _text(self, data: str) -> None:
        if not self._hidden and not self._is_over:
            self.pieces.append(re.sub(r"\s+", " ", unescape(data)))


def words_of_html(html: str) -> str:
    """Return the text of a mail that came as HTML only, without what its program marks as an earlier mail."""
    reader = _Reader()
    reader.read(html[:_MOST])
    lines = (line.strip(" \t") for line in "".join(reader.pieces).split("\n"))
    return "\n".join(filter(None, lines)).strip()
