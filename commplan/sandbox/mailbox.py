"""What becomes of an accepted email: the answer of its mail server, the machines before the reader, the reader.

Never knows more of a message than a provider and its recipient do: an address, what was written, custom args.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.mail import Envelope, Link
from commplan.sandbox.parse import Letter, ParseHook, quoted
from commplan.sandbox.people import HOUR, MINUTE, Act, Arrival, Deed, Person, language_of
from commplan.sandbox.schedule import Schedule
from commplan.sandbox.suppression import SuppressionLists
from commplan.sandbox.truth import Content, Record, Truth
from commplan.sandbox.visit import Place, Visitor
from commplan.sandbox.webhook import EventFeed, new_event_id
from commplan.terms import Channel

#: Why a provider does not even try, worded as it words it.
BOUNCED_BEFORE = "Bounced Address"
UNSUBSCRIBED_BEFORE = "Unsubscribed Address"
REPORTED_BEFORE = "Spam Reporting Address"
INVALID = "Invalid"
#: The lists that keep mail back, each with the reason that is told; a block does not.
_DROPPED: Mapping[str, str] = {
    "bounces": BOUNCED_BEFORE,
    "spam_reports": REPORTED_BEFORE,
    "unsubscribes": UNSUBSCRIBED_BEFORE,
    "invalid_emails": INVALID,
}

_BROWSERS = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36",
)
_PREFETCHER = "Mozilla/5.0"
_SCANNER = "Barracuda Sentinel (EE)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """What the sender switched on for a request."""

    opens: bool = True
    clicks: bool = True
    unsubscribes: bool = False
    ignores_suppressions: bool = False


@dataclass(slots=True, kw_only=True)
class Mail(Record):
    """An accepted email."""

    sender: str
    subject: str = field(repr=False)
    links: tuple[Link, ...] = field(repr=False)
    #: Address of the one-click unsubscribe (RFC 8058), if the headers carry one.
    one_click: str | None = field(repr=False)
    #: Where answers go, and mail that ends these messages; None: nowhere that is heard.
    reply_to: str | None = field(repr=False)
    mail_off: str | None = field(repr=False)
    language: str
    categories: tuple[str, ...]
    tracking: Tracking
    invalid: bool

    @property
    def urls(self) -> list[str]:
        """All links, in the order of the message."""
        return [link.url for link in self.links]


class Mailboxes:
    """All mailboxes behind the emulated email provider; what its lists hold is dropped."""

    def __init__(
        self,
        config: SandboxConfig,
        schedule: Schedule,
        truth: Truth,
        feed: EventFeed,
        visitor: Visitor,
        *,
        parse: ParseHook,
        lists: SuppressionLists,
    ) -> None:
        self._config = config
        self._lists = lists
        self._schedule = schedule
        self._truth = truth
        self._feed = feed
        self._visitor = visitor
        self._parse = parse
        #: Every message taken over, in order.
        self.accepted: list[Mail] = []

    def accept(
        self, request_id: str, envelopes: Iterable[Envelope], tracking: Tracking, invalid: frozenset[int]
    ) -> None:
        """Take over the messages of one request; `invalid` are the personalizations to be dropped later."""
        now = self._config.clock.now().timestamp()
        for number, envelope in enumerate(envelopes):
            mail = Mail(
                channel=Channel.EMAIL,
                provider_id=f"{request_id}.recvd-{secrets.token_hex(5)}-{number}-{secrets.token_hex(4).upper()}.0",
                request_id=request_id,
                to=envelope.to,
                args=envelope.args,
                nth=self._truth.nth(Channel.EMAIL, envelope.to.casefold()),
                status="queued",
                accepted_at=now,
                sender=envelope.sender,
                subject=envelope.subject,
                links=envelope.links,
                one_click=_one_click(envelope.headers),
                reply_to=envelope.reply_to,
                mail_off=_mail_off(envelope.headers),
                language=language_of(envelope.subject + envelope.text),
                categories=envelope.categories,
                tracking=tracking,
                invalid=envelope.personalization in invalid,
            )
            content = Content(
                subject=envelope.subject, text=envelope.text, html=envelope.html, headers=envelope.headers
            )
            self._truth.add(mail, content)
            self.accepted.append(mail)
            # Nothing depends on the order of arrival: the dice of this person's nth message say when.
            start = max(now, float(envelope.send_at or 0))
            self._schedule.at(start + 1 + number % 20, partial(self._process, mail, start + 1 + number % 20))

    def _person(self, mail: Mail) -> Person:
        return Person(self._config.seed, Channel.EMAIL, mail.to.casefold(), self._config.switches.people)

    def _process(self, mail: Mail, moment: float) -> None:
        reason = INVALID if mail.invalid else self._suppressed(mail.to)
        if reason and not (mail.tracking.ignores_suppressions and not mail.invalid):
            if mail.invalid:
                self._list("invalid_emails", mail, moment, reason="Mail domain mentioned in email address is unknown")
            self._report(mail, "dropped", moment, {"reason": reason, "smtp-id": _smtp_id(mail)}, happening="dropped")
            return
        self._report(mail, "processed", moment, {"smtp-id": _smtp_id(mail)}, happening="processed")
        person = self._person(mail)
        dice = person.nth(mail.nth)
        moment += dice.between("delivery", 1, MINUTE)
        arrival = person.arrival(mail.nth)
        if arrival is Arrival.DEFERRED:
            for attempt in range(1, 2 + int(dice.draw("deferrals") * 2)):
                self._schedule.at(moment, partial(self._defer, mail, moment, attempt))
                moment += dice.between(f"deferral {attempt}", 10 * MINUTE, HOUR)
        if arrival in {Arrival.BOUNCED, Arrival.BLOCKED}:
            self._schedule.at(moment, partial(self._bounce, mail, moment, arrival is Arrival.BOUNCED))
        else:
            self._schedule.at(moment, partial(self._deliver, mail, moment, person, arrival))

    def _suppressed(self, address: str) -> str | None:
        return next((reason for name, reason in _DROPPED.items() if self._lists.has(name, address)), None)

    def _list(self, name: str, mail: Mail, moment: float, **says: str) -> None:
        self._lists.put(name, mail.to, int(moment + self._config.switches.clock_offset), **says)

    def _defer(self, mail: Mail, moment: float, attempt: int) -> None:
        fields = {
            "smtp-id": _smtp_id(mail),
            "response": "451 4.7.1 Greylisted, please try again later",
            "attempt": str(attempt),
            "domain": mail.to.rpartition("@")[2],
            "tls": 1,
        }
        self._report(mail, "deferred", moment, fields, happening="deferred")

    def _bounce(self, mail: Mail, moment: float, is_permanent: bool, is_named: bool = True) -> None:
        if is_permanent:
            fields: dict[str, object] = {
                "type": "bounce",
                "status": "5.1.1",
                "reason": "550 5.1.1 The email account that you tried to reach does not exist",
                "bounce_classification": "Invalid Address",
            }
        else:
            fields = {
                "type": "blocked",
                "status": "4.7.0",
                "reason": "451 4.7.0 Message rejected for policy reasons",
                "bounce_classification": "Reputation",
            }
        said = {name: str(fields[name]) for name in ("reason", "status")}
        self._list("bounces" if is_permanent else "blocks", mail, moment, **said)
        fields |= {"smtp-id": _smtp_id(mail), "tls": 1} if is_named else {}
        happening = "bounced" if is_permanent else "blocked"
        self._report(mail, "bounce", moment, fields, happening=happening, is_named=is_named)

    def _deliver(self, mail: Mail, moment: float, person: Person, arrival: Arrival) -> None:
        fields = {"smtp-id": _smtp_id(mail), "response": "250 2.0.0 OK", "tls": 1}
        self._report(mail, "delivered", moment, fields, happening="delivered")
        if arrival is Arrival.BOUNCED_LATER:
            dice = person.nth(mail.nth)
            later = moment + dice.between("bounces later", HOUR, 20 * HOUR)
            is_named = not dice.chance("idless", self._config.switches.idless_share)
            self._schedule.at(later, partial(self._bounce, mail, later, True, is_named))
            return
        for act in person.email_acts(
            mail.nth,
            asks=bool(self._visitor.find(mail.urls, Place.SURVEY)),
            invites=bool(self._visitor.find(mail.urls, Place.SETUP)),
            answerable=mail.reply_to is not None,
            disguised=person.has_disguise(self._config.switches.disguised_share),
        ):
            due = moment + act.after
            self._schedule.at(due, partial(self._act, mail, person, act, due))

    async def _act(self, mail: Mail, person: Person, act: Act, moment: float) -> None:
        match act.deed:
            case Deed.SCAN:
                await self._scan(mail, person, moment)
            case Deed.MACHINE_OPEN:
                self._open(mail, moment, _PREFETCHER, by_machine=True)
            case Deed.OPEN:
                self._open(mail, moment, person.nth(0).pick("browser", _BROWSERS), by_machine=False)
            case Deed.CLICK:
                await self._click(mail, person, moment)
            case Deed.CONVERT:
                for url in self._visitor.find(mail.urls, Place.SETUP)[:1]:
                    await self._visitor.set_up(url, partial(self._truth.note, mail, "converted"))
            case Deed.ANSWER:
                await self._answer(mail, person)
            case Deed.REPLY | Deed.STOP | Deed.AUTO_REPLY | Deed.MAIL_OFF:
                self._write(mail, person, act.deed, moment)
            case Deed.UNSUBSCRIBE | Deed.ONE_CLICK:
                await self._unsubscribe(mail, moment, prefers_button=act.deed is Deed.ONE_CLICK)
            case Deed.COMPLAIN:
                self._list("spam_reports", mail, moment, ip="203.0.113.10")
                self._report(mail, "spamreport", moment, {}, happening="complained")
            case _:
                pass  # the other deeds are of telephones, or leave no trace

    async def _scan(self, mail: Mail, person: Person, moment: float) -> None:
        disguised = person.has_disguise(self._config.switches.disguised_share)
        agent = person.nth(0).pick("browser", _BROWSERS) if disguised else _SCANNER
        self._truth.note(mail, "scanned", moment)
        urls = mail.urls + ([mail.one_click] if mail.one_click else [])
        await self._visitor.scan(dict.fromkeys(urls))
        if self._config.switches.scanner_clicks:
            for position, link in enumerate(mail.links):
                self._click_event(mail, link, position, moment, agent, happening="machine_clicked")

    def _open(self, mail: Mail, moment: float, agent: str, *, by_machine: bool) -> None:
        happening = "machine_opened" if by_machine else "opened"
        if not mail.tracking.opens:
            self._truth.note(mail, happening, moment)
            return
        fields: dict[str, object] = {"useragent": agent, "ip": "203.0.113.10", "sg_content_type": "html"}
        if by_machine:
            fields["sg_machine_open"] = True
        self._report(mail, "open", moment, fields, happening=happening)

    async def _click(self, mail: Mail, person: Person, moment: float) -> None:
        url = self._visitor.survey_link(mail.urls, person.pleased)
        if url is None:
            pages = self._visitor.find(mail.urls, Place.SETUP, Place.PAGE)
            if not pages:
                return
            # What a message is about stands first.
            url = person.nth(mail.nth).pick("link", [pages[0], *pages])
        position = mail.urls.index(url)
        self._truth.note(mail, "visited", moment)
        self._click_event(mail, mail.links[position], position, moment, person.nth(0).pick("browser", _BROWSERS))
        await self._visitor.look(url)

    def _click_event(
        self, mail: Mail, link: Link, position: int, moment: float, agent: str, *, happening: str = "clicked"
    ) -> None:
        if mail.tracking.clicks and link.tracked:
            fields = {
                "url": link.url,
                "url_offset": {"index": position, "type": "html"},
                "useragent": agent,
                "ip": "203.0.113.10",
            }
            self._report(mail, "click", moment, fields, happening=happening)

    async def _answer(self, mail: Mail, person: Person) -> None:
        def done(moment: float, score: int | None) -> None:
            mail.score = score
            self._truth.note(mail, "answered", moment)

        url = self._visitor.survey_link(mail.urls, person.pleased)
        if url is not None:
            words = person.comment(mail.nth, mail.language)
            await self._visitor.answer(url, person.nth(mail.nth), person.pleased, words, done)

    def _write(self, mail: Mail, person: Person, deed: Deed, moment: float) -> None:
        if deed is Deed.MAIL_OFF:
            self._mail_off(mail, moment)
        elif deed is Deed.AUTO_REPLY:
            self._answer_by_machine(mail, person, moment)
        else:
            self._write_back(mail, person, moment, stops=deed is Deed.STOP)

    def _write_back(self, mail: Mail, person: Person, moment: float, *, stops: bool) -> None:
        if mail.reply_to is None:
            return
        self._truth.note(mail, "opted_out" if stops else "replied", moment)
        content = self._truth.content(mail.provider_id)
        words = person.stop_word(mail.nth, mail.language) if stops else person.reply(mail.nth, mail.language)
        earlier = quoted(
            content.text if content else "", sender=mail.sender, moment=mail.accepted_at, language=mail.language
        )
        known = {"In-Reply-To": _smtp_id(mail), "References": _smtp_id(mail)}
        self._parse.receive(
            Letter(
                sender=mail.to,
                to=mail.reply_to,
                subject=f"{'回复：' if mail.language == 'zh' else 'Re: '}{mail.subject}",
                text=words + earlier,
                return_path=mail.to,
                headers=known,
                charset="gb2312" if mail.language == "zh" and person.nth(0).chance("old program", 0.5) else "UTF-8",
            ),
            moment,
        )

    def _answer_by_machine(self, mail: Mail, person: Person, moment: float) -> None:
        if mail.reply_to is None:
            return
        self._truth.note(mail, "auto_replied", moment)
        # Not all of them say what they are.
        says_so = person.nth(0).chance("says so", 0.7)
        self._parse.receive(
            Letter(
                sender=mail.to,
                to=mail.reply_to,
                subject=f"{'自动回复：' if mail.language == 'zh' else 'Automatic reply: '}{mail.subject}",
                text=person.absence(mail.language),
                return_path="" if says_so else mail.to,
                headers={"Auto-Submitted": "auto-replied", "Precedence": "bulk"} if says_so else {},
            ),
            moment,
        )

    def _mail_off(self, mail: Mail, moment: float) -> None:
        if mail.mail_off is None:
            return
        self._truth.note(mail, "unsubscribed", moment)
        self._parse.receive(
            Letter(sender=mail.to, to=mail.mail_off, subject="unsubscribe", text="", return_path=mail.to), moment
        )

    async def _unsubscribe(self, mail: Mail, moment: float, *, prefers_button: bool) -> None:
        done = partial(self._truth.note, mail, "unsubscribed")
        pages = self._visitor.find(mail.urls, Place.UNSUBSCRIBE)
        if mail.one_click and (prefers_button or not pages):
            await self._visitor.one_click(mail.one_click, done)
        elif pages:
            await self._visitor.unsubscribe(pages[0], done)
        elif mail.tracking.unsubscribes:
            self._list("unsubscribes", mail, moment)
            self._report(mail, "unsubscribe", moment, {}, happening="unsubscribed")

    def _report(
        self,
        mail: Mail,
        event: str,
        moment: float,
        fields: Mapping[str, object],
        *,
        happening: str,
        is_named: bool = True,
    ) -> None:
        self._truth.note(mail, happening, moment)
        if happening in {"processed", "deferred", "delivered", "bounced", "blocked", "dropped"}:
            mail.status = happening
        known: dict[str, object] = {
            "email": mail.to,
            "event": event,
            "timestamp": int(moment + self._config.switches.clock_offset),
            "sg_event_id": new_event_id(),
            **fields,
        }
        if not is_named:
            self._feed.emit(known)
            return
        known["sg_message_id"] = mail.provider_id
        if mail.categories:
            known["category"] = list(mail.categories) if len(mail.categories) > 1 else mail.categories[0]
        # Custom args stand beside the event's own fields, and lose where they have the same name.
        self._feed.emit({**mail.args, **known})


def _one_click(headers: Mapping[str, str]) -> str | None:
    by_name = {name.lower(): value for name, value in headers.items()}
    if "one-click" not in by_name.get("list-unsubscribe-post", "").lower():
        return None
    for entry in by_name.get("list-unsubscribe", "").split(","):
        url = entry.strip().strip("<>")
        if url.startswith("http"):
            return url
    return None


def _mail_off(headers: Mapping[str, str]) -> str | None:
    ways = next((value for name, value in headers.items() if name.lower() == "list-unsubscribe"), "")
    entries = [entry.strip().strip("<>") for entry in ways.split(",")]
    return next((entry.removeprefix("mailto:").partition("?")[0] for entry in entries if "mailto:" in entry), None)


def _smtp_id(mail: Mail) -> str:
    return f"<{mail.request_id}@geopod-ismtpd-1>"
