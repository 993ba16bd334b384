"""Needs: what the silence of a step rests on, read off its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from commplan.plan import Plan
from commplan.terms import Channel

#: SendGrid's events by which a claim would be contradicted, besides the delivery that it rests on.
_EVENTS = {"responded": "click", "clicked": "click", "opened": "open"}
#: Claims by whose truth somebody would have come to our own receiver: to a page of it, or by the link of a text.
_PAGES, _LINKS = frozenset({"answered"}), frozenset({"responded", "clicked"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the silence of a step rests on: earlier steps by the channels their answers come on, events, conversions.

    `visits`: people answer by visiting our own receiver, and no provider would tell us again what it missed.
    """

    steps: Mapping[Channel, frozenset[int]]
    visits: bool
    events: frozenset[str]
    conversions: frozenset[str]
    wait: timedelta
    lateness: timedelta

    def events_on(self, channel: Channel) -> frozenset[str]:
        """Return the events that a provider has to report: those of SendGrid can be switched off."""
        return self.events if channel is Channel.EMAIL else frozenset()


def need_of(plan: Plan, step_no: int) -> Need | None:
    """Return what a step's silence rests on; None for a step that does not rest on silence."""
    step = plan.sequence[step_no - 1]
    if not step.silences:
        return None
    steps: dict[Channel, set[int]] = {}
    events, conversions, visits = {"delivered"}, set(), False
    for claim in step.silences:
        if claim.verb == "converted":
            conversions.add(claim.subject)
            continue
        number = plan.step_number(claim.subject)
        for channel in plan.channels_of(number):
            steps.setdefault(channel, set()).add(number)
            visits |= claim.verb in _PAGES or (channel is Channel.SMS and claim.verb in _LINKS)
        if claim.verb in _EVENTS:
            events.add(_EVENTS[claim.verb])
        if claim.verb == "responded":
            conversions.update(plan.conversions)
    waits = [step.wait, *(change.wait for change in step.by_segment.values() if change.wait is not None)]
    return Need(
        steps={channel: frozenset(numbers) for channel, numbers in steps.items()},
        visits=visits,
        events=frozenset(events),
        conversions=frozenset(conversions),
        wait=min(waits),
        lateness=step.lateness,
    )
