"""SMS through Twilio: the official SDK builds and reads, our transport carries, one request a message.

It never repeats a request, never reads ``TWILIO_*`` variables, and never puts a number or a text into an error.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

from twilio.base.exceptions import TwilioException
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.rest import Client

from commplan.channels.failures import TWILIO_CODES, http_date, of_twilio, plain_id
from commplan.channels.transport import Transport
from commplan.envelope import Acceptance, InboundText, Listing, Sighting, TextMessage, TextStatus
from commplan.errors import RejectedError, UnknownError
from commplan.settings import SmsSettings

#: Most characters of one message.
LONGEST_TEXT = 1_600
#: Most seconds a message may wait in Twilio's queue.
LONGEST_VALIDITY = 36_000
#: Messages on a page of the list, and most pages that are read: a list that goes on is no whole answer.
PAGE_SIZE, MOST_PAGES = 1_000, 10


class _Carrier(HttpClient):  # type: ignore[misc]
    """The SDK's HTTP client on our transport, at the configured address; any answer but 2xx is one of our errors."""

    def __init__(self, transport: Transport, base_url: str) -> None:
        super().__init__(logging.getLogger(__name__), False)
        self._transport = transport
        self._prefix = urlsplit(base_url).path.rstrip("/")

    def request(
        self,
        method: str,
        uri: str,
        *,
        params: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        parts = urlsplit(uri)
        query = "&".join(filter(None, [parts.query, urlencode(params or {}, doseq=True)]))
        sent = dict(headers or {})
        if auth is not None:
            sent["Authorization"] = "Basic " + b64encode(":".join(auth).encode()).decode("ascii")
        answer = self._transport.request(
            method,
            f"{self._prefix}{parts.path}" + (f"?{query}" if query else ""),
            headers=sent,
            body=urlencode(data or {}, doseq=True).encode("ascii"),
        )
        if not 200 <= answer.status < 300:
            raise of_twilio(answer.status, answer.headers, answer.body)
        if method == "POST" and answer.complete and answer.body and b'"sid"' not in answer.body:
            raise of_twilio(answer.status, answer.headers, answer.body)
        # The SDK takes an empty text for a resource without fields: what a broken connection leaves of an acceptance.
        return Response(answer.status, answer.body.decode() if answer.complete else "", answer.headers)


class TwilioGateway:
    """Sends single texts; safe to share between threads, each call on a connection of its own."""

    def __init__(self, settings: SmsSettings, *, public_url: str, transport: Transport | None = None) -> None:
        base_url = settings.base_url.rstrip("/")
        token = settings.auth_token.get_secret_value() if settings.auth_token is not None else ""
        self._transport = transport or Transport(base_url, timeout=settings.timeout)
        client = Client(
            settings.account_sid or "none",
            token or "none",
            http_client=_Carrier(self._transport, base_url),
            # An empty mapping would make the SDK read the process's own environment.
            environment={"_": ""},
        )
        self._messages = client.messages
        self._from = settings.from_number
        self._callback = f"{public_url.rstrip('/')}/hooks/twilio/status"

    def connect(self) -> None:
        """Have a connection ready; TransientError if Twilio cannot be reached."""
        self._transport.connect()

    def send(self, message: TextMessage) -> Acceptance:
        """Hand one message to Twilio, in one request, once.

        Raises RejectedError before anything is written for a text that Twilio cannot take, and otherwise whatever
        the failure table says of the answer.
        """
        _check(message)
        try:
            with self._transport.written_by(message.write_by):
                created = self._messages.create_with_http_info(
                    to=message.address,
                    from_=self._from,
                    body=message.body,
                    validity_period=min(message.valid_for, LONGEST_VALIDITY),
                    # Five more tries at any failure of our receiver; the fragment is Twilio's to read, never signed.
                    status_callback=f"{self._callback}?m={message.token}&a={message.attempt_id}#rc=5&rp=all",
                )
        except (ValueError, AttributeError, TypeError):
            raise UnknownError("Twilio's answer is not the message it documents; it may have accepted") from None
        sid = plain_id(created.data.sid)
        if sid != created.data.sid or (sid is None and created.status_code != 201):
            raise of_twilio(created.status_code, created.headers, b"")
        return Acceptance(provider_id=sid, provider_time=http_date(created.headers.get("date", "")))

    def find(self, number: str) -> Listing:
        """Read the whole list of messages to a number, page after page; the order of the list is not relied upon.

        Only reads. DeliveryError for everything that is not a whole answer. Messages from a number to us are left out.
        """
        sightings: list[Sighting] = []
        try:
            first = self._messages.page_with_http_info(to=number, page_size=PAGE_SIZE)
            provider_time = http_date(first.headers.get("date", ""))
            page, pages = first.data, 1
            while page is not None and provider_time is not None:
                sightings += [
                    Sighting(
                        provider_id=str(row.sid),
                        created_at=row.date_created.astimezone(UTC),
                        sender=row.from_ or "",
                        body=row.body or "",
                    )
                    for row in page
                    if row.direction != "inbound"
                ]
                page, pages = page.next_page(), pages + 1
                if page is not None and pages > MOST_PAGES:
                    raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError, TwilioException):
            raise UnknownError("Twilio's answer is not the list it documents") from None
        if provider_time is None:
            raise UnknownError("Twilio's answer does not say when it was given")
        return Listing(sightings=tuple(sightings), provider_time=provider_time)

    def fetch(self, provider_id: str) -> TextStatus:
        """Ask what became of a text, in Twilio's own words.

        Only reads. DeliveryError for everything that is not a whole answer, a text that Twilio does not know included.
        """
        try:
            row = self._messages(provider_id).fetch()
            status = TextStatus(
                provider_id=str(row.sid),
                status=str(row.status),
                code=None if row.error_code is None else str(row.error_code),
            )
        except (ValueError, KeyError, AttributeError, TypeError, TwilioException):
            raise UnknownError("Twilio's answer is not the message it documents") from None
        if status.provider_id != provider_id:
            raise UnknownError("Twilio's answer is about another message")
        return status

    def received(self, since: datetime) -> tuple[InboundText, ...]:
        """Read what was written to our number since then, and up to a day before, page after page.

        Only reads. DeliveryError for everything that is not a whole answer.
        """
        # By the day: the documents promise no more of this filter.
        day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
        found: list[InboundText] = []
        asked = datetime.now(UTC)
        try:
            first = self._messages.page_with_http_info(to=self._from, date_sent_after=day, page_size=PAGE_SIZE)
            provider_time = http_date(first.headers.get("date", ""))
            page, pages = first.data, 1
            while page is not None and provider_time is not None:
                found += [
                    InboundText(
                        provider_id=str(row.sid),
                        at=(row.date_sent or row.date_created).astimezone(UTC) - (provider_time - asked),
                        sender=row.from_ or "",
                        body=row.body or "",
                    )
                    for row in page
                    if row.direction == "inbound"
                ]
                page, pages = page.next_page(), pages + 1
                if page is not None and pages > MOST_PAGES:
                    raise ValueError
        except (ValueError, KeyError, AttributeError, TypeError, TwilioException):
            raise UnknownError("Twilio's answer is not the list it documents") from None
        if provider_time is None:
            raise UnknownError("Twilio's answer does not say when it was given")
        return tuple(found)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()


def _check(message: TextMessage) -> None:
    if not message.body.strip():
        raise RejectedError("the text is empty", index=0)
    if len(message.body) > LONGEST_TEXT:
        raise RejectedError(TWILIO_CODES[21617].reason, code="21617", index=0)
    if any("\ud800" <= character <= "\udfff" for character in message.body):
        raise RejectedError("the text is not valid Unicode text", index=0)
    if message.valid_for < 1:
        raise RejectedError("the message's time is over", index=0)
