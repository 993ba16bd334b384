"""What a channel offers to those who send, and how the configured gateways are opened.

It never opens a gateway without its credentials, and never gives them to an address without TLS outside this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from commplan.channels.email_sendgrid import SendGridGateway
from commplan.channels.lists_sendgrid import SendGridLists
from commplan.channels.sms_twilio import TwilioGateway
from commplan.envelope import (
    Acceptance,
    EmailBatch,
    EventHook,
    InboundHook,
    InboundText,
    Listing,
    TextMessage,
    TextStatus,
)
from commplan.errors import Finding, InputError
from commplan.settings import Settings, kind_of
from commplan.terms import Channel


class EmailGateway(Protocol):
    """Hands email batches to a provider; safe to share between threads."""

    def connect(self) -> None:
        """Have a connection ready, so that the next `send` writes at once; TransientError if there is none."""

    def send(self, batch: EmailBatch) -> Acceptance:
        """Make one request and return the provider's acceptance of the whole batch.

        Raises TransientError if it was certainly not processed, RejectedError if it was refused (`index`: because of
        that recipient), HaltError if all would be, UnknownError if it may have been accepted. Never asks twice.
        """

    def find(self, address: str, *, since: datetime, known: Collection[str] = ()) -> Listing:
        """Return what the provider's records show for an address since a moment of the provider's clock.

        Only reads. Whatever is not a whole and readable answer is a DeliveryError: no answer never means *nothing*.
        `known` are ids of requests whose messages need no closer look; they are left out.
        """

    def event_hooks(self) -> tuple[EventHook, ...]:
        """Return the event webhooks of the account; only reads. DeliveryError for whatever is not a whole answer."""

    def inbound_hooks(self) -> tuple[InboundHook, ...]:
        """Return where mail to the account is posted; only reads. DeliveryError for whatever is not a whole answer."""

    def test_hook(self, hook_id: str, url: str) -> None:
        """Have the provider post an invented event to `url`, as it posts those of a webhook. DeliveryError if not."""

    def close(self) -> None:
        """Close the connections."""


class SmsGateway(Protocol):
    """Hands single texts to a provider; safe to share between threads."""

    def connect(self) -> None:
        """Have a connection ready, so that the next `send` writes at once; TransientError if there is none."""

    def send(self, message: TextMessage) -> Acceptance:
        """Make one request and return the provider's acceptance; raises as `EmailGateway.send`, with index 0."""

    def find(self, number: str) -> Listing:
        """Return every message to a number that the provider's list shows; raises as `EmailGateway.find`."""

    def fetch(self, provider_id: str) -> TextStatus:
        """Return what became of a text; only reads. DeliveryError for whatever is not a whole answer."""

    def received(self, since: datetime) -> tuple[InboundText, ...]:
        """Return every text that was written to our number since then, or a day before; raises as `fetch`."""

    def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """The way out for each channel."""

    email: EmailGateway
    sms: SmsGateway

    def close(self) -> None:
        """Close the connections of all channels."""
        self.email.close()
        self.sms.close()


def open_gateways(settings: Settings, *, channels: Collection[Channel] = tuple(Channel)) -> Gateways:
    """Return the gateways that the settings describe, without touching the network.

    InputError lists everything that is missing or wrong for `channels`, the ones that will be used. A gateway of
    another channel may lack its credentials; the provider refuses it then (HaltError).
    """
    findings = [
        *_address("COMMPLAN_EMAIL__BASE_URL", settings.email.base_url),
        *_address("COMMPLAN_SMS__BASE_URL", settings.sms.base_url),
        *(finding for channel in Channel if channel in channels for finding in _credentials(settings, channel)),
    ]
    if findings:
        raise InputError(findings)
    return Gateways(
        email=SendGridGateway(settings.email), sms=TwilioGateway(settings.sms, public_url=settings.public_url)
    )


def open_lists(settings: Settings) -> SendGridLists:
    """Return the email provider's suppression lists, without touching the network; InputError as `open_gateways`."""
    findings = [
        *_address("COMMPLAN_EMAIL__BASE_URL", settings.email.base_url),
        *_credentials(settings, Channel.EMAIL),
    ]
    if findings:
        raise InputError(findings)
    return SendGridLists(settings.email)


def _address(place: str, base_url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not base_url.isascii() or any(sign in base_url for sign in "?#@ "):
        yield Finding(place=place, rule="is not the address of an API", remedy="write https://host[:port][/path]")
    elif base_url.startswith("http:") and kind_of(base_url) == "live":
        yield Finding(place=place, rule="would send the credentials unencrypted", remedy="write https://")


def _credentials(settings: Settings, channel: Channel) -> Iterator[Finding]:
    email, sms = settings.email, settings.sms
    if channel is Channel.EMAIL:
        yield from _credential("COMMPLAN_EMAIL__API_KEY", email.api_key, "an API key from the SendGrid console")
    else:
        yield from _credential("COMMPLAN_SMS__ACCOUNT_SID", sms.account_sid, "the account SID from the Twilio console")
        yield from _credential("COMMPLAN_SMS__AUTH_TOKEN", sms.auth_token, "the auth token from the Twilio console")


def _credential(place: str, value: SecretStr | str | None, what: str) -> Iterator[Finding]:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not text:
        yield Finding(place=place, rule="is not set", remedy=f"set it to {what}")
    elif not (text.isascii() and text.isprintable()) or " " in text:
        yield Finding(
            place=place, rule="holds a space, a line break or a foreign character", remedy=f"set it to {what}"
        )
