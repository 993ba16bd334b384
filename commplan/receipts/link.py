"""Visits of the links in our texts: who came, as far as the request tells, and what that says of the message.

Keeps the kind of a program and never its name, its address or anything else that a request carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from commplan.errors import UnreadableError
from commplan.receipts.agent import classify, is_machine
from commplan.receipts.base import Receipt, natural_key, text_of
from commplan.terms import AgentClass, MachineWhy, ReceiptKind

#: Headers in which a program says that nobody has asked for the page yet, and the words by which it does.
_HINTS = ("purpose", "sec-purpose", "x-purpose", "x-moz")
_UNASKED = ("prefetch", "prerender", "preview")


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """A visit of a link: the message by its token, the link by its name, and what kind of program came.

    `machine_why` is set if the request alone tells that it was no person.
    """

    token: str
    link: str
    at: datetime
    agent_class: AgentClass
    machine_why: MachineWhy | None

    def written(self) -> dict[str, str]:
        """Return it as the inbox keeps it."""
        kept = {"m": self.token, "l": self.link, "at": self.at.isoformat(), "by": self.agent_class.value}
        return kept if self.machine_why is None else {**kept, "why": self.machine_why.value}


def visitor(method: str, headers: Mapping[str, str]) -> tuple[AgentClass, MachineWhy | None]:
    """Return what kind of program makes a request, and why it is a machine's, if it is; `headers` by lower-case name.

    A HEAD is one, for it asks for nothing that could be shown; so is what a browser or a messenger fetches unasked.
    """
    agent = classify(headers.get("user-agent", "")[:400])
    if is_machine(agent, clicks=True):
        return agent, MachineWhy.AGENT
    hints = " ".join(headers.get(name, "") for name in _HINTS).casefold()
    unasked = method == "HEAD" or any(word in hints for word in _UNASKED)
    return agent, MachineWhy.FLAGGED if unasked else None


def parse(kept: Mapping[str, str]) -> Receipt:
    """Return the fact of a visit that was `written`; UnreadableError for anything else.

    One program that visits one link twice in a second is one fact.
    """
    token, link = text_of(kept, "m"), text_of(kept, "l", 2_000)
    try:
        at = datetime.fromisoformat(kept["at"]).astimezone(UTC)
        agent = AgentClass(kept["by"])
        why = MachineWhy(kept["why"]) if "why" in kept else None
    except (KeyError, ValueError):
        raise UnreadableError("a visit that was kept is not readable") from None
    if token is None or link is None:
        raise UnreadableError("a visit that was kept names no message or no link")
    second = at.replace(microsecond=0).isoformat()
    return Receipt(
        key=natural_key("page", ReceiptKind.CLICKED, token, link, second, *([] if why is None else [agent, why])),
        source="page",
        kind=ReceiptKind.CLICKED,
        token=token,
        at=at,
        agent_class=agent,
        url_key=link,
        machine_why=why,
    )
