"""Texts that nobody posted to us: Twilio's list tells them, and when they were written."""

from __future__ import annotations

from contextlib import closing

import httpx
import pytest
from sqlalchemy import select

from commplan import campaign, pulse
from commplan.channels.base import open_gateways
from commplan.consent import SCOPE_ALL
from commplan.store.tables import inbox, messages, receipts, replies, suppressions
from commplan.suppression import active, suppress
from commplan.terms import Channel, Reason
from commplan.tracking import PostKind, append
from tests.campaign.conftest import Customer, Rehearsal
from tests.campaign.test_gate import REPLY

NUMBER = "+12025550101"


@pytest.fixture
def unposted(rehearse):
    """One person, whose texts are never posted to us, in a run that rests on their silence."""

    def set_up(**switches: object) -> Rehearsal:
        here: Rehearsal = rehearse([Customer(name="ann", mobile=NUMBER)], callbacks_lost=1.0, **switches)
        here.is_heard = False
        running = here.ready(REPLY)
        here.send_due(running)
        here.deliver_all()
        here.jump(days=1, minutes=1)
        here.send_due(running)
        return here

    return set_up


def write(here: Rehearsal, body: str) -> None:
    """Let the person write to us."""
    said = {"from": NUMBER, "to": here.settings.sms.from_number, "body": body}
    assert httpx.post(f"{here.sandbox}/sandbox/texts", json=said, trust_env=False).status_code == 204


def listen(here: Rehearsal) -> None:
    """Ask Twilio for its list, as the run does while it waits."""
    with closing(open_gateways(here.settings, channels=Channel)) as gateways:
        pulse.beat(here.store, here.settings, lambda: gateways)


def reasons(here: Rehearsal) -> set[Reason]:
    key = here.store.keyring.address_key(Channel.SMS, NUMBER)
    with here.store.read() as connection:
        found = active(connection, channel=Channel.SMS, address_key=key, contact=None, now=here.clock.now())
    return {one.reason for one in found}


@pytest.mark.parametrize(
    ("said", "seconds", "stopped"),
    [
        (("STOP", "START"), 60, False),
        (("START", "STOP"), 60, True),
        # Closer than the list can tell: the opt-out wins.
        (("STOP", "START"), 1, True),
        (("STOP", "START", "STOP"), 60, True),
        (("STOP", "START", "STOP", "START"), 60, False),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["told together", "told one by one"])
def test_stop_and_start_are_ordered_by_when_the_provider_had_them(unposted, said, seconds, stopped, together):
    here = unposted()
    for word in said:
        here.jump(seconds=seconds)
        write(here, word)
        if not together:
            listen(here)
    here.jump(minutes=30)
    listen(here)
    campaign.apply_receipts(here.store)
    assert (Reason.STOP in reasons(here)) is stopped


@pytest.mark.parametrize("ahead", [180, -180], ids=["the provider's clock is ahead", "it is behind"])
def test_a_listed_text_and_a_posted_one_are_ordered_though_two_clocks_told_them(unposted, ahead):
    here = unposted(clock_offset=ahead)

    def posted(word: str) -> None:
        body = f"MessageSid=SM{word}&From=%2B{NUMBER[1:]}&Body={word}"
        append(here.store, kind=PostKind.TWILIO_INBOUND, query={}, body=body.encode())

    posted("STOP")
    here.jump(minutes=1)
    write(here, "START")
    here.jump(minutes=30)
    listen(here)
    campaign.apply_receipts(here.store)
    assert reasons(here) == set()
    write(here, "STOP")
    here.jump(minutes=1)
    posted("START")
    here.jump(minutes=30)
    campaign.apply_receipts(here.store)
    listen(here)
    campaign.apply_receipts(here.store)
    assert reasons(here) == set()


def test_a_listed_start_lifts_what_stop_has_set_and_nothing_else(unposted):
    here = unposted()
    with here.store.write() as connection:
        suppress(
            connection,
            channel=Channel.SMS,
            address_key=here.store.keyring.address_key(Channel.SMS, NUMBER),
            contact=None,
            scope=SCOPE_ALL,
            reason=Reason.INVALID_NUMBER,
            source="test",
            at=here.clock.now(),
        )
    write(here, "STOP")
    here.jump(minutes=1)
    write(here, "START")
    here.jump(minutes=30)
    listen(here)
    campaign.apply_receipts(here.store)
    assert reasons(here) == {Reason.INVALID_NUMBER}
    with here.store.read() as connection:
        lifted = connection.execute(select(suppressions.c.reason).where(suppressions.c.lifted_at.is_not(None)))
        assert set(lifted.scalars()) == {Reason.STOP}


def test_a_listed_text_counts_from_when_it_was_written(unposted):
    here = unposted(clock_offset=180)
    here.jump(hours=2)
    written = here.clock.now()
    write(here, "thank you")
    here.jump(hours=3)
    listen(here)
    campaign.apply_receipts(here.store)
    with here.store.read() as connection:
        at = connection.execute(select(replies.c.at)).scalar_one()
        told = connection.execute(select(receipts.c.at).where(receipts.c.kind == "replied")).scalar_one()
        replied = connection.execute(select(messages.c.replied_at).where(messages.c.step_no == 2)).scalar_one()
    assert at == told == replied
    assert -5 < (at - written).total_seconds() < 2


def test_a_listed_text_that_waits_to_be_applied_is_not_taken_in_again(unposted):
    here = unposted()
    write(here, "thank you")
    for _ in range(3):
        here.jump(minutes=30)
        listen(here)
    with here.store.read() as connection:
        kinds = connection.execute(select(inbox.c.kind).where(inbox.c.applied_at.is_(None))).scalars().all()
    assert kinds == [PostKind.TWILIO_LISTED]


def test_a_posted_text_that_waits_to_be_applied_is_not_taken_from_the_list(unposted):
    here = unposted()
    write(here, "thank you")
    here.jump(minutes=30)
    listen(here)
    with here.store.read() as connection:
        body = connection.execute(select(inbox.c.body).where(inbox.c.applied_at.is_(None))).scalar_one()
    with here.store.write() as connection:
        connection.execute(inbox.update().values(kind=PostKind.TWILIO_INBOUND, body=body.partition(b"&At=")[0]))
    here.jump(minutes=30)
    listen(here)
    with here.store.read() as connection:
        kinds = connection.execute(select(inbox.c.kind).where(inbox.c.applied_at.is_(None))).scalars().all()
    assert kinds == [PostKind.TWILIO_INBOUND]
