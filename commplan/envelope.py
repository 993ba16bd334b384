"""What is handed to a gateway and what comes back: plain values, nothing of the store, nothing of a provider.

Reprs show counts and ids, never an address or a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from commplan.ids import AttemptId, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailRecipient:
    """One recipient of an email batch.

    `values` are what stands at the batch's placeholders for this person, in their order, already escaped for the part
    they are in. `unsubscribe_url` is the one-click address of RFC 8058, None for an emergency. `reply_token` and
    `unsubscribe_token` are what the person's own addresses for answers and opt-outs are made of, at a domain that takes
    mail for us.
    """

    token: Token
    address: str = field(repr=False)
    values: Sequence[str] = field(repr=False)
    unsubscribe_url: str | None = field(default=None, repr=False)
    unsubscribe_token: Token | None = field(default=None, repr=False)
    reply_token: Token | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailBatch:
    """One request to an email provider: finished texts with placeholders, and everyone who shares them.

    `write_by` is the `clock.boottime` after which it must not be written any more, None: whenever it may be.
    """

    attempt_id: AttemptId
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    recipients: Sequence[EmailRecipient] = field(repr=False)
    placeholders: Sequence[str] = field(default=(), repr=False)
    write_by: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMessage:
    """One SMS. `valid_for` is how many seconds of plan time it may wait in the provider's queue.

    `write_by` is as in `EmailBatch`.
    """

    attempt_id: AttemptId
    token: Token
    address: str = field(repr=False)
    body: str = field(repr=False)
    valid_for: int = 36_000
    write_by: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The provider took the request. `provider_id` is its name for it, None when the answer was cut short."""

    provider_id: str | None
    #: The provider's clock when it answered (its ``Date`` header), None when it did not say.
    provider_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A message that a provider's own records show; `created_at` is on the provider's clock.

    `attempt_id` is the id we put on it, where the records carry it (email); `sender` and `body` are there for texts.
    """

    provider_id: str
    created_at: datetime
    attempt_id: str | None = None
    sender: str = field(default="", repr=False)
    body: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that a provider's records show for one address, and its clock when it answered."""

    sightings: tuple[Sighting, ...]
    provider_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHook:
    """An event webhook as it is set up at the email provider; `public_key` is None for one that is not signed."""

    hook_id: str
    url: str
    is_on: bool
    events: frozenset[str]
    public_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundHook:
    """Where the email provider posts the mail to one host name; `is_raw` if it leaves reading it to us."""

    host: str
    url: str
    is_raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStatus:
    """What became of a text by the provider's own account, in its words."""

    provider_id: str
    status: str
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundText:
    """A text that somebody wrote to our number, as the provider keeps it.

    `at` is when it had it, on our clock: to the second, and never much later than it was.
    """

    provider_id: str
    at: datetime
    sender: str = field(repr=False)
    body: str = field(repr=False)
