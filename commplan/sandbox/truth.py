"""The ground truth: every message the emulated providers accepted, and what became of it.

Never told to the product through the providers' own doors: tests and people compare with it.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from commplan.terms import Channel

#: What may happen to a message, as it appears in `Record.times`.
HAPPENINGS = (
    "processed",
    "deferred",
    "sent",
    "delivered",
    "bounced",
    "blocked",
    "dropped",
    "undelivered",
    "opened",
    "machine_opened",
    "clicked",
    "machine_clicked",
    "scanned",
    "visited",
    "replied",
    "auto_replied",
    "opted_out",
    "unsubscribed",
    "complained",
    "converted",
    "answered",
)

#: Messages of which the content is kept, so that a person may look at what arrived.
_KEPT = 500


@dataclass(slots=True, kw_only=True)
class Record:
    """One accepted message. `times` holds the plan time (seconds since the epoch) of the first of each happening."""

    channel: Channel
    #: SendGrid's ``sg_message_id`` or Twilio's message SID.
    provider_id: str
    #: ``X-Message-Id`` of the request that carried it; for SMS the SID again.
    request_id: str
    to: str = field(repr=False)
    #: What the sender put on the message to know it again: custom args, or the status callback's query.
    args: Mapping[str, str]
    #: The how-manieth message of this channel to this person.
    nth: int
    status: str
    accepted_at: float
    score: int | None = None
    times: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a recipient saw."""

    subject: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    html: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Truth:
    """All records in the order of their acceptance, and the content of the latest."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._content: OrderedDict[str, Content] = OrderedDict()
        self._messages_to: Counter[tuple[Channel, str]] = Counter()
        self._counts: dict[Channel, Counter[str]] = {channel: Counter() for channel in Channel}

    def __len__(self) -> int:
        return len(self._records)

    def nth(self, channel: Channel, to: str) -> int:
        """Count one more message to a person and return which it is, from 1."""
        self._messages_to[channel, to] += 1
        return self._messages_to[channel, to]

    def add(self, record: Record, content: Content) -> None:
        """Keep a record for ever and its content for a while."""
        self._records.append(record)
        self._counts[record.channel]["accepted"] += 1
        self._content[record.provider_id] = content
        if len(self._content) > _KEPT:
            self._content.popitem(last=False)

    def content(self, provider_id: str) -> Content | None:
        """Return what a recipient saw; None when the message is unknown or too long ago."""
        return self._content.get(provider_id)

    def lines(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """Yield the records from `start` to `stop` as lines of JSON."""
        for record in self._records[start:stop]:
            yield json.dumps(_shown(record), ensure_ascii=False) + "\n"

    def note(self, record: Record, what: str, moment: float) -> None:
        """Note that something happened to a message; only the first time counts."""
        if what not in record.times:
            record.times[what] = moment
            self._counts[record.channel][what] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Return for each channel how many messages were accepted and to how many each thing happened."""
        return {
            channel.value: {name: counts[name] for name in ("accepted", *HAPPENINGS)}
            for channel, counts in self._counts.items()
        }


def _shown(record: Record) -> dict[str, object]:
    return {
        "channel": record.channel.value,
        "provider_id": record.provider_id,
        "request_id": record.request_id,
        "to": record.to,
        "args": dict(record.args),
        "nth": record.nth,
        "status": record.status,
        **{name: name in record.times for name in HAPPENINGS},
        "score": record.score,
        "times": {"accepted": _iso(record.accepted_at)} | {name: _iso(at) for name, at in record.times.items()},
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
