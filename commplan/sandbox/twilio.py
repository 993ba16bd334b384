"""Twilio's Messages over HTTP: create, fetch and list, with its authentication, its codes and its resource.

Never takes a parameter whose effect it does not emulate: it says so instead.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache, partial
from urllib.parse import parse_qsl, urlencode, urlsplit

import phonenumbers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.fault import Faults, go_wrong
from commplan.sandbox.handset import LONGEST_QUEUE, Handsets, Text
from commplan.terms import Channel

MAX_BODY = 1_600
_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_ALPHANUMERIC = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
_TAKEN = frozenset({"To", "From", "MessagingServiceSid", "Body", "StatusCallback", "ValidityPeriod"})
#: Taken and without any effect that the emulator could show.
_WITHOUT_EFFECT = frozenset({"ProvideFeedback", "RiskCheck", "ContentRetention", "AddressRetention", "MessageIntent"})
#: Numbers of Twilio's test credentials, and what they answer.
_MAGIC_TO = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}
_MAGIC_FROM = {"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
_NOT_FOUND = 20404
_ERRORS = {
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    21211: (400, "The 'To' number is not a valid phone number."),
    21212: (400, "The 'From' number is not a valid phone number, shortcode, or alphanumeric sender ID."),
    21408: (400, "Permission to send an SMS has not been enabled for the region indicated by the 'To' number."),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (400, "The 'From' phone number provided is not a valid message-capable Twilio phone number."),
    21609: (400, "The 'StatusCallback' URL is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (400, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (400, "The message cannot be sent with the current combination of 'To' and/or 'From' parameters"),
    21614: (400, "'To' number is not a valid mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    90007: (400, "The validity period is not valid"),
}


class Twilio:
    """The emulated service of one account."""

    def __init__(self, config: SandboxConfig, handsets: Handsets, faults: Faults) -> None:
        self._config = config
        self._handsets = handsets
        self._faults = faults

    def routes(self) -> list[Route]:
        """Return what the service answers to."""
        base = "/2010-04-01/Accounts/{account}/Messages"
        return [
            Route(f"{base}.json", self._create, methods=["POST"]),
            Route(f"{base}.json", self._list, methods=["GET"]),
            Route(base + "/{sid}.json", self._fetch, methods=["GET"]),
        ]

    def _refused(self, request: Request) -> Response | None:
        kind, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            given = b64decode(encoded, validate=True)
        except ValueError:
            given = b""
        expected = f"{self._config.account_sid}:{self._config.auth_token}".encode()
        if kind.lower() != "basic" or not hmac.compare_digest(given, expected):
            return _error(20003)
        if request.path_params["account"] != self._config.account_sid:
            return _error(_NOT_FOUND)
        return None

    async def _create(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        fault = self._faults.draw(Channel.SMS, form.get("To", ""))
        if fault is None:
            return self._accept(form)
        return await go_wrong(
            fault,
            request,
            partial(self._accept_later, form),
            busy=lambda: _error(20429),
            slow_seconds=self._config.switches.slow_seconds,
            late_seconds=self._config.late_seconds,
        )

    async def _accept_later(self, form: Mapping[str, str]) -> Response:
        return self._accept(form)

    def _accept(self, form: Mapping[str, str]) -> Response:
        for name in sorted(form.keys() - _TAKEN - _WITHOUT_EFFECT):
            return _error(21612, f"The sandbox does not emulate {name}", status=400)
        code = self._wrong(form)
        if code is not None:
            return _error(code)
        text = self._handsets.accept(
            to=form["To"],
            sender=form.get("From") or form["MessagingServiceSid"],
            service=form.get("MessagingServiceSid"),
            body=form["Body"],
            callback=form.get("StatusCallback"),
            validity=float(form.get("ValidityPeriod", "36000")),
        )
        return JSONResponse(self._resource(text), status_code=201)

    def _wrong(self, form: Mapping[str, str]) -> int | None:
        to, sender, service = form.get("To", ""), form.get("From", ""), form.get("MessagingServiceSid", "")
        if not to:
            return 21604
        if to in _MAGIC_TO:
            return _MAGIC_TO[to]
        if not sender and not service:
            return 21603
        wrong = self._wrong_sender(sender, service) or _wrong_recipient(to) or _wrong_content(form)
        if wrong:
            return wrong
        if (service or sender, to) in self._handsets.stopped:
            return 21610
        if self._handsets.queue_length(sender or service) > LONGEST_QUEUE:
            return 21611
        return None

    def _wrong_sender(self, sender: str, service: str) -> int | None:
        if service:
            return None if _SERVICE.fullmatch(service) else 21612
        if sender in _MAGIC_FROM:
            return _MAGIC_FROM[sender]
        if not sender.startswith("+"):
            return None if _ALPHANUMERIC.fullmatch(sender) else 21212
        if not re.fullmatch(r"\+[1-9]\d{6,14}", sender):
            return 21212
        owned = self._config.owned_numbers
        return 21606 if owned and sender not in owned else None

    async def _fetch(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        text = self._handsets.messages.get(request.path_params["sid"])
        if text is None:
            return _error(_NOT_FOUND)
        return JSONResponse(self._resource(text))

    async def _list(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        query = dict(request.query_params)
        size = min(1_000, int(query["PageSize"])) if query.get("PageSize", "").isdigit() else 50
        page = int(query["Page"]) if query.get("Page", "").isdigit() else 0
        last = self._config.clock.now().timestamp() - 60 * self._config.switches.list_lag
        known = (text for text in self._handsets.newest(query.get("To")) if text.accepted_at <= last)
        found = [text for text in known if _matches(text, query)]
        shown = found[page * size : (page + 1) * size]
        path = request.url.path
        rest = {name: value for name, value in query.items() if name not in {"Page", "PageSize", "PageToken"}}

        def uri(number: int) -> str:
            return f"{path}?{urlencode({**rest, 'PageSize': size, 'Page': number})}"

        has_more = len(found) > (page + 1) * size
        return JSONResponse(
            {
                "messages": [self._resource(text) for text in shown],
                "page": page,
                "page_size": size,
                "start": page * size,
                "end": page * size + max(0, len(shown) - 1),
                "uri": uri(page),
                "first_page_uri": uri(0),
                "next_page_uri": uri(page + 1) if has_more else None,
                "previous_page_uri": uri(page - 1) if page else None,
            }
        )

    def _resource(self, text: Text) -> dict[str, object]:
        uri = f"/2010-04-01/Accounts/{self._config.account_sid}/Messages/{text.provider_id}"
        price = text.price(self._config.clock.now().timestamp())
        sent = text.times.get("sent")
        return {
            "account_sid": self._config.account_sid,
            "api_version": "2010-04-01",
            "body": text.body,
            "date_created": self._date(text.accepted_at),
            "date_sent": self._date(sent) if sent else None,
            "date_updated": self._date(text.updated_at),
            "direction": text.direction,
            "error_code": text.error[0] if text.error else None,
            "error_message": text.error[1] if text.error else None,
            "from": None if text.service and not sent else text.sender,
            "messaging_service_sid": text.service,
            "num_media": "0",
            # A service has not chosen a sender yet, so nothing has been counted.
            "num_segments": "0" if text.status == "accepted" else str(text.num_parts),
            "price": price,
            "price_unit": "USD",
            "sid": text.provider_id,
            "status": text.status,
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "to": text.to,
            "uri": f"{uri}.json",
        }

    def _date(self, moment: float) -> str:
        return format_datetime(datetime.fromtimestamp(moment + self._config.switches.clock_offset, UTC))


@lru_cache(maxsize=100_000)
def _wrong_recipient(to: str) -> int | None:
    if not re.fullmatch(r"\+[1-9]\d{6,14}", to):
        return 21211
    try:
        number = phonenumbers.parse(to)
    except phonenumbers.NumberParseException:
        return 21211
    if not phonenumbers.is_possible_number(number):
        return 21211
    is_landline = phonenumbers.number_type(number) == phonenumbers.PhoneNumberType.FIXED_LINE
    return 21614 if is_landline else None


def _wrong_content(form: Mapping[str, str]) -> int | None:
    body = form.get("Body", "")
    if not body:
        return 21602
    if len(body) > MAX_BODY:
        return 21617
    callback = urlsplit(form.get("StatusCallback", "http://localhost/"))
    if callback.scheme not in {"http", "https"} or not callback.hostname:
        return 21609
    validity = form.get("ValidityPeriod", "36000")
    if not validity.isdigit() or not 1 <= int(validity) <= 36_000:
        return 90007
    return None


def _matches(text: Text, query: Mapping[str, str]) -> bool:
    if "To" in query and text.to != query["To"]:
        return False
    if "From" in query and text.sender != query["From"]:
        return False
    sent = text.times.get("sent")
    for name, holds in _DATE_FILTERS:
        if name in query:
            # A message that was not sent yet has no date, and escapes every filter on it.
            limit = _limit(query[name])
            if sent is None or limit is None or not holds(sent, *limit):
                return False
    return True


def _limit(given: str) -> tuple[float, float] | None:
    try:
        start = datetime.fromisoformat(given.replace("Z", "+00:00"))
    except ValueError:
        return None
    start = start.replace(tzinfo=start.tzinfo or UTC)
    return start.timestamp(), start.timestamp() + (86_400.0 if len(given) == 10 else 1.0)


_DATE_FILTERS: tuple[tuple[str, Callable[[float, float, float], bool]], ...] = (
    ("DateSent", lambda sent, start, end: start <= sent < end),
    ("DateSent<", lambda sent, start, end: sent < end),
    ("DateSent>", lambda sent, start, end: sent >= start),
)


def _error(code: int, message: str | None = None, *, status: int | None = None) -> Response:
    usual_status, usual_message = _ERRORS[code]
    body = {
        "code": code,
        "message": message or usual_message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status or usual_status,
    }
    return JSONResponse(body, status_code=status or usual_status)
