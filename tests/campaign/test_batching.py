"""Emails in requests of their own: where batching is off, or live and not proven; and together again once it is."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import select, update

from commplan import batching, campaign, terminal
from commplan.batching import Proof, why_unbatched
from commplan.dispatch import Tally
from commplan.dispatch.email import CONNECTIONS
from commplan.ids import AddressKey, new_attempt_id
from commplan.ledger import standstill
from commplan.store.tables import attempts, store_info
from commplan.terms import Channel, Reason
from tests.campaign.conftest import BOTH, LETTER, Customer, Rehearsal, crowd, until
from tests.campaign.test_last_look import block
from tests.campaign.test_worker import at_work, nursery, require_nobody_twice, swept
from tests.contract.conftest import ScriptedProvider

__all__ = ["nursery"]

#: Names that a careless substitution would spoil.
AWKWARD = ["cp-0-", "-name-", "{{first_name}}", '林 <Ada> & "Bob\'s"', "$1 \\1 %s"]
_TOKEN = re.compile(r"/[A-Za-z0-9_-]{22}\b")


def unbatched(here: Rehearsal) -> Rehearsal:
    here.settings = here.settings.model_copy(
        update={"email": here.settings.email.model_copy(update={"batching": "off"})}
    )
    return here


def live(here: Rehearsal) -> Rehearsal:
    """Call the store one of real providers; the gateways still lead to the sandbox."""
    with here.store.write() as connection:
        connection.execute(update(store_info).values(kind="live", environment="production"))
    here.settings = here.settings.model_copy(
        update={"live": "production", "allow_list": tuple(who.address for who in here.customers)}
    )
    return here


def carried(here: Rehearsal) -> list[int]:
    """Return how many messages each request carried."""
    with here.store.read() as connection:
        return list(connection.execute(select(attempts.c.messages).order_by(attempts.c.messages)).scalars())


def prove(here: Rehearsal, base_url: str | None = None) -> None:
    email = here.settings.email.model_copy(update={"base_url": base_url or here.settings.email.base_url})
    there = here.settings.model_copy(update={"email": email})
    proof = Proof(
        attempt_id=new_attempt_id(),
        placeholder="cp-x-",
        address_keys=(AddressKey("1"), AddressKey("2"), AddressKey("3")),
        sent_at=here.clock.now(),
        sent_by="ops",
    )
    batching.note_sent(here.store, there, proof)
    assert batching.last_passed(here.store, there) is None
    batching.note_passed(here.store, proof, by="ops")


def test_with_batching_off_everybody_gets_the_same_mail_in_a_request_of_its_own(rehearse):
    here = rehearse([Customer(name=f"person{n}") for n in range(1, 6)])
    for number, name in enumerate(AWKWARD, 1):
        here.update_crm("update customers set first_name = :name where customer_id = :id", name=name, id=number)
    together = here.ready(LETTER)
    assert here.send_due(together) == Tally(batches=1, accepted=5)
    unbatched(here)
    running = here.ready(LETTER.replace("plan: letter", "plan: alone"))
    assert here.send_due(running) == Tally(batches=1, accepted=5)
    assert carried(here) == [1, 1, 1, 1, 1, 5]
    mails: dict[str, list[dict[str, str]]] = {}
    for one in here.truth():
        content = here.content(one)
        # The tokens of links differ from run to run.
        own = {part: _TOKEN.sub("/…", content[part]) for part in ("subject", "text", "html")}
        mails.setdefault(one["to"], []).append(own)
    assert all(first == second for first, second in mails.values())
    assert {one["args"]["cp_a"] for one in here.truth()} == {row.attempt_id for row in here.rows().values()}
    here.require_balance(running)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    opened = ScriptedProvider()
    yield opened
    opened.stop()


def test_what_goes_alone_has_nothing_to_substitute(rehearse, provider):
    here = unbatched(rehearse(crowd(2)))
    email = here.settings.email.model_copy(update={"base_url": provider.url})
    running = here.ready(settings=here.settings.model_copy(update={"email": email}))
    provider.script(*[provider.answer("202 Accepted", "X-Message-Id: id")] * 2)
    assert here.send_due(running).accepted == 2
    bodies = [json.loads(request.body) for request in provider.requests]
    assert [len(body["personalizations"]) for body in bodies] == [1, 1]
    assert not any("substitutions" in body["personalizations"][0] for body in bodies)
    assert not any(running.run.placeholder in json.dumps(body) for body in bodies)
    assert all(body["personalizations"][0]["headers"]["List-Unsubscribe"] for body in bodies)


def test_refusals_and_lost_answers_concern_one_person_each(rehearse):
    here = unbatched(rehearse(crowd(30), timeout=1, errors_name_field=False))
    running = here.ready()
    for fault in ("accept_then_close", "429", "close_unprocessed", "accept_then_500"):
        here.fault("email", fault)
    tally = here.send_due(running)
    assert (tally.accepted, tally.unknown, tally.batches) == (27, 3, 1)
    assert sorted({outcome: here.outcomes().count(outcome) for outcome in here.outcomes()}.items()) == [
        ("accepted", 27),
        ("never_left", 1),
        ("unknown", 3),
    ]
    here.deliver_all()
    here.require_balance(running)


def test_somebody_who_opts_out_while_others_of_the_batch_are_written_to_gets_nothing(rehearse):
    here = unbatched(rehearse(crowd(3 * CONNECTIONS), slow_seconds=0.5))
    running = here.ready()
    here.fault("email", "slow", 3 * CONNECTIONS)
    sender = threading.Thread(target=here.send_due, args=[running])
    sender.start()
    until(here.outcomes, poll=0.001, why="that the sender began")
    last = here.customers[-1]
    block(here, Channel.EMAIL, last.address, reason=Reason.NEVER_CONTACT)
    sender.join()
    assert last.address not in {one["to"] for one in here.truth()}
    assert len(here.truth()) == 3 * CONNECTIONS - 1
    assert here.states(running)[last.name] == ["suppressed: never_contact"]
    here.require_balance(running)


def test_a_stop_takes_effect_within_the_requests_in_flight(rehearse):
    here = unbatched(rehearse(crowd(5 * CONNECTIONS), slow_seconds=0.5))
    running = here.ready()
    here.fault("email", "slow", 5 * CONNECTIONS)
    sender = threading.Thread(target=here.send_due, args=[running])
    sender.start()
    until(here.outcomes, poll=0.001, why="that the sender began")
    standstill.stop_all(here.store, by="ops", reason="a test")
    sender.join()
    assert 0 < len(here.truth()) <= CONNECTIONS
    assert {row.state for row in here.rows().values()} == {"accepted", "queued"}
    standstill.lift_stop(here.store, by="ops", reason=None)
    here.send_until_quiet(running)
    assert len(here.truth()) == 5 * CONNECTIONS
    here.require_balance(running)


def test_a_sender_that_is_killed_loses_nothing_and_repeats_nothing(rehearse, nursery):
    here = unbatched(rehearse(crowd(120), batch=20))
    running = here.ready(BOTH)
    senders = nursery(here)
    chance = random.Random(4)
    in_doubt = killed = 0
    for _ in range(6):
        child = senders.send(running, 1, lease=0.3)
        until(lambda: at_work(here) or not senders.any_alive(), poll=0.001, why="that the sender began")
        time.sleep(chance.uniform(0, 0.05))  # the moment of the kill, not something that is waited for
        os.kill(child, signal.SIGKILL)
        senders.wait()
        killed += at_work(here)
        until(lambda: swept(here, running), why="that the lease ended")
        unknown = sum(row.state == "unknown" for row in here.rows().values())
        assert unknown - in_doubt <= CONNECTIONS
        in_doubt = unknown
        assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0
        require_nobody_twice(here)
    assert killed > 2, "no sender was killed at work: the moments are badly chosen"
    here.send_until_quiet(running)
    here.deliver_all()
    here.send_until_quiet(running)
    here.deliver_all()
    require_nobody_twice(here)
    here.require_balance(running)
    assert set(carried(here)) == {1}
    sent = {one["ref"] for one in here.truth()}
    assert sent == {ref for ref, row in here.rows().items() if row.state == "delivered"}


def test_live_mail_goes_unbatched_until_batching_is_proven_at_that_provider(rehearse):
    here = live(rehearse(crowd(4)))
    assert "127.0.0.1" in (why_unbatched(here.store, here.settings) or "")
    first = here.ready(LETTER)
    assert here.send_due(first).accepted == 4
    prove(here, "https://elsewhere.example.com")
    second = here.ready(LETTER.replace("plan: letter", "plan: second"))
    assert here.send_due(second).accepted == 4
    assert carried(here) == [1] * 8
    told = terminal.status_of(here.store, here.settings, second.run.run_key)
    assert "run `commplan doctor --live-batch" in (told.unbatched or "")
    prove(here)
    assert why_unbatched(here.store, here.settings) is None
    told = terminal.status_of(here.store, here.settings, second.run.run_key)
    assert told.unbatched is None
    third = here.ready(LETTER.replace("plan: letter", "plan: third"))
    assert here.send_due(third).accepted == 4
    assert carried(here) == [1] * 8 + [4]
    for running in (first, second, third):
        here.require_balance(running)


@pytest.mark.parametrize("is_live", [True, False])
def test_batching_that_is_off_stays_off_whatever_is_proven(rehearse, is_live):
    here = unbatched(rehearse(crowd(2)))
    if is_live:
        live(here)
    prove(here)
    assert "COMMPLAN_EMAIL__BATCHING is off" in (why_unbatched(here.store, here.settings) or "")
    running = here.ready()
    assert here.send_due(running).accepted == 2
    assert carried(here) == [1, 1]


def test_a_rehearsal_shares_requests_without_a_proof(rehearse):
    here = rehearse(crowd(3))
    assert why_unbatched(here.store, here.settings) is None
