"""Mail that people write to us, as SendGrid's Inbound Parse posts it: what they said, and whether a machine said it.

Never trusts a byte before `sendgrid.verify`, never keeps a file, and never takes a quotation for what somebody says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import HeaderParser
from email.utils import getaddresses
from hashlib import sha256

from commplan import returnaddress
from commplan.errors import UnreadableError
from commplan.ids import TokenPurpose
from commplan.receipts.base import Receipt, clean, natural_key
from commplan.receipts.quotation import own_words, words_of_html
from commplan.receipts.twilio import judge
from commplan.terms import AutoWhy
from commplan.terms import ReceiptKind as Kind

#: Longest answer that is kept, in characters.
MAX_TEXT = 4_000
#: Most of a mail's text that is looked at, in bytes; a mail of people is shorter.
_MOST = 512 * 1024
#: Characters of a header that are looked at.
_MOST_OF_A_HEADER = 2_000
_BOUNDARY = re.compile(rb"--([0-9A-Za-z'()+_,./:=? -]{1,70})\r\n")
_FIELD = re.compile(r'\bname="([^"\r\n]*)"')
_FILE = re.compile(r"\bfilename\*?=")
#: SendGrid's name of a request, where it stands before the @ of the Message-ID it gives.
_REQUEST = re.compile(r"<([A-Za-z0-9_-]{16,40})(?:\.[^@<>\s]*)?@[^<>\s]+>")
_REPLYING = re.compile(
    r"^\s*(?:(?:re|aw|sv|antw|回复|答复|回覆|转发|fwd?|fw)\s*(?:\[\d+\])?\s*[:：]\s*)+", re.IGNORECASE
)
#: Who writes by machine, before the @.
_MACHINES = re.compile(
    r"^(?:mailer-daemon|postmaster|no-?reply|do-?not-?reply|bounces?)(?:[+.-][^@]*)?@", re.IGNORECASE
)
#: Subjects of automatic answers, as mail programs word them.
_AWAY = re.compile(
    r"^\s*(?:(?:auto(?:matic)?[- ]?(?:reply|response|answer)|auto)\s*[:：]|auto(?:matic)?[- ]?(?:reply|response)\b"
    r"|out of (?:the )?office\b|(?:i am |i'm )?on (?:vacation|holiday|annual leave|parental leave)\b"
    r"|away from (?:the|my) (?:office|desk)\b"
    r"|(?:undeliverable|undelivered mail|delivery status notification|mail delivery (?:failed|failure|subsystem))"
    r"|自动(?:回复|答复)|自動(?:回覆|回復)|(?:外出|不在办公室|休假中|休假通知|系统退信|退信通知))",
    re.IGNORECASE,
)


def strip_files(body: bytes) -> bytes:
    """Return a post without the files in it: nothing of ours reads them. UnreadableError if it is no form."""
    boundary, parts = _parts(body)
    kept = [part for part in parts if not _FILE.search(_head(part))]
    return boundary + b"".join(b"\r\n" + part + b"\r\n" + boundary for part in kept) + b"--\r\n"


def load(body: bytes) -> Mapping[str, bytes]:
    """Return the fields of a post as they came, files left out; UnreadableError if it is no mail.

    Of a field that comes twice the first counts: the boundary is always the same, so the text could hold another.
    """
    fields: dict[str, bytes] = {}
    for part in _parts(body)[1]:
        head, found = _head(part), None
        if not _FILE.search(head) and (found := _FIELD.search(head)) is not None:
            fields.setdefault(found[1], part.partition(b"\r\n\r\n")[2])
    if "headers" not in fields or not ("to" in fields or "envelope" in fields):
        raise UnreadableError(
            "a signed post to Inbound Parse has no headers or addressee; switch “POST the raw, full MIME message” off"
        )
    return fields


def _parts(body: bytes) -> tuple[bytes, list[bytes]]:
    # From the bytes that are signed, not from a header that is not.
    found = _BOUNDARY.match(body)
    if found is None:
        raise UnreadableError("a signed post to Inbound Parse is not multipart/form-data")
    boundary = b"--" + found[1]
    delimiter = re.compile(rb"\r\n" + re.escape(boundary) + rb"(?=\r\n|--)")
    parts = delimiter.split(body.removeprefix(boundary + b"\r\n"))
    if not parts[-1].startswith(b"--"):
        raise UnreadableError("a signed post to Inbound Parse is cut off")
    return boundary, [part.removeprefix(b"\r\n") for part in parts[:-1]]


def _head(part: bytes) -> str:
    return part.partition(b"\r\n\r\n")[0][:1_000].decode("utf-8", "replace")


def parse(body: bytes) -> Receipt:
    """Return what somebody wrote: an opt-out, an answer, or the answer of a machine. UnreadableError as `load`.

    Its token is that of the address it was written to; `references` are SendGrid's names of the requests that the
    mails carried which it answers.
    """
    fields = load(body)
    texts = _texts(fields)
    headers = HeaderParser().parsestr(texts.get("headers", ""))
    envelope = _envelope(fields)
    copies = map(str, [*headers.get_all("to", []), *headers.get_all("cc", [])])
    written_to = " ".join([*envelope[0], texts.get("to", ""), *copies])
    purpose, token = returnaddress.read(written_to) or (TokenPurpose.REPLY, None)
    sender = _address(texts.get("from", "") or str(headers.get("from", ""))) or _address(envelope[1])
    subject = clean(_decoded(texts.get("subject", "") or str(headers.get("subject", ""))), 400).strip()
    own = clean(_words(texts), MAX_TEXT).strip()
    said = _said(subject, own)
    why = auto_why(headers, subject=subject, sender=sender, return_path=envelope[1])
    wants_no_more = judge(own) is Kind.OPTED_OUT or (not own and judge(subject) is Kind.OPTED_OUT)
    if wants_no_more or (purpose is TokenPurpose.UNSUBSCRIBE and token is not None):
        # Whatever wrote it: an opt-out is never lost.
        kind, why = Kind.OPTED_OUT, None
    else:
        kind = Kind.REPLIED if why is None else Kind.AUTO_REPLIED
    message_id = clean(str(headers.get("message-id", ""))).strip()
    return Receipt(
        key=natural_key(
            "sendgrid", "inbound", message_id, token or "", sender, sha256(said.encode("utf-8", "replace")).hexdigest()
        ),
        source="sendgrid",
        kind=kind,
        token=token,
        token_purpose=purpose,
        references=_references(headers),
        address=sender or None,
        text=said,
        auto_why=why,
    )


def _said(subject: str, own: str) -> str:
    """Return a mail's words; its subject is among them where it is not that of what it answers."""
    if not subject or _REPLYING.match(subject):
        return own
    return f"{subject}\n\n{own}".strip()[:MAX_TEXT]


def auto_why(headers: Message, *, subject: str, sender: str, return_path: str | None) -> AutoWhy | None:
    """Return by what a mail is known as a machine's, None if nothing speaks for it.

    RFC 3834, and what mail systems did before and beside it. `return_path` is the sender of the envelope, None where it
    is not told.
    """

    def said(name: str) -> str:
        return str(headers.get(name, "")).strip().casefold()

    if said("auto-submitted").partition(";")[0].strip() not in ("", "no"):
        return AutoWhy.HEADER
    if said("precedence") in ("bulk", "junk", "list", "auto_reply", "auto-reply"):
        return AutoWhy.HEADER
    if any(
        said(name) not in ("", "no") for name in ("x-autoreply", "x-autorespond", "x-autoresponder", "x-autogenerated")
    ):
        return AutoWhy.HEADER
    if return_path is not None and return_path.strip("<> ") == "":
        return AutoWhy.RETURN_PATH
    if headers.get_content_type() == "multipart/report" or _MACHINES.match(sender):
        return AutoWhy.SENDER
    return AutoWhy.SUBJECT if _AWAY.match(subject) else None


def _texts(fields: Mapping[str, bytes]) -> dict[str, str]:
    """Return each field as text, in the charset that SendGrid says it came in."""
    charsets: dict[str, object] = {}
    try:
        told = json.loads(fields.get("charsets", b"{}"))
        charsets = told if isinstance(told, dict) else {}
    except (ValueError, RecursionError):
        pass
    return {name: _text(value[:_MOST], charsets.get(name)) for name, value in fields.items()}


def _text(value: bytes, charset: object) -> str:
    name = charset.casefold() if isinstance(charset, str) else "utf-8"
    # Mail says gb2312 and means what contains it.
    name = "gb18030" if name in ("gb2312", "gbk") else name
    try:
        return value.decode(name, "replace")
    except (LookupError, ValueError):
        return value.decode("utf-8", "replace")


def _words(texts: Mapping[str, str]) -> str:
    plain = texts.get("text", "")
    return own_words(plain) if plain.strip() else own_words(words_of_html(texts.get("html", "")))


def _envelope(fields: Mapping[str, bytes]) -> tuple[list[str], str | None]:
    try:
        told = json.loads(fields.get("envelope", b""))
    except (ValueError, RecursionError):
        return [], None
    if not isinstance(told, dict):
        return [], None
    to, sender = told.get("to"), told.get("from")
    addresses = [address for address in to if isinstance(address, str)] if isinstance(to, list) else []
    return addresses, sender if isinstance(sender, str) else None


def _address(text: str | None) -> str:
    try:
        found = getaddresses([(text or "")[:_MOST_OF_A_HEADER]])
    except (RecursionError, ValueError, LookupError):  # the standard library has no error of its own for it
        return ""
    return next((clean(address, 320) for _, address in found if "@" in address), "")


def _decoded(text: str) -> str:
    text = text[:_MOST_OF_A_HEADER]
    try:
        return str(make_header(decode_header(text)))
    except (LookupError, ValueError, MessageError):
        return text


def _references(headers: Message) -> tuple[str, ...]:
    """Return the newest first: what it answers, then what that answered."""
    said = " ".join([str(headers.get("in-reply-to", "")), *reversed(str(headers.get("references", "")).split())])
    return tuple(dict.fromkeys(_REQUEST.findall(said[:8_000])))[:20]
