"""Email through SendGrid v3: the official SDK builds and authenticates, our transport carries, one request a batch.

It never repeats a request, and never puts an address, a text or the key into an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import quote

import orjson
from python_http_client import Client
from sendgrid import SendGridAPIClient

from commplan.channels.failures import http_date, of_sendgrid, plain_id
from commplan.channels.transport import Answer, Transport
from commplan.envelope import Acceptance, EmailBatch, EmailRecipient, EventHook, InboundHook, Listing, Sighting
from commplan.errors import HaltError, RejectedError, UnknownError
from commplan.returnaddress import FILLED_BYTES, reply_address, tag_of, unsubscribe_address
from commplan.settings import EmailSettings

#: Most people in one request.
MOST_RECIPIENTS = 1_000
#: Most bytes of one person's substitutions; the API document says this, the manual five times as much.
MOST_SUBSTITUTION_BYTES = 10_000
#: Most messages that one question to the Email Logs may be answered with; more is no whole answer.
MOST_LOGGED = 1_000
#: What cannot stand in a question: how the query language escapes these is not documented.
_NOT_ASKABLE = re.compile(r"['\"\\\x00-\x1f\x7f]")

_HOOKS = "read and test the event webhook"
_PARSE = "read the settings of Inbound Parse"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_URL = re.compile(r"https?://[!-;=?-~]+")
_TRACKING = {
    "click_tracking": {"enable": True, "enable_text": False},
    "open_tracking": {"enable": True},
    # SendGrid would add its own List-Unsubscribe beside ours.
    "subscription_tracking": {"enable": False},
}


class _Request(Protocol):
    """What we read of the ``urllib.request.Request`` that the SDK builds."""

    selector: str
    data: bytes | None

    def get_method(self) -> str: ...
    def header_items(self) -> list[tuple[str, str]]: ...


class Body(bytes):
    """A body that is JSON already: the SDK's own serialising and logging cost more than all the rest of a request.

    The SDK sends a body of any media type but plain ``application/json`` as it is, after ``encode``, and formats it
    for its debug log even if there is none.
    """

    def encode(self, _encoding: str) -> Body:  # noqa: D102 (what the SDK calls)
        return self

    def __str__(self) -> str:
        return f"<{len(self)} bytes>"


class _Reply:
    """What the SDK reads of an answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def getcode(self) -> int:
        return self._answer.status

    def read(self) -> bytes:
        return self._answer.body

    def info(self) -> Mapping[str, str]:
        return self._answer.headers


class _Carrier(Client):  # type: ignore[misc]
    """The SDK's HTTP client on our transport; any answer but 2xx is raised as one of our errors."""

    def __init__(
        self, *, transport: Transport, host: str, request_headers: dict[str, str], url_path: Sequence[str] = ()
    ):
        super().__init__(host=host, request_headers=request_headers, version=3, url_path=list(url_path))
        self.transport = transport

    def _build_client(self, name: str | None = None) -> _Carrier:
        path = [*self._url_path, name] if name else self._url_path
        return _Carrier(transport=self.transport, host=self.host, request_headers=self.request_headers, url_path=path)

    def _make_request(self, _opener: object, request: _Request, timeout: float | None = None) -> _Reply:
        answer = self.transport.request(
            request.get_method(), request.selector, headers=dict(request.header_items()), body=request.data or b""
        )
        if not 200 <= answer.status < 300:
            raise of_sendgrid(answer.status, answer.headers, answer.body)
        return _Reply(answer)


def open_sdk(settings: EmailSettings, transport: Transport) -> SendGridAPIClient:
    """Return SendGrid's SDK, with the key of the settings, on a transport of ours."""
    key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    base_url = settings.base_url.rstrip("/")
    # At DEBUG the SDK's carrier logs the key and every body.
    logging.getLogger("python_http_client").setLevel(logging.WARNING)
    sendgrid = SendGridAPIClient(api_key=key or "none", host=base_url)
    headers = {**sendgrid._default_headers, "Content-Type": "application/json; charset=utf-8"}
    sendgrid.client = _Carrier(transport=transport, host=base_url, request_headers=headers)
    return sendgrid


class SendGridGateway:
    """Sends email batches; safe to share between threads, each call on a connection of its own."""

    def __init__(self, settings: EmailSettings, *, transport: Transport | None = None) -> None:
        self._transport = transport or Transport(settings.base_url.rstrip("/"), timeout=settings.timeout)
        self._sendgrid = open_sdk(settings, self._transport)
        self._from = {"email": settings.from_address, "name": settings.from_name}
        self._unsubscribe_address = settings.unsubscribe_address
        self._inbound_domain = settings.inbound_domain

    def connect(self) -> None:
        """Have a connection ready; TransientError if SendGrid cannot be reached."""
        self._transport.connect()

    def send(self, batch: EmailBatch) -> Acceptance:
        """Hand a batch to SendGrid, in one request, once.

        Raises RejectedError before anything is written for a person whose data the API cannot take (`index` says
        who), and otherwise whatever the failure table says of the answer. At most 1,000 recipients, no address twice.
        """
        tag = self._reply_tag(batch)
        _check(batch, reserved=FILLED_BYTES if tag else 0)
        people = [self._personalization(batch, each, tag) for each in batch.recipients]
        body = _serialise(self._shared(batch, tag), people)
        try:
            with self._transport.written_by(batch.write_by):
                response = self._sendgrid.client.mail.send.post(request_body=body)
        except RejectedError as error:
            if error.index is not None and error.index >= len(batch.recipients):
                error.index = None
            raise
        provider_id = plain_id(response.headers.get("x-message-id"))
        if response.status_code != 202 or (provider_id is None and response.body):
            raise of_sendgrid(response.status_code, response.headers, response.body)
        return Acceptance(provider_id=provider_id, provider_time=http_date(response.headers.get("date", "")))

    def find(self, address: str, *, since: datetime, known: Collection[str] = ()) -> Listing:
        """Ask the Email Logs for the messages to an address; each is looked up for the attempt id we put on it.

        Only reads, one request for the list and one for each message. DeliveryError for everything that is not a
        whole answer, an address that cannot be asked for included. Messages of the requests `known` are left out.
        """
        if not is_askable(address):
            raise RejectedError("the address cannot stand in a question to the Email Logs")
        moment = since.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        query = f"to_email='{address}' AND sg_message_id_created_at >= TIMESTAMP \"{moment}\""
        logs = self._sendgrid.client.logs
        with reading():
            answer = logs.post(request_body=Body(orjson.dumps({"query": query, "limit": MOST_LOGGED})))
            provider_time = http_date(answer.headers.get("date", ""))
            lines = json.loads(answer.body)["messages"]
            if provider_time is None or len(lines) >= MOST_LOGGED:
                raise ValueError
            found = [(str(line["sg_message_id"]), line["sg_message_id_created_at"]) for line in lines]
            sightings = []
            for message_id, created in found:
                if message_id.partition(".")[0] in known:
                    continue
                detail = json.loads(logs._(quote(message_id, safe="")).get().body)
                sightings.append(
                    Sighting(
                        provider_id=message_id,
                        created_at=datetime.fromisoformat(created).astimezone(UTC),
                        attempt_id=detail.get("custom_args", {}).get("cp_a"),
                    )
                )
        return Listing(sightings=tuple(sightings), provider_time=provider_time)

    def event_hooks(self) -> tuple[EventHook, ...]:
        """Read the account's event webhooks, with their address and the kinds of events they post.

        DeliveryError for everything that is not a whole answer.
        """
        with reading(_HOOKS):
            answer = self._sendgrid.client.user.webhooks.event.settings.all.get()
            return tuple(
                EventHook(
                    hook_id=str(hook["id"] or ""),
                    url=str(hook["url"] or ""),
                    is_on=hook["enabled"] is True,
                    events=frozenset(name for name, value in hook.items() if value is True),
                    public_key=hook.get("public_key") or None,
                )
                for hook in json.loads(answer.body)["webhooks"]
            )

    def inbound_hooks(self) -> tuple[InboundHook, ...]:
        """Read the host names whose mail Inbound Parse posts.

        DeliveryError for everything that is not a whole answer.
        """
        with reading(_PARSE):
            answer = self._sendgrid.client.user.webhooks.parse.settings.get()
            return tuple(
                InboundHook(host=str(one["hostname"] or ""), url=str(one["url"] or ""), is_raw=one["send_raw"] is True)
                for one in json.loads(answer.body)["result"]
            )

    def test_hook(self, hook_id: str, url: str) -> None:
        """Ask SendGrid to post an invented event to `url` at once, as one of the webhook `hook_id`; it does so once.

        DeliveryError if it refuses, or may not have understood.
        """
        with reading(_HOOKS):
            self._sendgrid.client.user.webhooks.event.test.post(
                request_body=Body(orjson.dumps({"id": hook_id, "url": url}))
            )

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _reply_tag(self, batch: EmailBatch) -> str | None:
        """Return what stands in the request's one reply_to: the person's own tag, or what is filled in for each.

        SendGrid fills placeholders there as it does in the subject. None: answers go to the sender.
        """
        tokens = [recipient.reply_token for recipient in batch.recipients]
        if self._inbound_domain is None or not all(tokens):
            return None
        return tag_of(tokens[0]) if len(tokens) == 1 and tokens[0] else f"cpr{batch.attempt_id}"

    def _shared(self, batch: EmailBatch, tag: str | None) -> dict[str, object]:
        content = [{"type": "text/plain", "value": batch.text}]
        if batch.html:
            content.append({"type": "text/html", "value": batch.html})
        shared: dict[str, object] = {
            "from": self._from,
            "subject": batch.subject,
            "content": content,
            "tracking_settings": _TRACKING,
        }
        if self._inbound_domain is not None and tag is not None:
            name = self._from["name"]
            shared["reply_to"] = {"email": reply_address(tag, self._inbound_domain), "name": name}
        return shared

    def _personalization(self, batch: EmailBatch, recipient: EmailRecipient, tag: str | None) -> dict[str, object]:
        personalization: dict[str, object] = {
            "to": [{"email": recipient.address}],
            "custom_args": {"cp_m": recipient.token, "cp_a": batch.attempt_id},
        }
        substitutions = dict(zip(batch.placeholders, recipient.values, strict=True))
        if tag is not None and recipient.reply_token is not None and (own := tag_of(recipient.reply_token)) != tag:
            substitutions[tag] = own
        if substitutions:
            personalization["substitutions"] = substitutions
        if recipient.unsubscribe_url is not None:
            ways = f"<{recipient.unsubscribe_url}>"
            if self._inbound_domain is not None and recipient.unsubscribe_token is not None:
                address = unsubscribe_address(recipient.unsubscribe_token, self._inbound_domain)
                ways += f", <mailto:{address}?subject=unsubscribe>"
            elif self._unsubscribe_address is not None:
                ways += f", <mailto:{quote(self._unsubscribe_address, safe='@')}?subject={recipient.token}>"
            personalization["headers"] = {
                "List-Unsubscribe": ways,
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            }
        return personalization


def is_askable(address: str) -> bool:
    """Tell whether the Email Logs can be asked for an address."""
    return address.isascii() and not _NOT_ASKABLE.search(address)


@contextlib.contextmanager
def reading(what: str = "read the Email Logs") -> Iterator[None]:
    """Turn whatever keeps an answer from being read into a DeliveryError; `what` it needs a permission for."""
    try:
        yield
    except HaltError as error:
        if error.status != 403:
            raise
        reason = f"SendGrid does not let this key {what}; give it that permission in the SendGrid console"
        raise HaltError(f"{reason} (HTTP 403)", status=403, code=error.code) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UnknownError("SendGrid's answer is not the one it documents") from None


def _serialise(shared: Mapping[str, object], personalizations: Sequence[Mapping[str, object]]) -> Body:
    """Return the request as JSON; RejectedError names whose text is none (half a surrogate pair has no UTF-8)."""
    with contextlib.suppress(TypeError):
        return Body(orjson.dumps({**shared, "personalizations": personalizations}))
    for index, personalization in enumerate(personalizations):
        try:
            orjson.dumps(personalization)
        except TypeError:
            raise RejectedError("a value is not valid Unicode text", index=index) from None
    raise RejectedError("the subject or the text is not valid Unicode text")


def _check(batch: EmailBatch, *, reserved: int) -> None:
    """Raise RejectedError for the first recipient that SendGrid would refuse, or could misread."""
    if not 1 <= len(batch.recipients) <= MOST_RECIPIENTS:
        raise RejectedError(f"a request takes 1 to {MOST_RECIPIENTS} recipients")
    if _CONTROL.search(batch.subject):
        raise RejectedError("the subject holds a line break or control character")
    in_subject = [number for number, name in enumerate(batch.placeholders) if name in batch.subject]
    names = sum(map(len, batch.placeholders)) + reserved
    seen: set[str] = set()
    for index, recipient in enumerate(batch.recipients):
        address = recipient.address.casefold()
        if address in seen:
            raise RejectedError("the address is in this request already", index=index)
        seen.add(address)
        if (problem := _problem(recipient, batch.placeholders, names, in_subject)) is not None:
            raise RejectedError(problem, index=index)


def _problem(
    recipient: EmailRecipient, placeholders: Sequence[str], names: int, in_subject: Sequence[int]
) -> str | None:
    values = recipient.values
    if len(values) != len(placeholders):
        return "the values do not fit the placeholders of the batch"
    # A character is at most four bytes: the exact count is rarely needed.
    if names + sum(map(len, values)) > MOST_SUBSTITUTION_BYTES // 4:
        size = names + sum(len(value.encode(errors="replace")) for value in values)
        if size > MOST_SUBSTITUTION_BYTES:
            return f"the values are longer than {MOST_SUBSTITUTION_BYTES} bytes"
    if any(_CONTROL.search(values[number]) for number in in_subject):
        return "a value in the subject holds a line break or control character"
    if _CONTROL.search(recipient.address):
        return "the address holds a line break or control character"
    if recipient.unsubscribe_url is not None and not _HEADER_URL.fullmatch(recipient.unsubscribe_url):
        return "the unsubscribe address cannot stand in a header"
    return None
