"""A process that carries a campaign to its end, in the order in which the flow does, and hears what became of it."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

from commplan.campaign import Campaign
from commplan.dispatch import Sender
from commplan.store import Store, open_store
from commplan.terms import RunState
from commplan.tracking import PostKind, append
from tests.boundary.installation import Installation


def carry(here: Installation, *, lease: float) -> None:
    """Start or join the run and go on until it is finished, whoever has been at it before."""
    here.enter()
    store = open_store(here.settings)
    running = here.start(store)
    if running.state is RunState.FROZEN:
        running.resolve_audience()
        running.render()
    heard = -1
    while running.state is RunState.EXECUTING:
        send(here, store, running, lease=lease)
        found = hear(here, store)
        running.gather()
        if found == heard and not due_now(store, running):
            running.evaluate()
        heard = found
    running.close()
    store.dispose()


def due_now(store: Store, running: Campaign) -> tuple[int, ...]:
    """Return the steps of which something is due, now or when somebody's lease is over."""
    due = running.next_due()
    return () if due is None or due.at > store.clock.now() else due.steps


def send(here: Installation, store: Store, running: Campaign, *, lease: float) -> None:
    """Send until nothing is due any more, waiting for leases of others to end."""
    sender = Sender(store=store, gateways=running.gateways, settings=running.frozen_settings, lease=lease)
    while steps := due_now(store, running):
        if not sum(sender.send_step(running.run.run_id, step_no).batches for step_no in steps):
            time.sleep(0.05)  # plan time stands still, so no due time says when to look again


def hear(here: Installation, store: Store) -> int:
    """Let the providers tell that what they took was delivered; return how much they took.

    All emails in one post; a post of its own for each text of which nobody knows, and for some others. The same thing
    is told in the same words each time, so hearing it again changes nothing.
    """
    found, rows = here.truth(store), here.rows(store)
    mails = [
        {
            "email": one["to"],
            "event": "delivered",
            "timestamp": int(here.clock.now().timestamp()),
            "sg_event_id": f"delivered {one['provider_id']}",
            "sg_message_id": one["provider_id"],
            **one["args"],
        }
        for one in found
        if one["channel"] == "email"
    ]
    append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=json.dumps(mails).encode())
    for one in found:
        if one["channel"] == "sms" and (rows[one["ref"]].state == "unknown" or one["ref"].seq % 10 == 0):
            form = {"MessageSid": one["provider_id"], "MessageStatus": "delivered", "To": one["to"]}
            append(store, kind=PostKind.TWILIO_STATUS, query=one["args"], body=urlencode(form).encode())
    return len(found)
