"""The proof: it balances after every story, and each thing that can be off is noticed and named."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from commplan import campaign
from commplan.errors import StoreError
from commplan.ledger import settlement, unsettled
from commplan.ledger.proof import Proof
from commplan.store.tables import attempts, messages, receipts, recipients
from commplan.terms import OnUnknown
from tests.campaign.conftest import BOTH, NOON, TEXT, crowd


@pytest.fixture
def told(rehearse):
    """A run of three people of whom everybody got an email and a text, and its books."""
    here = rehearse(crowd(3), batch=2)
    running = here.ready(BOTH)
    here.send_until_quiet(running)
    here.deliver_all()
    here.require_balance(running)
    assert len(here.truth()) == 6
    return here, running


def books(here, running) -> Proof:
    return campaign.prove(here.store, here.settings, running.run.run_key)


@pytest.fixture
def settled(rehearse):
    """A run of which one text was lost and sent again, one sent again on a decision, and one is still unknown."""
    here = rehearse(crowd(4), list_lag=3000)
    plan = TEXT.replace("content: nudge", "content: nudge, on_unknown: hold")
    running = here.ready(plan)
    here.fault("sms", "close_unprocessed", 3)
    here.send_due(running)
    running.gather()
    with here.store.read() as connection:
        lost, resent, _ = unsettled.read(connection, running.run.run_id)
    settlement.lose(here.store, lost)
    settlement.decide(here.store, replace(resent, policy=OnUnknown.RESEND))
    assert here.send_due(running).accepted == 2
    found = books(here, running)
    assert (found.difference, found.doubts.lost, found.doubts.resent, found.doubts.unknown) == (0, 1, 1, 1)
    return here, running


def _first(connection, outcome, decision=None):
    return (
        connection.execute(
            select(attempts.c.attempt_id).where(
                attempts.c.outcome == outcome, attempts.c.decision.is_not_distinct_from(decision)
            )
        )
        .scalars()
        .first()
    )


def _count_the_lost_again(connection):
    connection.execute(update(attempts).where(attempts.c.outcome == "lost").values(outcome="unknown"))


def _forget_that_it_was_decided(connection):
    connection.execute(update(attempts).values(decision=None))


def _lose_the_unknown(connection):
    attempt = _first(connection, "unknown")
    connection.execute(update(attempts).where(attempts.c.attempt_id == attempt).values(outcome="lost"))


def _let_the_lost_be_found(connection):
    attempt = _first(connection, "lost")
    connection.execute(update(attempts).where(attempts.c.attempt_id == attempt).values(provider_id="SM" + "0" * 32))


def _report_the_lost(connection):
    seq = connection.execute(select(messages.c.seq).where(messages.c.accepted_at.is_not(None))).scalars().first()
    run_id = connection.execute(select(messages.c.run_id)).scalars().first()
    connection.execute(
        insert(receipts).values(
            receipt_key="k", provider="twilio", kind="delivered", run_id=run_id, step_no=1, seq=seq,
            attempt_id=_first(connection, "lost"), at=NOON, received_at=NOON,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_count_the_lost_again, "messages carried by requests"),
        (_forget_that_it_was_decided, "messages carried by requests"),
        (_lose_the_unknown, "messages past claimed"),
        (_let_the_lost_be_found, "requests judged lost that the provider had taken"),
        (_report_the_lost, "messages that receipts show to have arrived twice"),
    ],
)
def test_whatever_is_off_about_unknown_outcomes_is_named_and_the_command_exits_1(settled, harm, named):
    here, running = settled
    require_noticed(here, running, harm, named)


def _lose_a_row(connection):
    connection.execute(delete(messages).where(messages.c.step_no == 2, messages.c.seq == 1))


def _forget_an_attempt(connection):
    one = select(messages.c.attempt_id).where(messages.c.step_no == 2, messages.c.seq == 1).scalar_subquery()
    connection.execute(delete(attempts).where(attempts.c.attempt_id == one))


def _count_a_request_for_more(connection):
    connection.execute(update(attempts).where(attempts.c.step_no == 1).values(messages=attempts.c.messages + 1))


def _judge_a_request_lost(connection):
    one = select(messages.c.attempt_id).where(messages.c.step_no == 2, messages.c.seq == 1).scalar_subquery()
    connection.execute(update(attempts).where(attempts.c.attempt_id == one).values(outcome="lost"))


def _give_two_requests_one_id(connection):
    connection.execute(update(attempts).where(attempts.c.step_no == 2).values(provider_id="SM" + "0" * 32))


def _give_two_texts_one_id(connection):
    connection.execute(update(messages).where(messages.c.step_no == 2).values(provider_id="SM" + "0" * 32))


def _accept_what_was_never_sent(connection):
    connection.execute(update(messages).where(messages.c.step_no == 2, messages.c.seq == 1).values(state="queued"))


def _invent_a_recipient(connection):
    row = connection.execute(select(recipients).where(recipients.c.seq == 1)).one()._asdict()
    connection.execute(insert(recipients).values(**{**row, "seq": 99, "contact_id": "99"}))


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_lose_a_row, "difference"),
        (_invent_a_recipient, "difference"),
        (_forget_an_attempt, "messages past claimed"),
        (_count_a_request_for_more, "messages carried by requests"),
        (_judge_a_request_lost, "messages past claimed"),
        (_give_two_requests_one_id, "accepted requests = different provider ids"),
        (_give_two_texts_one_id, "texts with a provider id"),
        (_accept_what_was_never_sent, "contradict each other"),
    ],
)
def test_whatever_is_off_is_named_and_the_command_exits_1(told, harm, named):
    here, running = told
    require_noticed(here, running, harm, named)


def require_noticed(here, running, harm, named) -> None:
    """Do harm to the database; the proof must name it, and the command must exit 1."""
    with here.store.write() as connection:
        harm(connection)
    found = books(here, running)
    assert found.difference > 0
    if named == "difference":
        assert any(step.difference for step in found.steps)
    else:
        assert any(named in check.what and check.difference for check in found.checks)
    done = subprocess.run(
        [sys.executable, "-m", "commplan", "prove", running.run.run_key],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(campaign.__file__).parents[2],
        env={"PATH": os.environ["PATH"], **here.environment()},
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert f"difference {found.difference}" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_message_the_provider_took_and_the_ledger_does_not_know_of_is_noticed(told):
    here, running = told
    one = here.truth()[0]["ref"]
    with here.store.write() as connection:
        connection.execute(delete(messages).where(messages.c.step_no == one.step_no, messages.c.seq == one.seq))
    found = books(here, running)
    assert any("accepted by the sandbox" in check.what and check.difference for check in found.checks)


def test_what_the_database_forbids_cannot_be_written_at_all(told):
    here, _ = told
    with here.store.read() as connection:
        taken = connection.execute(
            select(messages.c.address_key).where(messages.c.step_no == 1, messages.c.seq == 1)
        ).scalar_one()
    for change in (
        {"address_key": taken},
        {"state": "sending", "batch_id": None},
        {"state": "accepted", "attempt_id": None},
        {"state": "queued", "address_key": None},
        {"state": "elsewhere"},
    ):
        with pytest.raises(StoreError), here.store.write() as connection:
            connection.execute(update(messages).where(messages.c.step_no == 1, messages.c.seq == 2).values(**change))
