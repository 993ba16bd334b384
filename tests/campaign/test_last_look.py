"""What is found out right before a message goes out, after it was planned."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, text, update

from commplan.dispatch import Sender
from commplan.dispatch.sms import text_message
from commplan.errors import FenceError, StoreError
from commplan.ids import Token, new_attempt_id
from commplan.ledger import ending
from commplan.ledger import run as ledger_run
from commplan.ledger.claim import WHOLE, claim
from commplan.ledger.look import look
from commplan.settings import EmailSettings, SmsSettings
from commplan.store import open_store
from commplan.store.tables import attempts, messages, store_info
from commplan.suppression import suppress
from commplan.terms import Channel, Reason, RunState
from tests.campaign.conftest import LETTER, PAIR, TEXT, Customer, crowd

MARKETING = """
purpose: marketing
basis: They bought something from us, and were told then.""".strip()


def block(
    here, channel: Channel, address: str, *, reason: Reason, scope: str = "all", until: datetime | None = None
) -> None:
    with here.store.write() as connection:
        suppress(
            connection,
            channel=channel,
            address_key=here.store.keyring.address_key(channel, address),
            contact=None,
            scope=scope,
            reason=reason,
            source="a test",
            at=here.clock.now(),
            until=until,
        )


@pytest.mark.parametrize("moment", ["planning", "last look"])
@pytest.mark.parametrize(
    ("reason", "scope", "blocks"),
    [
        (Reason.HARD_BOUNCE, "all", True),
        (Reason.SPAM_REPORT, "all", True),
        (Reason.NEVER_CONTACT, "all", True),
        (Reason.UNSUBSCRIBED, "letters", True),
        (Reason.UNSUBSCRIBED, "marketing", False),
        (Reason.UNSUBSCRIBED, "another-topic", False),
    ],
)
def test_a_suppression_counts_when_the_run_is_planned_and_again_right_before_the_wire(
    rehearse, moment, reason, scope, blocks
):
    here = rehearse(crowd(2))
    if moment == "planning":
        block(here, Channel.EMAIL, "person1@person.example.com", reason=reason, scope=scope)
    running = here.ready()
    if moment == "last look":
        block(here, Channel.EMAIL, "person1@person.example.com", reason=reason, scope=scope)
    here.send_due(running)
    state = "excluded" if moment == "planning" else "suppressed"
    assert here.states(running) == {
        "person1": [f"{state}: {reason}" if blocks else "accepted"],
        "person2": ["accepted"],
    }
    assert len(here.truth()) == (1 if blocks else 2)
    here.require_balance(running)


@pytest.mark.parametrize("moment", ["planning", "last look"])
def test_a_pause_keeps_back_what_is_kind_until_it_is_over_and_not_what_is_needed(rehearse, moment):
    here = rehearse(crowd(1))
    care = LETTER.replace("purpose: service", "purpose: service\ncare: true")

    def sent(plan: str, name: str) -> list[str]:
        plan = plan.replace("plan: letter", f"plan: {name}")
        running = here.ready(plan) if moment == "last look" else None
        if name == "first":
            until = here.clock.now() + timedelta(days=30)
            block(here, Channel.EMAIL, "person1@person.example.com", reason=Reason.PAUSED, until=until)
        running = running or here.ready(plan)
        here.send_due(running)
        here.require_balance(running)
        return here.states(running)["person1"]

    assert sent(care, "first") == ["excluded: paused" if moment == "planning" else "suppressed: paused"]
    assert sent(LETTER, "needed") == ["accepted"]
    here.jump(days=31)
    assert sent(care, "later") == ["accepted"]


def test_an_opt_out_on_one_channel_leaves_the_other_open(rehearse):
    here = rehearse(crowd(1))
    running = here.ready(PAIR)
    here.send_due(running)
    block(here, Channel.SMS, "+12025550001", reason=Reason.STOP)
    here.jump(days=1)
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", "suppressed: stop"]}
    here.require_balance(running)


def test_consent_that_was_withdrawn_while_the_run_waited_is_respected(rehearse):
    here = rehearse(crowd(2))
    running = here.ready(PAIR)
    here.send_due(running)
    here.update_crm("update customers set sms_opt_in = 0 where customer_id = 1")
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", "suppressed: no_consent"], "person2": ["accepted"] * 2}
    here.require_balance(running)


def test_marketing_email_needs_a_yes_or_a_basis(rehearse):
    plan = LETTER.replace("consent: {sms: sms_opt_in}", "consent: {email: sms_opt_in}")
    people = [Customer(name="yes"), Customer(name="no", sms_opt_in=0), Customer(name="silent", sms_opt_in=None)]
    here = rehearse(people)
    bare = here.ready(plan.replace("purpose: service", "purpose: marketing"), "bare")
    assert here.send_due(bare).accepted == 1
    assert [states[0] for states in here.states(bare).values()] == ["accepted"] + ["excluded: no_consent"] * 2
    based = here.ready(plan.replace("plan: letter", "plan: based").replace("purpose: service", MARKETING), "based")
    here.send_due(based)
    assert [states[0] for states in here.states(based).values()] == ["accepted", "excluded: no_consent", "accepted"]


def test_who_left_the_audience_gets_nothing_more_and_who_came_back_does(rehearse):
    here = rehearse(crowd(3))
    plan = LETTER.replace("select * from customers", "select * from customers where lifetime_value < 5").replace(
        "evaluation:", "  - {step: second, channel: sms, content: nudge, wait: P2D, not_after: P2D}\nevaluation:"
    )
    running = here.ready(plan)
    here.send_due(running)
    here.update_crm("update customers set lifetime_value = 9 where customer_id < 3")
    here.jump(days=1)
    assert running.gather().left_audience == 2
    here.update_crm("update customers set lifetime_value = 0 where customer_id = 2")
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert here.states(running) == {
        "person1": ["accepted", "cancelled: left_audience"],
        "person2": ["accepted", "accepted"],
        "person3": ["accepted", "accepted"],
    }
    here.require_balance(running)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        ("+12025550199", "accepted"),
        ("12345", "cancelled: invalid_phone"),
        (None, "cancelled: no_phone"),
        ("+12025550002", "cancelled: same_address"),
        ("+12025550188", "suppressed: stop"),
    ],
)
def test_a_number_that_changed_while_the_run_waited_is_the_one_that_counts(rehearse, number, expected):
    here = rehearse(crowd(2))
    block(here, Channel.SMS, "+12025550188", reason=Reason.STOP)
    running = here.ready(PAIR)
    here.send_due(running)
    here.update_crm("update customers set mobile = :number where customer_id = 1", number=number)
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", expected], "person2": ["accepted", "accepted"]}
    texts = [one["to"] for one in here.truth() if one["channel"] == "sms"]
    assert sorted(texts) == sorted(filter(None, [number if expected == "accepted" else None, "+12025550002"]))
    here.require_balance(running)


def test_what_is_late_is_counted_and_never_sent(rehearse):
    here = rehearse(crowd(1))
    running = here.ready(PAIR)
    here.send_due(running)
    here.jump(days=3, hours=1)
    here.send_due(running)
    assert here.states(running) == {"person1": ["accepted", "expired: too_late"]}
    here.require_balance(running)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("not clicked(welcome)", "accepted"),
        ("not not clicked(welcome)", "not_needed: condition_false"),
        ("not delivered(welcome)", "not_needed: condition_false"),
        ("not converted(activated)", "accepted"),
        ("not (clicked(welcome) or opened(welcome))", "accepted"),
    ],
)
def test_a_condition_that_only_denies_is_known_for_who_was_reached(rehearse, condition, expected):
    here = rehearse(crowd(1))
    bought = "conversions: {activated: {sql: select * from customers, contact: customer_id, at: activated_at}}\n"
    plan = PAIR.replace("content: nudge,", f"content: nudge, when: {condition},")
    running = here.ready(plan.replace("sequence:", f"{bought}sequence:"))
    here.send_due(running)
    here.deliver_all()
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert here.states(running) == {"person1": ["delivered", expected]}


SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.mark.parametrize(
    ("customer", "opens"),
    [
        # 23:00 in Shanghai is 10:00 in New York; nine in the morning, wherever one is, is when texts begin.
        (Customer(name="here", mobile="+8613800138001", tz="Asia/Shanghai"), "2026-12-02 09:00 Asia/Shanghai"),
        (Customer(name="there", mobile="+12025550101", tz="America/New_York"), None),
        (Customer(name="unknown", mobile="+12025550101", tz=None), "2026-12-01 09:00 Pacific/Honolulu"),
        (Customer(name="chinese", mobile="+8613800138001", tz=None), "2026-12-02 09:00 Asia/Urumqi"),
        (Customer(name="british", mobile="+447400123456", tz="Europe/London"), None),
    ],
)
def test_a_text_waits_for_the_hours_of_whoever_gets_it(rehearse, customer, opens):
    here = rehearse([customer], begins=datetime(2026, 12, 1, 23, 0, tzinfo=SHANGHAI))
    running = here.ready(TEXT)
    due = running.next_due()
    assert due is not None
    if opens is None:
        assert abs(due.at - here.clock.now()) < timedelta(minutes=1)
    else:
        day, hour, zone = opens.split()
        assert due.at == datetime.fromisoformat(f"{day} {hour}").replace(tzinfo=ZoneInfo(zone))
        assert here.send_due(running).batches == 0
        here.jump(seconds=(due.at - here.clock.now()).total_seconds() + 1)
    assert here.send_due(running).accepted == 1


def test_hours_that_closed_between_planning_and_sending_put_the_text_off_until_they_open(rehearse):
    here = rehearse(crowd(1), begins=datetime(2026, 12, 1, 19, 30, tzinfo=SHANGHAI))
    running = here.ready(TEXT)
    here.jump(hours=1)
    assert here.send_due(running).accepted == 0
    due = running.next_due()
    assert due is not None
    assert due.at == datetime(2026, 12, 2, 9, 0, tzinfo=SHANGHAI)
    assert here.truth() == []
    here.jump(seconds=(due.at - here.clock.now()).total_seconds() + 1)
    assert here.send_due(running).accepted == 1
    here.require_balance(running)


def test_a_text_is_worth_nothing_to_the_provider_after_its_hours_or_its_last_moment(rehearse):
    here = rehearse(crowd(1), begins=datetime(2026, 12, 1, 19, 30, tzinfo=SHANGHAI))
    running = here.ready(TEXT)
    batch = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=9, lease=60, shard=WHOLE)
    (out,) = look(here.store, batch, seqs=batch.seqs, attempt_ids=[new_attempt_id()], lease=60)
    assert 1_795 <= text_message(here.store, batch, out, Token("token")).valid_for <= 1_800


def test_a_run_that_was_held_after_the_claim_sends_nothing_and_forgets_nothing(rehearse):
    here = rehearse(crowd(3))
    running = here.ready()
    batch = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=9, lease=60, shard=WHOLE)
    ledger_run.set_state(here.store, running.run.run_id, RunState.HELD, only_from=(RunState.EXECUTING,))
    assert look(here.store, batch, seqs=batch.seqs, attempt_ids=[new_attempt_id()], lease=60) == []
    assert {row.state for row in here.rows().values()} == {"queued"}
    assert claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=9, lease=60) is None


def test_a_run_that_was_cancelled_after_the_claim_sends_nothing(rehearse):
    here = rehearse(crowd(3))
    running = here.ready()
    batch = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=9, lease=60, shard=WHOLE)
    assert ending.cancel_run(here.store, running.run.run_id) == 3
    assert look(here.store, batch, seqs=batch.seqs, attempt_ids=[new_attempt_id()], lease=60) == []
    assert {(row.state, row.reason) for row in here.rows().values()} == {("cancelled", "run_cancelled")}
    assert ending.cancel_run(here.store, running.run.run_id) == 0


def make_live(here, environment: str | None = "production"):
    """Turn the store into one of real providers; nothing is sent to them: the gateways still lead to the sandbox."""
    with here.store.write() as connection:
        connection.execute(update(store_info).values(kind="live", environment=environment))
    return here.settings.model_copy(
        update={
            "email": EmailSettings(base_url="https://api.sendgrid.com", api_key=here.settings.email.api_key),
            "sms": SmsSettings(
                base_url="https://api.twilio.com", account_sid="AC1", auth_token=here.settings.sms.auth_token
            ),
            "allow_list": ("Person2@Person.example.com ", "+1 202 555 0003"),
        }
    )


@pytest.mark.parametrize(
    ("plan_says", "environment", "settings_say", "everybody"),
    [
        (True, "production", "production", True),
        (False, "production", "production", False),
        (True, "production", None, False),
        (True, "production", "staging", False),
        (True, None, "production", False),
    ],
)
def test_a_live_store_writes_to_everybody_only_where_plan_store_and_settings_agree(
    rehearse, plan_says, environment, settings_say, everybody
):
    here = rehearse(crowd(4))
    settings = make_live(here, environment).model_copy(update={"live": settings_say})
    plan = PAIR.replace("owner: crm", "owner: crm\nlive: true", 1) if plan_says else PAIR
    running = here.ready(plan, settings=settings)
    reasons = {row.reason for row in here.rows().values() if row.state == "excluded"}
    queued = sorted(here.customers[int(row.contact_id) - 1].name for row in here.rows().values() if row.due_at)
    if everybody:
        assert (queued, reasons) == (["person1", "person2", "person3", "person4"], set())
    else:
        assert (queued, reasons) == (["person2"], {"not_on_allow_list"})
        # The number on the list is written as people write it, and belongs to somebody whose email is not on it.
        third = here.states(running)["person3"]
        assert third == ["excluded: not_on_allow_list", "not_needed: earlier_step_not_sent"]
    assert here.truth() == []


def test_an_address_that_changes_to_one_outside_the_allow_list_is_not_written_to(rehearse):
    here = rehearse(crowd(2))
    fenced = make_live(here).model_copy(update={"email": here.settings.email, "sms": here.settings.sms})
    fenced = fenced.model_copy(update={"allow_list": ("person1@person.example.com", "person2@person.example.com")})
    plan = LETTER.replace("evaluation:", "  - {step: second, channel: email, content: welcome, wait: P1D}\nevaluation:")
    running = here.ready(plan, settings=fenced)
    here.send_due(running)
    here.update_crm("update customers set email = 'stranger@person.example.com' where customer_id = 1")
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert here.states(running) == {
        "person1": ["accepted", "cancelled: not_on_allow_list"],
        "person2": ["accepted"] * 2,
    }
    assert "stranger@person.example.com" not in {one["to"] for one in here.truth()}


def test_a_run_planned_for_everybody_is_not_carried_on_where_only_the_allow_list_may_be_written_to(rehearse):
    here = rehearse(crowd(2))
    live = make_live(here).model_copy(update={"live": "production"})
    plan = LETTER.replace("owner: crm", "owner: crm\nlive: true", 1)
    here.ready(plan, settings=live)
    with pytest.raises(FenceError, match="COMMPLAN_LIVE"):
        here.start(plan, settings=live.model_copy(update={"live": None}))
    assert {row.state for row in here.rows().values()} == {"queued"}


class _Witness:
    """A gateway that looks at the ledger from outside while its request is under way."""

    def __init__(self, inner, see: Callable[[], None]) -> None:
        self._inner = inner
        self._see = see

    def connect(self) -> None:
        self._inner.connect()

    def close(self) -> None:
        self._inner.close()

    def send(self, request):
        self._see()
        return self._inner.send(request)


@pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])
def test_a_request_is_on_record_before_it_is_written_and_no_transaction_waits_for_its_answer(rehearse, plan):
    here = rehearse(crowd(3))
    running = here.ready(plan)
    outside = open_store(here.settings)
    seen: list[set[tuple[str, str]]] = []

    def see() -> None:
        with outside.read() as connection:
            rows = connection.execute(
                select(messages.c.state, attempts.c.outcome).join(
                    attempts, attempts.c.attempt_id == messages.c.attempt_id
                )
            )
            seen.append({tuple(row) for row in rows})
        # Somebody else can write to those very rows at once: nobody holds them.
        with outside.write() as connection:
            connection.execute(update(messages).values(parts=1))

    gateways = type(running.gateways)(
        email=_Witness(running.gateways.email, see), sms=_Witness(running.gateways.sms, see)
    )
    try:
        sender = Sender(store=here.store, gateways=gateways, settings=here.settings)
        assert sender.send_step(running.run.run_id, 1).accepted == 3
    finally:
        outside.dispose()
    assert len(seen) == (1 if plan is LETTER else 3)
    assert set().union(*seen) == {("sending", "open")}


def test_nothing_is_sent_while_the_suppression_list_cannot_be_read(rehearse):
    here = rehearse(crowd(2))
    running = here.ready()
    with here.store.write() as connection:
        connection.execute(text("ALTER TABLE suppressions RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        here.send_due(running)
    assert here.truth() == []
    assert {row.state for row in here.rows().values()} == {"queued"}
    with here.store.write() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO suppressions"))
    assert here.send_due(running).accepted == 2


def test_a_worker_whose_lease_is_over_writes_nothing_even_if_nobody_has_noticed_it_yet(rehearse):
    here = rehearse(crowd(3))
    running = here.ready()
    late = claim(here.store, run_id=running.run.run_id, step_no=1, worker="w", limit=2, lease=0)
    assert look(here.store, late, seqs=late.seqs, attempt_ids=[new_attempt_id()], lease=60) == []
    assert here.outcomes() == []
    assert sorted(row.state for row in here.rows().values()) == ["claimed", "claimed", "queued"]
    here.send_until_quiet(running)
    assert len(here.truth()) == 3
    here.require_balance(running)
