"""What becomes of an accepted text message: the sender's queue, the network, the person who holds the telephone.

Never knows more than a provider and its recipient do: two numbers, a text, and where to report.
"""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from urllib.parse import parse_qsl, urlsplit

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.part import parts
from commplan.sandbox.people import MINUTE, Act, Arrival, Deed, Person, language_of
from commplan.sandbox.schedule import Schedule
from commplan.sandbox.truth import Content, Record, Truth
from commplan.sandbox.visit import Place, Visitor
from commplan.sandbox.webhook import Callbacks
from commplan.terms import Channel

#: Words that a long code understands by itself; the sandbox knows no others, as Twilio does not.
STOP_WORDS = frozenset(["STOP", "UNSUBSCRIBE", "END", "QUIT", "STOPALL", "REVOKE", "OPTOUT", "CANCEL"])
START_WORDS = frozenset(["START", "YES", "UNSTOP"])
#: Longest queue of a sender, in seconds of plan time.
LONGEST_QUEUE = 36_000.0

_URL = re.compile(r"https?://[^\s<>\"'，。！？；：）]+")
#: Why a text message does not arrive, with Twilio's codes.
_UNREACHABLE = ((30003, "Unreachable destination handset"), (30005, "Unknown destination handset"))
_EXPIRED = (30036, "Validity Period Expired")
#: Price of one part, by the beginning of the number; the rest costs the last.
_PRICES = (("+1", "0.0079"), ("+44", "0.0463"), ("+86", "0.0504"), ("+886", "0.0490"), ("+", "0.0600"))
_PRICED_AFTER = 5 * MINUTE


@dataclass(slots=True, kw_only=True)
class Text(Record):
    """A text message as Twilio keeps it, outbound or inbound."""

    sender: str
    service: str | None
    body: str = field(repr=False)
    num_parts: int
    #: Where statuses are reported, with its fragment; None: nowhere.
    callback: str | None
    validity: float
    direction: str = "outbound-api"
    error: tuple[int, str] | None = None
    updated_at: float = 0.0

    def price(self, now: float) -> str | None:
        """Return the price once it is known: negative, five decimals."""
        sent = self.times.get("sent")
        if sent is None or now < sent + _PRICED_AFTER:
            return None
        each = max((start, price) for start, price in _PRICES if self.to.startswith(start))[1]
        return f"-{Decimal(each) * self.num_parts:.5f}"


class Handsets:
    """All telephones behind the emulated SMS provider, its queues, and who told it to stop."""

    def __init__(
        self, config: SandboxConfig, schedule: Schedule, truth: Truth, callbacks: Callbacks, visitor: Visitor
    ) -> None:
        self._config = config
        self._schedule = schedule
        self._truth = truth
        self._callbacks = callbacks
        self._visitor = visitor
        self._inbound_url = config.public_url.rstrip("/") + "/hooks/twilio/inbound#rc=5&rp=all"
        #: Every message by SID, inbound ones too, in the order of their creation.
        self.messages: dict[str, Text] = {}
        self._by_recipient: defaultdict[str, list[Text]] = defaultdict(list)
        #: (sender, recipient) pairs that the recipient has ended.
        self.stopped: set[tuple[str, str]] = set()
        #: For each sender the plan time at which its queue is empty.
        self._busy_until: dict[str, float] = {}

    def queue_length(self, sender: str) -> float:
        """Return how long a new message of a sender would wait, in seconds of plan time."""
        return max(0.0, self._busy_until.get(sender, 0.0) - self._now())

    def accept(
        self, *, to: str, sender: str, service: str | None, body: str, callback: str | None, validity: float
    ) -> Text:
        """Take over one message and return it as it is answered: queued (or accepted, for a service)."""
        now = self._now()
        sid = "SM" + secrets.token_hex(16)
        query = urlsplit(callback).query if callback else ""
        text = Text(
            channel=Channel.SMS,
            provider_id=sid,
            request_id=sid,
            to=to,
            args=dict(parse_qsl(query)),
            nth=self._truth.nth(Channel.SMS, to),
            status="accepted" if service else "queued",
            accepted_at=now,
            updated_at=now,
            sender=sender,
            service=service,
            body=body,
            num_parts=parts(body),
            callback=callback,
            validity=validity,
        )
        self._truth.add(text, Content(text=body))
        self._keep(text)
        turn = now + 1
        per_second = self._config.switches.sms_per_second
        if per_second:
            turn = max(turn, self._busy_until.get(sender, 0.0))
            self._busy_until[sender] = turn + text.num_parts / per_second
        if turn > now + validity:
            self._schedule.at(now + validity, partial(self._fail, text, now + validity, _EXPIRED, "failed"))
        else:
            self._schedule.at(turn, partial(self._send, text, turn))
        return text

    def newest(self, to: str | None = None) -> Iterable[Text]:
        """Return the messages, newest first: all of them, or those to one number."""
        return reversed(self.messages.values() if to is None else self._by_recipient.get(to, []))

    def _keep(self, text: Text) -> None:
        self.messages[text.provider_id] = text
        self._by_recipient[text.to].append(text)

    def _now(self) -> float:
        return self._config.clock.now().timestamp()

    def _person(self, text: Text) -> Person:
        return Person(self._config.seed, Channel.SMS, text.to, self._config.switches.people)

    def _send(self, text: Text, moment: float) -> None:
        text.status, text.updated_at = "sending", moment
        moment += 1
        self._schedule.at(moment, partial(self._sent, text, moment))

    def _sent(self, text: Text, moment: float) -> None:
        self._truth.note(text, "sent", moment)
        self._status(text, "sent", moment)
        person = self._person(text)
        dice = person.nth(text.nth)
        arrival = moment + dice.between("arrives", 1, 2 * MINUTE)
        if person.arrival(text.nth) is Arrival.UNDELIVERED:
            error = dice.pick("error", _UNREACHABLE)
            self._schedule.at(arrival, partial(self._fail, text, arrival, error, "undelivered"))
        else:
            self._schedule.at(arrival, partial(self._deliver, text, arrival, person))

    def _fail(self, text: Text, moment: float, error: tuple[int, str], status: str) -> None:
        text.error = error
        self._truth.note(text, "undelivered", moment)
        self._status(text, status, moment)

    def _deliver(self, text: Text, moment: float, person: Person) -> None:
        self._truth.note(text, "delivered", moment)
        self._status(text, "delivered", moment)
        urls = _URL.findall(text.body)
        acts = person.sms_acts(text.nth, invites=bool(self._visitor.find(urls, Place.SETUP, Place.LINK)))
        if person.has_preview(self._config.switches.previewed_share):
            acts = [Act(after=person.nth(text.nth).between("preview", 0, 3), deed=Deed.PREVIEW), *acts]
        for act in acts:
            due = moment + act.after
            self._schedule.at(due, partial(self._act, text, person, act, due))

    async def _act(self, text: Text, person: Person, act: Act, moment: float) -> None:
        urls = _URL.findall(text.body)
        language = language_of(text.body)
        match act.deed:
            case Deed.VISIT | Deed.CLICK:
                for url in self._visitor.find(urls, Place.SETUP, Place.PAGE, Place.SURVEY, Place.LINK)[:1]:
                    self._truth.note(text, "visited", moment)
                    if await self._visitor.look(url) and self._visitor.find([url], Place.LINK):
                        self._truth.note(text, "clicked", moment)
            case Deed.PREVIEW:
                for url in self._visitor.find(urls, Place.LINK):
                    if await self._visitor.preview(url):
                        self._truth.note(text, "machine_clicked", moment)
            case Deed.CONVERT:
                for url in self._visitor.find(urls, Place.SETUP, Place.LINK)[:1]:
                    await self._visitor.set_up(url, partial(self._truth.note, text, "converted"))
            case Deed.REPLY:
                self._truth.note(text, "replied", moment)
                self.write(text.to, text.sender, person.reply(text.nth, language), moment, text.service)
            case Deed.STOP:
                self._truth.note(text, "replied", moment)
                self._truth.note(text, "opted_out", moment)
                self.write(text.to, text.sender, person.stop_word(text.nth, language), moment, text.service)
            case _:
                pass  # the other deeds are of mailboxes, or leave no trace

    def _status(self, text: Text, status: str, moment: float) -> None:
        text.status, text.updated_at = status, moment
        if text.callback is None:
            return
        params = {
            "MessageSid": text.provider_id,
            "SmsSid": text.provider_id,
            "MessageStatus": status,
            "SmsStatus": status,
            "AccountSid": self._config.account_sid,
            "From": text.sender,
            "To": text.to,
            "ApiVersion": "2010-04-01",
        }
        if text.service:
            params["MessagingServiceSid"] = text.service
        if text.error:
            params["ErrorCode"] = str(text.error[0])
            params["ErrorMessage"] = text.error[1]
        self._callbacks.call(text.callback, params)

    def write(self, number: str, to: str, words: str, moment: float | None = None, service: str | None = None) -> None:
        """Let the person at a number write to one of ours, now if no `moment` is told."""
        moment = self._now() if moment is None else moment
        sid = "SM" + secrets.token_hex(16)
        inbound = Text(
            channel=Channel.SMS,
            provider_id=sid,
            request_id=sid,
            to=to,
            args={},
            nth=0,
            status="received",
            accepted_at=moment,
            updated_at=moment,
            sender=number,
            service=service,
            body=words,
            num_parts=parts(words),
            callback=None,
            validity=0,
            direction="inbound",
            times={"sent": moment},
        )
        self._keep(inbound)
        params = {
            "MessageSid": sid,
            "SmsSid": sid,
            "SmsMessageSid": sid,
            "SmsStatus": "received",
            "AccountSid": self._config.account_sid,
            "From": number,
            "To": to,
            "Body": words,
            "NumMedia": "0",
            "NumSegments": str(inbound.num_parts),
            "ApiVersion": "2010-04-01",
        }
        if service:
            params["MessagingServiceSid"] = service
        word = words.strip().upper()
        pair = (service or to, number)
        if word in STOP_WORDS:
            self.stopped.add(pair)
        elif word in START_WORDS:
            self.stopped.discard(pair)
        if self._config.switches.advanced_opt_out and word in STOP_WORDS | START_WORDS:
            params["OptOutType"] = "STOP" if word in STOP_WORDS else "START"
        self._callbacks.call(self._inbound_url, params)
