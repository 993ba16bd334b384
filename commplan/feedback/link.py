"""The link to a run's feedback: whoever has it may read, until it expires.

Never opens what it was not made for: the run and the end of its validity are inside its keyed token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from commplan.ids import Keyring, MessageRef, RunId, TokenPurpose
from commplan.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a token opens, and whether it still does."""

    run_id: RunId
    is_over: bool


def link_to(settings: Settings, keyring: Keyring, run_id: RunId) -> str:
    """Return the address of a run's feedback, good for `feedback_hours` of machine time from now on."""
    # The token's place for a recipient holds the second at which it ends.
    ref = MessageRef(run_id, 0, int(time.time() + settings.feedback_hours * 3_600))
    return f"{settings.public_url}/f/{keyring.token(TokenPurpose.FEEDBACK, ref)}"


def open_link(keyring: Keyring, token: str) -> Link | None:
    """Return what a token opens, None if it is not one of ours for feedback."""
    ref = keyring.open(TokenPurpose.FEEDBACK, token)
    return None if ref is None else Link(run_id=ref.run_id, is_over=ref.seq <= time.time())
