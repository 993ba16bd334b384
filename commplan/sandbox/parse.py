"""Mail that simulated people write: composed as their programs do, posted as SendGrid's Inbound Parse does.

Never gives a mail up: a post is repeated until the receiver takes it.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commplan.sandbox.client import Client, NoAnswerError, NotReachedError
from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.schedule import Schedule

#: Where the receiver takes mail.
INBOUND = "/hooks/sendgrid/inbound"
#: SendGrid's, in every post.
_BOUNDARY = "xYzZY"
#: Machine seconds between tries of one post: doubling from the first to the longest.
_FIRST_RETRY, _LONGEST_RETRY, _TIMEOUT = 0.5, 60.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail that somebody writes; `return_path` is empty where no answer is wanted."""

    sender: str = field(repr=False)
    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)
    return_path: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    charset: str = "UTF-8"


class ParseHook:
    """Inbound Parse of every domain that answers are sent to, signed as its security policy says."""

    def __init__(self, config: SandboxConfig, schedule: Schedule, client: Client) -> None:
        self._schedule = schedule
        self._client = client
        self._config = config
        self._url = config.public_url.rstrip("/") + INBOUND
        key = serialization.load_pem_private_key(config.webhook_private_key.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("Inbound Parse signs with an elliptic curve key; make one with generate_key()")
        self._key = key
        #: Mails not yet taken by the receiver.
        self.unposted = 0
        #: Whether the way to the receiver is cut: what is posted gets no connection.
        self.is_down = False

    def receive(self, letter: Letter, moment: float) -> None:
        """Take a mail in, and post it."""
        self.unposted += 1
        self._schedule.after(0, partial(self._post, _form(letter, moment), _FIRST_RETRY))

    async def _post(self, body: bytes, wait: float) -> None:
        if await self._is_taken(body):
            self.unposted -= 1
        else:
            self._schedule.after(wait, partial(self._post, body, min(2 * wait, _LONGEST_RETRY)))

    async def _is_taken(self, body: bytes) -> bool:
        if self.is_down:
            return False
        stamp = self._config.stamp()
        signature = self._key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "User-Agent": "Sendlib/1.0",
            "X-Twilio-Email-Event-Webhook-Signature": b64encode(signature).decode("ascii"),
            "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
        }
        try:
            answer = await self._client.send(
                "POST", self._url, body=body, headers=headers, connect=_TIMEOUT, read=_TIMEOUT
            )
        except (NotReachedError, NoAnswerError):
            return False
        return 200 <= answer.status < 300


def quoted(text: str, *, sender: str, moment: float, language: str) -> str:
    """Return an earlier mail as programs put it below an answer."""
    when = datetime.fromtimestamp(moment, UTC)
    if language == "zh":
        head = f"在 {when:%Y-%m-%d %H:%M:%S}，<{sender}> 写道："
    else:
        head = f"On {when:%a, %b %d, %Y at %I:%M %p} <{sender}> wrote:"
    return "\r\n".join(["", "", head, *(f"> {line}" for line in text.splitlines()[:40])])


def _form(letter: Letter, moment: float) -> bytes:
    headers = {
        "Received": "by mx0047p1mdw1.sendgrid.net with SMTP",
        "Date": format_datetime(datetime.fromtimestamp(moment, UTC)),
        "From": letter.sender,
        "To": letter.to,
        "Subject": letter.subject,
        "Message-ID": f"<{secrets.token_hex(12)}@mail.person.example.com>",
        "Content-Type": f'text/plain; charset="{letter.charset}"',
        **letter.headers,
    }
    envelope = {"to": [letter.to], "from": letter.return_path}
    charsets = dict.fromkeys(("to", "from", "subject", "headers"), "UTF-8") | {"text": letter.charset}
    fields: dict[str, bytes] = {
        "headers": "".join(f"{name}: {value}\n" for name, value in headers.items()).encode(),
        "dkim": b"{@person.example.com : pass}",
        "to": letter.to.encode(),
        "from": letter.sender.encode(),
        "text": letter.text.encode(letter.charset, "replace"),
        "sender_ip": b"203.0.113.10",
        "spam_report": b"",
        "envelope": json.dumps(envelope).encode(),
        "attachments": b"0",
        "subject": letter.subject.encode(),
        "spam_score": b"0.1",
        "charsets": json.dumps(charsets).encode(),
        "SPF": b"pass",
    }
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields.items()
    ]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
