"""What goes wrong between the ledger and a provider: what may be sent again is, what may have arrived never is."""

from __future__ import annotations

import threading
from datetime import timedelta
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, select, update

from commplan import campaign
from commplan.dispatch import Sender
from commplan.envelope import EmailBatch, TextMessage
from commplan.errors import RunError
from commplan.ledger import close
from commplan.ledger.run import load_run
from commplan.store.tables import messages, recipients, suppressions
from tests.campaign.conftest import LETTER, PAIR, TEXT, Customer, crowd, until


@pytest.mark.parametrize("fault", ["accept_then_close", "accept_then_500", "accept_then_hang", "accept_when_given_up"])
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_request_that_may_have_been_accepted_is_never_made_again(rehearse, fault, plan):
    here = rehearse(crowd(3), timeout=1)
    running = here.ready(plan)
    here.fault("email" if plan is LETTER else "sms", fault)
    tally = here.send_due(running)
    lost = 3 if plan is LETTER else 1
    assert (tally.unknown, tally.accepted) == (lost, 3 - lost)
    assert sorted(here.outcomes()).count("unknown") == 1
    until(lambda: len(here.truth()) == 3, why="that the provider took it")
    # The sandbox took what the ledger does not know of: its witness says so, and nothing else is off.
    assert here.prove(running).difference == lost
    assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0
    for _ in range(2):
        here.jump(hours=2)
        running.gather()
        assert here.send_due(running).batches == 0
    # The provider's own records have settled it meanwhile.
    assert {states[0] for states in here.states(running).values()} == {"accepted"}
    here.require_balance(running)


def test_who_hears_nothing_back_gets_no_follow_up_until_a_receipt_proves_the_first_message(rehearse):
    here = rehearse(crowd(2))
    running = here.ready(PAIR)
    here.fault("email", "accept_then_close")
    here.send_due(running)
    assert here.states(running) == {"person1": ["unknown", "not_due"], "person2": ["unknown", "not_due"]}
    assert running.next_due().steps == ()  # only another look, in case a receipt comes
    wire = {row.seq: row.wire_at for row in here.rows().values() if row.step_no == 1}
    here.jump(hours=3)
    first, _ = here.truth()
    here.tell(first, "delivered")
    # One request carried both: what proves it for one proves it for the other.
    assert here.states(running) == {"person1": ["delivered", "queued"], "person2": ["accepted", "queued"]}
    rows = here.rows()
    for ref, row in rows.items():
        if ref.step_no == 1:
            assert row.accepted_at == wire[ref.seq]
        else:
            # A day later it is 10:00 in Shanghai, inside the hours of texts.
            assert row.due_at == wire[ref.seq] + timedelta(days=1)
    here.jump(days=1)
    running.gather()
    assert here.send_due(running).accepted == 2
    here.require_balance(running)


def test_a_late_acceptance_counts_the_hours_of_the_follow_up_from_the_wire(rehearse):
    here = rehearse(crowd(1))
    running = here.ready(PAIR)
    here.fault("email", "accept_then_close")
    here.send_due(running)
    here.jump(days=9)
    here.tell(here.truth()[0], "delivered")
    running.gather()
    here.send_due(running)
    assert here.states(running) == {"person1": ["delivered", "expired: too_late"]}
    here.require_balance(running)


@pytest.mark.parametrize("fault", ["429"])
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_busy_provider_is_asked_again_and_everybody_gets_one(rehearse, fault, plan):
    here = rehearse(crowd(3))
    running = here.ready(plan)
    here.fault("email" if plan is LETTER else "sms", fault)
    assert here.send_due(running).accepted == 3
    assert sorted(here.outcomes()) == ["accepted"] * (1 if plan is LETTER else 3) + ["never_left"]
    assert len(here.truth()) == 3
    here.require_balance(running)


def test_a_connection_that_the_provider_drops_unread_is_not_proof_that_it_was(rehearse):
    here = rehearse(crowd(1))
    running = here.ready()
    here.fault("email", "close_unprocessed")
    assert here.send_due(running).unknown == 1
    assert (here.truth(), here.states(running)) == ([], {"person1": ["unknown"]})


def test_a_provider_that_refuses_connections_leaves_everything_in_the_queue_for_later(rehearse):
    here = rehearse(crowd(2), day=86_400)
    nowhere = here.settings.email.model_copy(update={"base_url": "http://127.0.0.1:9"})
    running = here.ready(settings=here.settings.model_copy(update={"email": nowhere}))
    tally = here.send_due(running)
    assert (tally.accepted, tally.postponed, tally.unknown) == (0, 2, 0)
    assert not here.outcomes(), "who cannot be reached is not attempted"
    here.require_balance(running)
    again = here.start()
    due = again.next_due()
    assert due is not None
    assert due.at > here.clock.now()
    here.jump(minutes=1)
    assert here.send_due(again).accepted == 2
    assert len(here.truth()) == 2
    here.require_balance(again)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_one_recipient_whom_the_provider_refuses_does_not_take_the_others_along(rehearse, named):
    here = rehearse([*crowd(5), Customer(name="refused"), *crowd(9)[5:]], errors_name_field=named)
    running = here.ready()
    change_address(here, 6, email="refused..x@person.example.com")
    tally = here.send_due(running)
    assert (tally.accepted, tally.rejected, tally.unknown) == (9, 1, 0)
    assert here.states(running)["refused"] == ["failed: rejected"]
    assert sorted(one["to"] for one in here.truth()) == sorted(
        who.address for who in here.customers if "person" in who.name
    )
    requests = here.outcomes()
    assert requests.count("rejected") == (1 if named else len(requests) - requests.count("accepted"))
    if not named:
        assert requests.count("rejected") <= 5  # ten are halved until one stands alone
    here.require_balance(running)


def change_address(here, seq: int, **addresses: str) -> None:
    """Give a recipient addresses that no check of ours has seen, for the provider to refuse."""
    with here.store.write() as connection:
        connection.execute(update(recipients).where(recipients.c.seq == seq).values(**addresses))


def test_a_number_that_the_provider_refuses_for_good_is_not_written_to_again(rehearse):
    people = [*crowd(1), Customer(name="landline", mobile="+12025550177")]
    here = rehearse(people)
    running = here.ready(TEXT)
    change_address(here, 2, phone="+15005550009")
    tally = here.send_due(running)
    assert (tally.accepted, tally.rejected) == (1, 1)
    assert here.states(running)["landline"] == ["failed: rejected"]
    here.require_balance(running)
    second = here.ready(TEXT.replace("plan: letter", "plan: other"))
    assert here.states(second)["landline"] == ["excluded: invalid_number"]


def test_no_kill_can_come_between_a_refusal_for_a_stop_and_its_suppression(rehearse):
    here = rehearse(crowd(1))
    running = here.ready(TEXT)
    change_address(here, 1, phone="+15005550004")
    seen = set()

    def note(connection) -> None:
        with here.store.read() as reading:
            refused = reading.execute(select(messages.c.state)).scalar_one() == "failed"
            seen.add((refused, tuple(reading.execute(select(suppressions.c.reason)).scalars())))

    event.listen(Engine, "commit", note)
    try:
        assert here.send_due(running).rejected == 1
    finally:
        event.remove(Engine, "commit", note)
    note(None)
    assert seen == {(False, ()), (True, ("stop", "stop"))}


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_wrong_key_holds_the_run_with_one_sentence_and_the_right_one_takes_it_up(rehearse, plan):
    here = rehearse(crowd(3))
    wrong = here.settings.model_copy(
        update={
            "email": here.settings.email.model_copy(update={"api_key": SecretStr("SG.wrong")}),
            "sms": here.settings.sms.model_copy(update={"auth_token": SecretStr("wrong")}),
        }
    )
    running = here.ready(plan, settings=wrong)
    with pytest.raises(RunError, match=r"is held: .* COMMPLAN_.*start the same run again") as caught:
        here.send_due(running)
    assert "\n" not in str(caught.value)
    assert (running.state, here.truth()) == ("held", [])
    assert load_run(here.store, running.run.run_id).reason in str(caught.value)
    assert {row.state for row in here.rows().values()} == {"queued"}
    here.require_balance(running)
    # A held run sends nothing, whoever asks.
    assert here.send_due(running).batches == 0
    again = here.start(plan)
    assert again.state == "executing"
    assert load_run(here.store, running.run.run_id).reason is None
    assert here.send_due(again).accepted == 3
    here.require_balance(again)


class _Broken:
    """A gateway with a defect: it takes some messages and breaks at one."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def connect(self) -> None:
        self._inner.connect()

    def close(self) -> None:
        self._inner.close()

    def send(self, request: EmailBatch | TextMessage):
        if isinstance(request, EmailBatch) or request.address.endswith("2"):
            raise ZeroDivisionError
        return self._inner.send(request)


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_defect_of_a_gateway_leaves_what_was_under_way_unknown_and_nothing_stuck(rehearse, plan):
    here = rehearse(crowd(3))
    running = here.ready(plan)
    gateways = running.gateways
    broken = type(gateways)(email=_Broken(gateways.email), sms=_Broken(gateways.sms))
    sender = Sender(store=here.store, gateways=broken, settings=here.settings)
    with pytest.raises(ZeroDivisionError):
        sender.send_step(running.run.run_id, 1)
    expected = [["unknown"]] * 3 if plan is LETTER else [["accepted"], ["unknown"], ["accepted"]]
    assert list(here.states(running).values()) == expected
    assert running.next_due().steps == ()
    assert here.send_due(running).batches == 0
    here.require_balance(running)


class _Slow:
    """A gateway during whose first request the lease ends, and another process takes back what it finds."""

    def __init__(self, inner, sweep) -> None:
        self._inner = inner
        self._sweep = sweep
        self._lock = threading.Lock()
        self.swept = None

    def connect(self) -> None:
        self._inner.connect()

    def close(self) -> None:
        self._inner.close()

    def send(self, request):
        try:
            return self._inner.send(request)
        finally:
            until(self._is_swept, why="that the lease ended")

    def _is_swept(self) -> bool:
        with self._lock:
            if self.swept is None and (found := self._sweep()) != (0, 0):
                self.swept = found
            return self.swept is not None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, ["accepted", "accepted", "accepted"]),
        ("429", ["accepted", "accepted", "accepted"]),
        ("refused", ["accepted", "failed: rejected", "accepted"]),
        ("accept_then_close", ["unknown", "unknown", "unknown"]),
    ],
)
@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_an_answer_that_comes_after_the_batch_was_taken_back_still_counts(rehearse, plan, fault, expected):
    here = rehearse(crowd(3), errors_name_field=True)
    running = here.ready(plan)
    if fault == "refused":
        change_address(here, 2, email="person2..x@person.example.com", phone="+15005550009")
    elif fault is not None:
        here.fault("email" if plan is LETTER else "sms", fault, 1 if plan is LETTER else 3)
    gateways = running.gateways
    slow = _Slow(
        gateways.email if plan is LETTER else gateways.sms, partial(close.sweep, here.store, running.run.run_id)
    )
    sender = Sender(store=here.store, gateways=type(gateways)(email=slow, sms=slow), settings=here.settings, lease=1.0)
    sender.send_step(running.run.run_id, 1)
    assert slow.swept == (0, 3)
    assert [states[0] for states in here.states(running).values()] == expected
    assert campaign.prove(here.store, here.settings, running.run.run_key, witness=False).difference == 0
    assert len({one["to"] for one in here.truth()}) == len(here.truth())
    due = running.next_due()
    assert due is None or due.steps == ()
