"""What a run's figures are made of: counts of messages, people, conversions and answers.

Pure data; nothing here names a person, and nothing here judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from commplan.ledger.settlement import Doubts
from commplan.terms import Channel, MessageState, Reason, RunState

#: States of a message that may still be sent.
OPEN_STATES = frozenset({MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED, MessageState.SENDING})
_STANDING = {
    MessageState.EXCLUDED: "excluded",
    MessageState.NOT_NEEDED: "not_needed",
    MessageState.SUPPRESSED: "withheld",
    MessageState.EXPIRED: "withheld",
    MessageState.CANCELLED: "withheld",
    MessageState.UNKNOWN: "unknown",
    MessageState.ACCEPTED: "pending",
    MessageState.DELIVERED: "delivered",
    **dict.fromkeys(OPEN_STATES, "open"),
}
_REACTIONS = (
    "opened",
    "machine_opened",
    "clicked",
    "machine_clicked",
    "replied",
    "answered",
    "responded",
    "opted_out",
    "complained",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the run's own row says; times are plan time."""

    plan: str
    occurrence: str
    digest: str
    state: RunState
    snapshot_at: datetime | None
    first_accepted_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The messages that agree in everything a report groups by, counted.

    `country` is that of an SMS's number, None for email. Every reaction counts messages, not events: two clicks on
    one message are one. `opened` and `clicked` are what people did, and of one message machines may have done the same;
    `responded` is clicked, replied or answered.
    """

    step_no: int
    channel: Channel
    segment: str | None
    locale: str | None
    country: str | None
    state: MessageState
    reason: Reason | None
    messages: int
    accepted: int
    opened: int
    machine_opened: int
    clicked: int
    machine_clicked: int
    replied: int
    answered: int
    responded: int
    opted_out: int
    complained: int
    parts: int
    last_accepted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts of a selection of messages.

    `messages` = `excluded` + `not_needed` + `withheld` + `open` + `unknown` + `refused` + `accepted`, and
    `accepted` = `pending` + `delivered` + `failed`. Reactions count delivered messages only, so each is a part of
    `delivered`.
    """

    messages: int = 0
    excluded: int = 0  #: left out when the run was planned
    not_needed: int = 0  #: their condition did not hold
    withheld: int = 0  #: suppressed, expired or cancelled
    open: int = 0  #: may still be sent
    unknown: int = 0
    refused: int = 0  #: failed without having been accepted
    accepted: int = 0
    pending: int = 0  #: accepted, no final receipt yet
    delivered: int = 0
    failed: int = 0  #: failed after acceptance
    opened: int = 0
    machine_opened: int = 0
    clicked: int = 0
    machine_clicked: int = 0
    replied: int = 0
    answered: int = 0
    responded: int = 0
    opted_out: int = 0
    complained: int = 0


def tally(cells: Iterable[Cell]) -> Tally:
    """Return the counts of cells taken together."""
    total: Counter[str] = Counter()
    for cell in cells:
        total["messages"] += cell.messages
        if cell.state is MessageState.FAILED:
            total.update(failed=cell.accepted, refused=cell.messages - cell.accepted)
        else:
            total[_STANDING[cell.state]] += cell.messages
        if cell.state is MessageState.DELIVERED:
            total.update({name: getattr(cell, name) for name in _REACTIONS})
    total["accepted"] = total["pending"] + total["delivered"] + total["failed"]
    return Tally(**total)


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """How far the people of one segment came, over all steps together.

    `assigned` have at least one message that was not excluded; `open` may still be reached, and have not been.
    """

    segment: str | None
    snapshot: int
    assigned: int
    accepted: int
    delivered: int
    opened: int
    clicked: int
    responded: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Conversions of one segment within one goal's window.

    Of those who have not converted as far as is known, `waiting` had time left when the source last answered, and of
    `unwritten` it is not known whether they were, or will be, written to.
    """

    goal: str
    segment: str | None
    assigned: int
    converted: int
    waiting: int
    unwritten: int
    last_start: datetime | None  #: the latest first acceptance; the last window closes `within` later


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """When a conversion's source was last asked, and last answered."""

    name: str
    asked_at: datetime
    answered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Survey answers of one step and segment that gave one score (None: a comment without a score)."""

    step_no: int
    segment: str | None
    score: int | None
    answers: int
    comments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Invited:
    """People of one segment with a delivered invitation to one event, by their last answer to it.

    `open` may still get one, and have not; they are not among the `invited`.
    """

    event: str
    segment: str | None
    invited: int
    open: int
    yes: int
    no: int
    maybe: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClicks:
    """A counted link of a step's texts by the name its template has for it, and the delivered ones it was clicked in.

    `clicked` by people, `machine_clicked` by machines; of one message both may have.
    """

    step_no: int
    link: str
    clicked: int
    machine_clicked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Everything counted about one run; tuples are sorted, so the same ledger gives the same value."""

    run: RunFacts
    cells: tuple[Cell, ...]
    people: tuple[People, ...]
    conversions: tuple[Converted, ...]
    gatherings: tuple[Gathering, ...]
    scores: tuple[Scores, ...]
    invited: tuple[Invited, ...]
    replies: int
    links: tuple[LinkClicks, ...] = ()
    doubts: Doubts = field(default_factory=Doubts)  #: what was decided without an answer of a provider

    @property
    def snapshot(self) -> int:
        """Everyone the audience's source returned."""
        return sum(group.snapshot for group in self.people)

    @property
    def linked(self) -> frozenset[int]:
        """The steps whose texts have links that are counted."""
        return frozenset(each.step_no for each in self.links)

    def tally(self, chosen: Callable[[Cell], bool] = lambda _: True) -> Tally:
        """Return the counts of the cells that `chosen` holds for."""
        return tally(filter(chosen, self.cells))

    def of_segment(self, segment: str | None) -> Metrics:
        """Return the figures of one segment alone (None: of the people outside every segment).

        `replies` and `links` stay those of the run: a reply is not always known to belong to a person, and all segments
        follow the same links.
        """
        return replace(
            self,
            cells=tuple(cell for cell in self.cells if cell.segment == segment),
            people=tuple(group for group in self.people if group.segment == segment),
            conversions=tuple(group for group in self.conversions if group.segment == segment),
            scores=tuple(row for row in self.scores if row.segment == segment),
            invited=tuple(group for group in self.invited if group.segment == segment),
        )

    def last_accepted_at(self, chosen: Callable[[Cell], bool] = lambda _: True) -> datetime | None:
        """Return when the last of the chosen messages was accepted, None if none was."""
        return max((c.last_accepted_at for c in self.cells if chosen(c) and c.last_accepted_at), default=None)
