"""The simulated people: what each of them does with a message, decided by who they are and which message it is.

Never decides by the order of arrival: the same seed, address and count of messages give the same behaviour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from commplan.sandbox.dice import Dice
from commplan.sandbox.switches import Role
from commplan.terms import Channel

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

#: First part of a local part that gives a person a role: bounce@…, click.7@…
_ROLE_IN_ADDRESS = re.compile(r"^([a-z]+)(?:[.+\d][^@]*)?@")
_ROLES = {role.value: role for role in Role}
_CJK = re.compile(r"[\u3400-\u9fff]")


class Deed(StrEnum):
    """Something a person, or the machine in front of one, does with a message that arrived."""

    SCAN = "scan"
    PREVIEW = "preview"
    MACHINE_OPEN = "machine_open"
    OPEN = "open"
    CLICK = "click"
    VISIT = "visit"
    ANSWER = "answer"
    ABANDON = "abandon"
    CONVERT = "convert"
    REPLY = "reply"
    STOP = "stop"
    UNSUBSCRIBE = "unsubscribe"
    ONE_CLICK = "one_click"
    MAIL_OFF = "mail_off"
    AUTO_REPLY = "auto_reply"
    COMPLAIN = "complain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """A deed and when: `after` seconds of plan time from the delivery."""

    after: float
    deed: Deed


class Arrival(StrEnum):
    """What becomes of a message before anybody sees it."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"  #: deferred once or more, then delivered
    BOUNCED = "bounced"
    BOUNCED_LATER = "bounced_later"  #: reported as delivered first
    BLOCKED = "blocked"
    UNDELIVERED = "undelivered"


#: Arrivals and their shares, the rest is delivered. A bounce sticks to the address, the others to the message.
_EMAIL_ARRIVALS = ((Arrival.BLOCKED, 0.006), (Arrival.DEFERRED, 0.04))
_DEAD_MAILBOXES = 0.012
_DYING_MAILBOXES = 0.002
_DEAD_PHONES = 0.02
_PHONES_OFF = 0.01
_SCANNED_MAILBOXES = 0.03
_MACHINE_OPENED = 0.30


class Person:
    """Who stands behind one address; all of it follows from the seed and the address."""

    def __init__(self, seed: int, channel: Channel, address: str, roles: Mapping[str, Role]) -> None:
        self._seed = seed
        self._channel = channel
        self._address = address
        self._dice = Dice(seed, channel, address)
        self.role = roles.get(address) or (_role_of(address) if channel is Channel.EMAIL else None)
        #: How much this person cares for messages, between 0 and 1.
        self.keenness = self._dice.draw("keenness")
        #: How pleased this person is, between 0 and 1: mostly pleased.
        self.pleased = self._dice.draw("pleased") ** 0.42

    def nth(self, nth: int) -> Dice:
        """Return the dice of this person's nth message."""
        return Dice(self._seed, self._channel, self._address, nth)

    def arrival(self, nth: int) -> Arrival:
        """Return what becomes of the nth message."""
        if self.role is not None:
            return _ROLE_ARRIVALS.get(self.role, Arrival.DELIVERED)
        dice = self.nth(nth)
        if self._channel is Channel.SMS:
            dead = self._dice.chance("dead", _DEAD_PHONES) or dice.chance("off", _PHONES_OFF)
            return Arrival.UNDELIVERED if dead else Arrival.DELIVERED
        fate = self._dice.draw("mailbox")
        if fate < _DEAD_MAILBOXES:
            return Arrival.BOUNCED
        if fate < _DEAD_MAILBOXES + _DYING_MAILBOXES:
            return Arrival.BOUNCED_LATER
        drawn = dice.draw("arrival")
        for arrival, share in _EMAIL_ARRIVALS:
            if drawn < share:
                return arrival
            drawn -= share
        return Arrival.DELIVERED

    def has_disguise(self, share: float) -> bool:
        """Tell whether a scanner in front of this mailbox calls itself a browser, as a share of them does."""
        return self._dice.chance("disguised", share)

    def has_preview(self, share: float) -> bool:
        """Tell whether this telephone draws previews of links, as a share of them does."""
        return self._dice.chance("previews", share)

    def email_acts(
        self, nth: int, *, asks: bool, invites: bool, answerable: bool = False, disguised: bool = False
    ) -> list[Act]:
        """Return what happens to the nth email once delivered.

        `asks`: it links to a survey; `invites`: it links to something one can set up; `answerable`: it says where
        answers go; `disguised`: a scanner in front of the mailbox hides what it is, and does not take its time.
        """
        dice = self.nth(nth)
        scan = Act(after=dice.between("scan", 0, 1) if disguised else dice.between("scan", 1, 20), deed=Deed.SCAN)
        if self.role is Role.SCANNER:
            return [scan]
        if self.role is not None:
            return [Act(after=MINUTE * (number + 1), deed=deed) for number, deed in enumerate(_ROLE_DEEDS[self.role])]
        acts: list[Act] = []
        if self._dice.chance("scanned", _SCANNED_MAILBOXES):
            acts.append(scan)
        if self._dice.chance("machine", _MACHINE_OPENED):
            acts.append(Act(after=dice.between("machine open", 5, 10 * MINUTE), deed=Deed.MACHINE_OPEN))
        if answerable and dice.chance("away", 0.03):
            acts.append(Act(after=dice.between("absence note", 1, MINUTE), deed=Deed.AUTO_REPLY))
        if not dice.chance("opens", 0.30 + 0.50 * self.keenness):
            if invites and dice.chance("converts unasked", 0.26):
                acts.append(Act(after=dice.delay("unasked", 2 * DAY, 12 * DAY), deed=Deed.CONVERT))
            return acts
        opened = dice.delay("open", 9 * HOUR, 4 * DAY)
        acts.append(Act(after=opened, deed=Deed.OPEN))
        if dice.chance("opens again", 0.25):
            acts.append(Act(after=opened + dice.delay("again", DAY, 4 * DAY), deed=Deed.OPEN))
        if dice.chance("complains", 0.0008):
            acts.append(Act(after=opened + MINUTE, deed=Deed.COMPLAIN))
        elif dice.chance("leaves", 0.012):
            acts.append(Act(after=opened + MINUTE, deed=_way_out(dice, answerable)))
        elif asks:
            acts += self._answering(dice, opened)
        else:
            acts += self._following(dice, opened, invites)
        return acts + (self._writing(dice, opened) if answerable else [])

    def _writing(self, dice: Dice, opened: float) -> list[Act]:
        if not dice.chance("writes back", 0.04):
            return []
        deed = Deed.STOP if dice.chance("writes stop", 0.08) else Deed.REPLY
        return [Act(after=opened + dice.delay("writing", 20 * MINUTE, 6 * HOUR), deed=deed)]

    def _answering(self, dice: Dice, opened: float) -> list[Act]:
        if not dice.chance("clicks", 0.35 + 0.35 * self.keenness):
            return []
        moment = opened + dice.delay("click", 3 * MINUTE, HOUR)
        last = Deed.ABANDON if dice.chance("abandons", 0.15) else Deed.ANSWER
        return [Act(after=moment, deed=Deed.CLICK), Act(after=moment + MINUTE, deed=last)]

    def _following(self, dice: Dice, opened: float, invites: bool) -> list[Act]:
        acts: list[Act] = []
        clicks = dice.chance("clicks", 0.30 + 0.45 * self.keenness)
        moment = opened + dice.delay("click", 5 * MINUTE, 3 * HOUR)
        if clicks:
            acts.append(Act(after=moment, deed=Deed.CLICK))
        if invites and dice.chance("converts", 0.74 if clicks else 0.32):
            wait = dice.delay("convert", 8 * HOUR, 5 * DAY) if clicks else dice.delay("convert", 2 * DAY, 9 * DAY)
            acts.append(Act(after=moment + wait, deed=Deed.CONVERT))
        return acts

    def sms_acts(self, nth: int, *, invites: bool) -> list[Act]:
        """Return what happens to the nth text message once delivered; `invites` as in `email_acts`."""
        dice = self.nth(nth)
        if self.role is not None:
            return [Act(after=MINUTE * (number + 1), deed=deed) for number, deed in enumerate(_ROLE_DEEDS[self.role])]
        moment = dice.delay("reads", 20 * MINUTE, DAY)
        if dice.chance("stops", 0.02):
            return [Act(after=moment, deed=Deed.STOP)]
        acts: list[Act] = []
        if dice.chance("replies", 0.08):
            acts.append(Act(after=moment, deed=Deed.REPLY))
        if dice.chance("visits", 0.30 + 0.35 * self.keenness):
            acts.append(Act(after=moment, deed=Deed.VISIT))
            if invites and dice.chance("converts", 0.70):
                acts.append(Act(after=moment + dice.delay("convert", 6 * HOUR, 3 * DAY), deed=Deed.CONVERT))
        return acts

    def comment(self, nth: int, language: str) -> str:
        """Return what the person writes in the language of the message; empty when nothing."""
        dice = self.nth(nth)
        if not dice.chance("comments", 0.3):
            return ""
        return dice.pick("comment", _COMMENTS[language])

    def reply(self, nth: int, language: str) -> str:
        """Return the reply to a message, in its language."""
        return self.nth(nth).pick("reply", _REPLIES[language])

    def absence(self, language: str) -> str:
        """Return what the person's mailbox answers while they are away."""
        return _ABSENCES[language]

    def stop_word(self, nth: int, language: str) -> str:
        """Return the word with which the person wants no more of it."""
        return self.nth(nth).pick("stop word", _STOP_WORDS[language])


_ROLE_ARRIVALS = {
    Role.BOUNCE: Arrival.BOUNCED,
    Role.BLOCK: Arrival.BLOCKED,
    Role.DEFER: Arrival.DEFERRED,
    Role.UNDELIVERED: Arrival.UNDELIVERED,
    Role.RETURN: Arrival.BOUNCED_LATER,
}
_ROLE_DEEDS: dict[Role, tuple[Deed, ...]] = {
    Role.BOUNCE: (),
    Role.BLOCK: (),
    Role.DEFER: (),
    Role.UNDELIVERED: (),
    Role.SILENT: (),
    Role.OPEN: (Deed.OPEN,),
    Role.CLICK: (Deed.OPEN, Deed.CLICK),
    Role.CONVERT: (Deed.OPEN, Deed.CLICK, Deed.CONVERT),
    Role.ANSWER: (Deed.OPEN, Deed.CLICK, Deed.ANSWER),
    Role.REPLY: (Deed.REPLY,),
    Role.STOP: (Deed.STOP,),
    Role.UNSUBSCRIBE: (Deed.OPEN, Deed.UNSUBSCRIBE),
    Role.SPAM: (Deed.OPEN, Deed.COMPLAIN),
    Role.SCANNER: (),
    Role.AWAY: (Deed.AUTO_REPLY,),
    Role.RETURN: (),
}
_COMMENTS = {
    "en": ("Easy to set up, thank you.", "It took me a while to find the settings.", "Great, just what I needed!"),
    "zh": ("设置很简单，谢谢！", "有些地方找了很久才找到。", "很好用，推荐给同事了。"),
}
_REPLIES = {
    "en": ("Thanks, will do it tonight", "Who is this?", "Where do I find the bus stop nearest to you?"),
    "zh": ("谢谢，今晚就弄", "请问你是哪位？", "好的，收到"),
}
_ABSENCES = {
    "en": "I am out of the office until Monday. To unsubscribe from my newsletter, write to my deputy.",
    "zh": "我正在休假，周一回来。如有急事请联系同事。",
}
_STOP_WORDS = {"en": ("STOP", "stop", "Unsubscribe", "STOP "), "zh": ("退订", "TD", "td", "T")}


def _way_out(dice: Dice, answerable: bool) -> Deed:
    """Return how somebody unsubscribes."""
    if answerable and dice.chance("by mail", 0.25):
        return Deed.MAIL_OFF
    return Deed.ONE_CLICK if dice.chance("one click", 0.5) else Deed.UNSUBSCRIBE


def _role_of(address: str) -> Role | None:
    found = _ROLE_IN_ADDRESS.match(address.lower())
    return _ROLES.get(found[1]) if found else None


def language_of(text: str) -> str:
    """Return ``zh`` or ``en``, by the characters of a text."""
    return "zh" if _CJK.search(text) else "en"
