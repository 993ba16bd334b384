"""The states of a message and the only ways between them.

Every UPDATE of a state names the states it may come from; a test compares those with this table.
"""

from __future__ import annotations

from collections.abc import Mapping

from commplan.terms import MessageState as S

#: From → to, with what causes it.
TRANSITIONS: Mapping[S, Mapping[S, str]] = {
    S.EXCLUDED: {},
    S.NOT_DUE: {
        S.QUEUED: "the earlier message was accepted",
        S.NOT_NEEDED: "the earlier message was never sent",
        S.CANCELLED: "the run was cancelled, or somebody else has the address now",
    },
    S.QUEUED: {
        S.CLAIMED: "a worker takes it into its batch",
        S.SENDING: "a worker takes it, and the last look found nothing against it",
        S.SUPPRESSED: "as from claimed",
        S.NOT_NEEDED: "as from claimed",
        S.EXPIRED: "as from claimed",
        S.ACCEPTED: "a late receipt: it was to be sent again, and had been accepted",
        S.CANCELLED: "the run was cancelled, or somebody else has the address now",
    },
    S.CLAIMED: {
        S.QUEUED: "lease over, hours closed, an answer still out, or the sender was halted",
        S.ACCEPTED: "a late receipt: it was to be sent again, and had been accepted",
        S.SENDING: "the last look found nothing against it",
        S.SUPPRESSED: "the last look found an opt-out, a dead address or a consent withdrawn",
        S.NOT_NEEDED: "its condition does not hold",
        S.EXPIRED: "it is later than not_after",
        S.CANCELLED: "the person left the audience or has no usable address now, or the run was cancelled",
    },
    S.SENDING: {
        S.ACCEPTED: "the provider took it",
        S.FAILED: "the provider refused it",
        S.CLAIMED: "the request certainly was not processed",
        S.UNKNOWN: "no answer, or the worker is gone",
    },
    S.UNKNOWN: {
        S.ACCEPTED: "evidence that the provider took it",
        S.FAILED: "a late answer: the provider refused it",
        S.QUEUED: "evidence that it did not, or a decision to send it again",
        S.CANCELLED: "evidence that it did not, and the run had ended",
    },
    S.ACCEPTED: {S.DELIVERED: "receipt", S.FAILED: "receipt: bounced, dropped or undelivered"},
    S.DELIVERED: {S.FAILED: "a late bounce"},
    S.FAILED: {
        S.QUEUED: "so many were refused alike that the sender is at fault",
        S.DELIVERED: "the bounce carried no ids, and may be about another message too",
    },
    S.NOT_NEEDED: {},
    S.SUPPRESSED: {},
    S.EXPIRED: {S.QUEUED: "a person decided to send it after all"},
    S.CANCELLED: {},
}

#: The message never went to a provider and never will.
NEVER_SENT = frozenset({S.EXCLUDED, S.NOT_NEEDED, S.SUPPRESSED, S.EXPIRED, S.CANCELLED})
#: The provider has taken the message.
TAKEN = frozenset({S.ACCEPTED, S.DELIVERED})
#: Work remains to be done by a sender.
PENDING = frozenset({S.QUEUED, S.CLAIMED, S.SENDING})


def diagram() -> str:
    """Return the transition table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines.extend(f"    [*] --> {start}" for start in (S.EXCLUDED, S.NOT_DUE, S.QUEUED, S.NOT_NEEDED))
    for source, targets in TRANSITIONS.items():
        lines.extend(f"    {source} --> {target}: {why}" for target, why in targets.items())
        if not targets:
            lines.append(f"    {source} --> [*]")
    return "\n".join(lines)
