"""What providers report becomes facts, opt-outs and replies; each once, whoever tells it and however often."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, update

from commplan import tracking
from commplan.consent import SCOPE_ALL
from commplan.store import Store, open_store
from commplan.store.tables import attempts, audit, bundles, inbox, messages, receipts, replies, runs, suppressions
from commplan.store.types import machine_now
from commplan.suppression import suppress
from commplan.terms import Channel, MessageState, Reason
from commplan.tracking import PostKind
from commplan.tracking.consequence import OBJECTION
from tests.conftest import later

NUDGE = 2


def count(store: Store, table) -> int:  # type: ignore[no-untyped-def]
    with store.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_delivery_an_opening_and_a_click_are_written_on_the_message(world) -> None:
    attempt = world.send()
    applied = world.told(
        world.event("click", attempt=attempt, after=300, url="https://x.example.com/a"),
        world.event("delivered", attempt=attempt, after=60),
        world.event("open", attempt=attempt, after=200),
    )
    row = world.row()
    assert row.state == MessageState.DELIVERED
    assert row.delivered_at == world.start + timedelta(seconds=60)
    assert row.opened_at == world.start + timedelta(seconds=200)
    assert row.clicked_at == world.start + timedelta(seconds=300)
    assert (applied.new, applied.known, applied.accepted) == (3, 0, 0)


def why(world, kind: str) -> list[str | None]:
    """Return why each receipt of a kind is a machine's, in the order of their times."""
    with world.store.read() as connection:
        return list(
            connection.execute(
                select(receipts.c.machine_why)
                .where(receipts.c.kind == kind)
                .order_by(receipts.c.at, receipts.c.url_key)
            ).scalars()
        )


def test_a_scanner_is_known_by_its_name_and_the_person_who_clicks_later_counts(world) -> None:
    attempt = world.send()
    scanner = {"useragent": "Barracuda Sentinel (EE)", "url": "https://x.example.com/a"}
    world.told(world.event("delivered", attempt=attempt, after=60), world.event("click", attempt=attempt, **scanner))
    assert (world.row().clicked_at, world.row().machine_clicked_at) == (None, world.start + timedelta(seconds=60))
    assert why(world, "clicked") == ["agent"]
    world.told(world.event("click", attempt=attempt, after=900, url="https://x.example.com/a"))
    assert world.row().clicked_at == world.start + timedelta(seconds=900)


@pytest.mark.parametrize("apart", [0, 1])
def test_a_second_link_in_the_same_moment_makes_the_first_click_a_machines_too(world, apart) -> None:
    attempt = world.send()
    world.told(world.event("click", attempt=attempt, after=300, url="https://x.example.com/a"))
    assert world.row().clicked_at is not None
    world.told(world.event("click", attempt=attempt, after=300 + apart, url="https://x.example.com/b"))
    assert (world.row().clicked_at, world.row().machine_clicked_at) == (None, world.start + timedelta(seconds=300))
    assert why(world, "clicked") == ["all_links", "all_links"]


def test_two_clicks_on_one_link_or_on_two_in_turn_are_a_persons(world) -> None:
    attempt = world.send()
    for after, link in ((300, "a"), (301, "a"), (310, "b")):
        world.told(world.event("click", attempt=attempt, after=after, url=f"https://x.example.com/{link}"))
    assert (world.row().clicked_at, world.row().machine_clicked_at) == (world.start + timedelta(seconds=300), None)
    assert why(world, "clicked") == [None, None, None]


def test_a_click_sooner_than_anybody_reads_is_a_machines_even_if_the_delivery_is_told_later(world) -> None:
    attempt = world.send()
    for seq, after in ((1, 58), (2, 64), (3, 65)):
        world.told(world.event("click", seq=seq, attempt=attempt, after=after, url="https://x.example.com/a"))
    assert world.row(1).clicked_at is not None
    world.told(*(world.event("delivered", seq=seq, attempt=attempt, after=60) for seq in (1, 2, 3)))
    assert [world.row(seq).clicked_at is not None for seq in (1, 2, 3)] == [False, False, True]
    assert [world.row(seq).machine_clicked_at is not None for seq in (1, 2, 3)] == [True, True, False]
    assert why(world, "clicked") == ["too_soon", "too_soon", None]


def test_of_who_clicks_only_the_kind_of_program_and_a_digest_of_the_link_are_kept(world) -> None:
    attempt = world.send()
    who = {"useragent": "Mozilla/5.0 (iPhone)", "ip": "192.0.2.7", "url": "https://x.example.com/for/p1"}
    world.told(world.event("click", attempt=attempt, **who), world.event("open", attempt=attempt, **who))
    with world.store.read() as connection:
        kept = connection.execute(select(receipts)).all()
    assert {row.agent_class for row in kept} == {"browser"}
    assert [row.url_key is not None for row in kept if row.kind == "clicked"] == [True]
    assert not any(word in repr(kept) for word in ("192.0.2.7", "iPhone", "x.example.com"))


def test_an_opening_by_a_machine_is_no_opening_by_a_person(world) -> None:
    attempt = world.send()
    world.told(world.event("open", attempt=attempt, sg_machine_open=True))
    assert world.row().opened_at is None
    assert world.row().machine_opened_at is not None


def test_a_repeated_post_changes_nothing_even_when_its_event_ids_changed(world) -> None:
    attempt = world.send()
    event = world.event("delivered", attempt=attempt)
    world.told(event)
    before = world.rows()
    applied = world.told({**event, "sg_event_id": "another"}, event)
    assert (applied.new, applied.known) == (0, 2)
    assert world.rows() == before
    assert count(world.store, receipts) == 1


def test_a_bounce_after_the_delivery_wins_and_a_later_delivery_does_not_undo_it(world) -> None:
    attempt = world.send()
    world.told(world.event("delivered", attempt=attempt, after=60))
    world.told(world.event("bounce", attempt=attempt, after=500, type="bounce", status="5.1.1"))
    world.told(world.event("delivered", attempt=attempt, after=700))
    row = world.row()
    assert (row.state, row.reason) == (MessageState.FAILED, Reason.BOUNCED)
    assert row.delivered_at == world.start + timedelta(seconds=60)
    assert row.failed_at == world.start + timedelta(seconds=500)


@pytest.mark.parametrize("state", [MessageState.SENDING, MessageState.UNKNOWN])
def test_a_receipt_of_one_message_proves_that_the_whole_request_was_accepted(world, state) -> None:
    attempt = world.send(state=state)
    applied = world.told(world.event("delivered", seq=2, attempt=attempt))
    assert applied.accepted == 3
    assert [world.row(seq).state for seq in (1, 2, 3)] == ["accepted", "delivered", "accepted"]
    assert {world.row(seq).accepted_at for seq in (1, 2, 3)} == {world.start}
    assert {world.row(seq).provider_id for seq in (1, 2, 3)} == {f"Xj5LrecvdX{attempt[:6]}"}
    with world.store.read() as connection:
        row = connection.execute(select(attempts)).one()
    assert row.outcome == "accepted"
    assert row.closed_machine is not None


def test_requests_that_are_first_heard_of_by_what_was_dropped_are_told_apart_and_get_their_own_names(world) -> None:
    sent = {step_no: world.send(state=MessageState.UNKNOWN, step_no=step_no) for step_no in (1, 3)}
    for step_no, attempt in sent.items():
        told = world.event("dropped", seq=2, step_no=step_no, attempt=attempt, reason="Invalid")
        world.told(told | {"sg_message_id": f"filter0093p1las1.9128.5717FB8127.{step_no}"})
    with world.store.read() as connection:
        names = set(connection.execute(select(attempts.c.provider_id)).scalars())
    assert names == {f"filter0093p1las1.9128.5717FB8127.{step_no}" for step_no in sent}
    for step_no, attempt in sent.items():
        world.told(world.event("processed", step_no=step_no, attempt=attempt))
        assert {world.row(seq, step_no).provider_id for seq in (1, 2, 3)} == {f"Xj5LrecvdX{attempt[:6]}"}


def test_a_message_accepted_through_a_receipt_gives_its_followers_their_due_time(world) -> None:
    attempt = world.send([1], state=MessageState.UNKNOWN)
    world.send([1], step_no=NUDGE)
    with world.store.write() as connection:
        connection.execute(
            update(messages)
            .where(messages.c.step_no == NUDGE)
            .values(state=MessageState.NOT_DUE, attempt_id=None, accepted_at=None, batch_id=None)
        )
    world.told(world.event("processed", attempt=attempt))
    follower = world.row(step_no=NUDGE)
    assert follower.state == MessageState.QUEUED
    assert follower.due_at >= world.start + timedelta(days=2)


def test_a_receipt_of_an_attempt_that_the_message_does_not_stand_for_says_nothing_about_delivery(world) -> None:
    world.send([1])
    world.told(world.event("bounce", attempt="f" * 32, type="bounce"), world.event("click", attempt="f" * 32))
    row = world.row()
    assert (row.state, row.failed_at) == (MessageState.ACCEPTED, None)
    assert row.clicked_at is not None  # the person did click
    assert count(world.store, receipts) == 2


def test_a_message_that_the_provider_refused_is_not_revived_by_a_receipt(world) -> None:
    attempt = world.send([1], state=MessageState.FAILED)
    with world.store.write() as connection:
        connection.execute(update(messages).values(accepted_at=None, reason=Reason.REJECTED))
    world.told(world.event("delivered", attempt=attempt))
    row = world.row()
    assert (row.state, row.reason, row.delivered_at) == (MessageState.FAILED, Reason.REJECTED, None)


def test_an_event_that_cannot_be_read_does_not_cost_its_neighbours(world) -> None:
    attempt = world.send()
    applied = world.told(
        ["not an event"],  # type: ignore[arg-type]
        {"event": "delivered"},
        {**world.event("delivered", attempt=attempt), "timestamp": "soon"},
        {**world.event("open", attempt=attempt), "cp_m": 17},
        world.event("weather_report", attempt=attempt),
        world.event("delivered", attempt=attempt),
    )
    assert applied.unreadable == 3
    assert applied.foreign == 1
    assert applied.new == 2
    assert world.row().state == MessageState.DELIVERED
    with world.store.read() as connection:
        assert connection.execute(select(inbox.c.unreadable)).scalar_one() == 3
        kinds = connection.execute(select(receipts.c.kind, receipts.c.code)).all()
    assert ("ignored", "weather_report") in [tuple(row) for row in kinds]


def test_awkward_characters_in_an_event_reach_the_store_harmlessly(world) -> None:
    attempt = world.send()
    tokens = {"cp_a": attempt, "sg_message_id": "a\x00b\ud800.c", "smtp-id": "\x00"}
    assert world.told({**world.event("open", attempt=attempt), **tokens}).new == 1
    assert world.row().opened_at is not None


@pytest.mark.parametrize(
    ("name", "more", "scope", "reason"),
    [
        ("bounce", {"type": "bounce", "status": "5.1.1"}, "all", "hard_bounce"),
        ("dropped", {"reason": "Bounced Address"}, "all", "hard_bounce"),
        ("dropped", {"reason": "Invalid"}, "all", "hard_bounce"),
        ("dropped", {"reason": "Spam Reporting Address"}, "all", "spam_report"),
        ("dropped", {"reason": "Unsubscribed Address"}, "getting-started", "unsubscribed"),
        ("spamreport", {}, "all", "spam_report"),
        ("unsubscribe", {}, "getting-started", "unsubscribed"),
        ("group_unsubscribe", {"asm_group_id": 7}, "getting-started", "unsubscribed"),
    ],
)
def test_what_makes_an_address_unusable_suppresses_it(world, name, more, scope, reason) -> None:
    attempt = world.send()
    world.told(world.event(name, seq=2, attempt=attempt, **more))
    assert world.suppressed() == {world.email_suppressed(2, scope, reason)}
    channel = "all" if reason == "unsubscribed" else "email"
    assert world.people_suppressed() == (set() if reason == "hard_bounce" else {(channel, 2, scope, reason)})


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("bounce", {"type": "blocked", "status": "4.7.1"}),
        ("dropped", {"reason": "Recipient List over Package Quota"}),
        ("deferred", {"response": "450 later"}),
        ("delivered", {}),
        ("open", {}),
    ],
)
def test_what_says_nothing_about_the_address_suppresses_nobody(world, name, more) -> None:
    attempt = world.send()
    world.told(world.event(name, attempt=attempt, **more))
    assert world.suppressed() == set()


REFUSED = {"type": "blocked", "status": "4.7.1"}


def mailings(world, build, plan_text, count: int) -> list:
    """Send one letter to everybody in each of so many runs, a day apart; return them, oldest first."""
    found = []
    for number in range(count):
        text = plan_text.replace("plan: onboarding", f"plan: letter-{number}")
        found.append(build(world.store, plan_text=text))
        found[-1].send(at=world.start + timedelta(days=number))
    return found


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)])
def test_three_soft_bounces_among_the_last_five_emails_suppress_the_address(world, build, plan_text, order) -> None:
    letters = mailings(world, build, plan_text, 5)
    for number in order:
        letter, attempt = letters[number], letters[number].row(2).attempt_id
        name, more = ("delivered", {}) if number in (1, 3) else ("bounce", REFUSED)
        letter.told(letter.event(name, seq=2, attempt=attempt, after=3600 * (number + 1), **more))
    assert world.suppressed() == {world.email_suppressed(2, "all", "soft_bounces")}
    assert world.people_suppressed() == set()
    with world.store.read() as connection:
        at = connection.execute(select(suppressions.c.at)).scalar_one()
    assert at == letters[4].row(2).failed_at
    # A delivery afterwards lifts nothing.
    after = build(world.store, plan_text=plan_text.replace("plan: onboarding", "plan: another"))
    after.told(after.event("delivered", seq=2, attempt=after.send()))
    assert world.suppressed() == {world.email_suppressed(2, "all", "soft_bounces")}


@pytest.mark.parametrize("soft", [(3, 4), (0, 1, 5), (0, 4, 5)])
def test_fewer_soft_bounces_among_the_last_five_suppress_nobody(world, build, plan_text, soft) -> None:
    letters = mailings(world, build, plan_text, 6)
    for number in soft:
        letter = letters[number]
        letter.told(letter.event("bounce", attempt=letter.row().attempt_id, **REFUSED))
    assert world.suppressed() == set()


def test_an_opt_out_from_marketing_is_from_all_marketing(store, build, plan_text) -> None:
    world = build(store, plan_text=plan_text.replace("purpose: service", "purpose: marketing"))
    attempt = world.send()
    world.told(world.event("unsubscribe", attempt=attempt))
    assert world.suppressed() == {world.email_suppressed(1, "marketing", "unsubscribed")}


def test_a_resubscription_told_before_the_older_opt_out_still_wins(world) -> None:
    attempt = world.send()
    world.told(world.event("group_resubscribe", attempt=attempt, after=900))
    world.told(world.event("group_unsubscribe", attempt=attempt, after=300))
    assert world.suppressed() == set()


def test_no_provider_words_and_no_address_are_kept_with_a_receipt(world) -> None:
    attempt = world.send()
    world.told(
        world.event("bounce", attempt=attempt, type="bounce", status="550 <p1@person.example.com> unknown"),
        world.event("dropped", attempt=attempt, reason="we know p1@person.example.com"),
    )
    with world.store.read() as connection:
        kept = [tuple(row) for row in connection.execute(select(receipts))]
    assert len(kept) == 2
    assert "person.example.com" not in repr(kept)


# -- events of other systems on the same account


def test_events_of_other_systems_are_counted_and_not_kept(world) -> None:
    applied = world.told({"event": "delivered", "email": "x@person.example.com", "timestamp": 1764554400})
    assert (applied.foreign, applied.new) == (1, 0)
    assert count(world.store, receipts) == 0


def test_another_systems_hard_bounce_is_believed(world) -> None:
    world.told({"event": "bounce", "type": "bounce", "email": "P2@Person.example.com", "timestamp": 1764554400})
    assert world.suppressed() == {world.email_suppressed(2, "all", "hard_bounce")}


def test_a_bounce_of_another_installations_message_suppresses_the_address(world) -> None:
    event = world.event("bounce", seq=2, attempt="f" * 32, type="bounce") | {"cp_m": "x" * 22}
    assert world.told(event).foreign == 1
    assert world.suppressed() == {world.email_suppressed(2, "all", "hard_bounce")}
    assert count(world.store, receipts) == 0


def without_ids(event: dict[str, object], *kept: str) -> dict[str, object]:
    return {name: event[name] for name in event if name not in {"cp_m", "cp_a", "sg_message_id", "smtp-id"} - {*kept}}


@pytest.mark.parametrize("order", ["delivered first", "bounced first", "together"])
def test_a_bounce_without_ids_is_about_the_one_message_lately_delivered_there(world, order) -> None:
    attempt = world.send()
    delivered = world.event("delivered", seq=2, attempt=attempt, after=60)
    bounce = without_ids(world.event("bounce", seq=2, attempt=attempt, after=120, type="bounce", status="5.1.1"))
    for post in {
        "delivered first": [[delivered], [bounce]],
        "bounced first": [[bounce], [delivered]],
        "together": [[bounce, delivered]],
    }[order]:
        assert world.told(*post).foreign == 0
    row = world.row(2)
    assert (row.state, row.reason) == (MessageState.FAILED, Reason.BOUNCED)
    assert (row.delivered_at, row.failed_at) == (
        world.start + timedelta(seconds=60),
        world.start + timedelta(seconds=120),
    )
    assert world.suppressed() == {world.email_suppressed(2, "all", "hard_bounce")}
    with world.store.read() as connection:
        kept = connection.execute(select(receipts).where(receipts.c.kind == "bounced")).one()
    assert (kept.seq, kept.attempt_id, kept.code) == (2, attempt, "inferred")
    assert world.told(bounce).known == 1


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_a_bounce_without_ids_changes_no_message_when_several_may_be_meant(world, order) -> None:
    told = [world.event("delivered", seq=2, step_no=step_no, attempt=world.send(step_no=step_no)) for step_no in (1, 3)]
    told.append(without_ids(world.event("bounce", seq=2, attempt="", after=99, type="bounce")))
    for at in order:
        world.told(told[at])
    assert {(row.state, row.reason, row.failed_at) for row in (world.row(2, 1), world.row(2, 3))} == {
        (MessageState.DELIVERED, None, None)
    }
    assert world.suppressed() == {world.email_suppressed(2, "all", "hard_bounce")}


def test_a_failure_that_was_told_with_its_ids_stays_when_a_bounce_without_ids_goes_elsewhere(world) -> None:
    first, third = (world.send(step_no=step_no) for step_no in (1, 3))
    world.told(world.event("delivered", seq=2, attempt=first, after=60))
    world.told(without_ids(world.event("bounce", seq=2, attempt="", after=99, type="bounce")))
    world.told(world.event("bounce", seq=2, attempt=first, after=120, type="blocked"))
    world.told(world.event("delivered", seq=2, step_no=3, attempt=third, after=70))
    row = world.row(2)
    assert (row.state, row.reason) == (MessageState.FAILED, Reason.BLOCKED)
    assert row.failed_at == world.start + timedelta(seconds=120)


def test_a_bounce_long_after_the_delivery_or_with_another_systems_id_changes_no_message(world) -> None:
    attempt = world.send()
    world.told(world.event("delivered", seq=1, attempt=attempt), world.event("delivered", seq=2, attempt=attempt))
    late = world.event("bounce", seq=1, attempt=attempt, after=60 + 72 * 3_600 + 1, type="bounce")
    foreign = world.event("bounce", seq=2, attempt=attempt, after=99, type="bounce") | {"sg_message_id": "other.1"}
    world.told(without_ids(late), without_ids(foreign, "sg_message_id"))
    assert {world.row(seq).state for seq in (1, 2)} == {MessageState.DELIVERED}
    assert world.suppressed() == {world.email_suppressed(seq, "all", "hard_bounce") for seq in (1, 2)}


def test_a_bounce_without_ids_at_an_address_we_never_wrote_to_is_not_kept(world) -> None:
    world.send([1])
    assert world.told(without_ids(world.event("bounce", seq=2, attempt="", type="bounce"))).foreign == 1
    assert count(world.store, receipts) == 0


# -- opt-outs without our ids


@pytest.mark.parametrize("name", ["unsubscribe", "group_unsubscribe"])
def test_an_opt_out_without_our_ids_is_about_the_newest_message_to_the_address(world, name) -> None:
    world.send(step_no=1)
    world.send(step_no=3, at=world.start + timedelta(minutes=5))
    assert world.told(without_ids(world.event(name, seq=2, attempt="", after=900))).new == 1
    assert [world.row(2, step_no).opted_out_at is not None for step_no in (1, 3)] == [False, True]
    assert world.suppressed() == {world.email_suppressed(2, "getting-started", "unsubscribed")}
    assert world.people_suppressed() == {("all", 2, "getting-started", "unsubscribed")}


def test_an_opt_out_without_our_ids_is_placed_by_the_providers_name_of_the_message(world) -> None:
    attempt = world.send(step_no=1)
    world.send(step_no=3, at=world.start + timedelta(minutes=5))
    with world.store.write() as connection:
        connection.execute(update(attempts).where(attempts.c.attempt_id == attempt).values(provider_id="Xj5L"))
    told = world.event("group_unsubscribe", seq=2, attempt="", after=900) | {"sg_message_id": "Xj5L.recvd-1.2"}
    world.told(without_ids(told, "sg_message_id"))
    assert [world.row(2, step_no).opted_out_at is not None for step_no in (1, 3)] == [True, False]


def test_an_inferred_opt_out_proves_no_acceptance(world) -> None:
    world.send(state=MessageState.UNKNOWN)
    world.told(without_ids(world.event("unsubscribe", seq=2, attempt="", after=900)))
    assert {world.row(seq).state for seq in (1, 2, 3)} == {MessageState.UNKNOWN}
    assert world.suppressed() == {world.email_suppressed(2, "getting-started", "unsubscribed")}


def test_an_opt_out_at_an_address_we_never_wrote_to_stops_marketing(world) -> None:
    assert world.told(without_ids(world.event("unsubscribe", seq=2, attempt=""))).foreign == 1
    assert world.suppressed() == {world.email_suppressed(2, "marketing", "unsubscribed")}


def test_an_opt_in_without_our_ids_takes_no_opt_out_back(world) -> None:
    attempt = world.send()
    world.told(world.event("unsubscribe", seq=2, attempt=attempt, after=300))
    world.told(without_ids(world.event("group_resubscribe", seq=2, attempt="", after=900)))
    assert world.row(2).opted_out_at is not None
    assert world.suppressed() == {world.email_suppressed(2, "getting-started", "unsubscribed")}


@pytest.mark.parametrize("order", [(300, 900, 1_200), (1_200, 900, 300)])
def test_a_message_counts_as_opted_out_of_from_the_opt_out_that_was_not_taken_back(world, order) -> None:
    attempt = world.send()
    names = {300: "group_unsubscribe", 900: "group_resubscribe", 1_200: "unsubscribe"}
    for after in order:
        world.told(world.event(names[after], attempt=attempt, after=after))
    assert world.row().opted_out_at == world.start + timedelta(seconds=1_200)
    world.told(world.event("group_resubscribe", attempt=attempt, after=1_500))
    assert world.row().opted_out_at is None


# -- SMS


def test_twilios_statuses_in_any_order_end_as_delivered(world) -> None:
    attempt = world.send([1], step_no=NUDGE, state=MessageState.SENDING)
    for status in ("delivered", "sent", "sending", "queued", "delivered"):
        world.status(status, attempt=attempt)
    row = world.row(step_no=NUDGE)
    assert row.state == MessageState.DELIVERED
    assert row.provider_id == f"SM{1:032d}"
    assert row.accepted_at == world.start
    assert row.sent_at is not None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("21610", "stop"),
        ("30005", "invalid_number"),
        ("30006", "invalid_number"),
        ("21211", "invalid_number"),
        ("30003", None),
        ("30007", None),
    ],
)
def test_only_listed_error_codes_suppress_a_number(world, code, reason) -> None:
    attempt = world.send([1], step_no=NUDGE)
    world.status("undelivered", attempt=attempt, ErrorCode=code)
    assert world.row(step_no=NUDGE).state == MessageState.FAILED
    assert world.suppressed() == (set() if reason is None else {world.sms_suppressed(1, "all", reason)})
    assert world.people_suppressed() == ({("sms", 1, "all", "stop")} if reason == "stop" else set())


def test_a_reply_belongs_to_the_newest_text_to_that_number(world) -> None:
    world.send([1], step_no=NUDGE, at=world.start - timedelta(days=3))
    world.text("See you on Monday")
    assert world.row(step_no=NUDGE).replied_at == world.store.clock.now()
    with world.store.read() as connection:
        row = connection.execute(select(replies)).one()
    assert (row.run_id, row.step_no, row.seq, row.text) == (world.run_id, NUDGE, 1, "See you on Monday")


def test_a_reply_to_no_recent_text_is_kept_unattached(world) -> None:
    world.send([1], step_no=NUDGE, at=world.start - timedelta(days=8))
    world.text("Who is this?")
    assert world.row(step_no=NUDGE).replied_at is None
    with world.store.read() as connection:
        row = connection.execute(select(replies)).one()
    assert (row.run_id, row.text) == (None, "Who is this?")


def test_a_reply_told_twice_is_kept_once(world) -> None:
    world.send([1], step_no=NUDGE)
    world.text("Hello", sid="SM" + "a" * 32)
    world.text("Hello", sid="SM" + "a" * 32)
    assert count(world.store, replies) == 1


def test_a_stop_that_twilio_posts_again_after_a_start_stops_nothing_again(world) -> None:
    world.send([1], step_no=NUDGE)
    stop = "SM" + "b" * 32
    world.text("STOP", sid=stop)
    later(world.store, minutes=1)
    world.text("START")
    later(world.store, minutes=1)
    world.text("STOP", sid=stop)
    assert (world.suppressed(), world.people_suppressed()) == (set(), set())


@pytest.mark.parametrize("word", ["STOP", " stop. ", "Unsubscribe!", "退订", "ＴＤ", "t", "Stop all"])
def test_a_whole_message_keyword_opts_the_number_out(world, word) -> None:
    world.send([1], step_no=NUDGE)
    world.text(word)
    assert world.suppressed() == {world.sms_suppressed(1, "all", "stop")}
    assert world.people_suppressed() == {("sms", 1, "all", "stop")}
    assert world.row(step_no=NUDGE).opted_out_at is not None
    assert count(world.store, replies) == 0


@pytest.mark.parametrize("sentence", ["T恤有货吗", "I don't know", "unstoppable!", "yes", ""])
def test_a_reply_without_a_keyword_stops_nothing(world, sentence) -> None:
    world.send([1], step_no=NUDGE)
    world.text(sentence)
    assert world.suppressed() == world.people_suppressed() == set()
    assert world.row(step_no=NUDGE).replied_at is not None


@pytest.mark.parametrize(
    "sentence", ["please STOP sending me these", "I am at the bus stop", "我不想退订", "ｓｔｏｐ it", "Opt-out, please"]
)
def test_a_keyword_inside_a_longer_message_stops_marketing_until_a_person_decides(world, sentence) -> None:
    world.send([1], step_no=NUDGE)
    world.text(sentence)
    assert world.suppressed() == {world.sms_suppressed(1, "marketing", "unsubscribed")}
    assert world.people_suppressed() == {("all", 1, "marketing", "unsubscribed")}
    row = world.row(step_no=NUDGE)
    assert (row.replied_at is not None, row.opted_out_at) == (True, None)
    assert count(world.store, replies) == 1
    with world.store.read() as connection:
        asked = connection.execute(select(audit.c.run_id, audit.c.detail).where(audit.c.what == OBJECTION)).all()
    assert [tuple(row) for row in asked] == [(world.run_id, '{"step_no": 2, "seq": 1}')]


def test_twilios_own_judgement_of_a_text_is_honoured(world) -> None:
    world.text("Arrêtez", OptOutType="STOP")
    assert world.suppressed() == {world.sms_suppressed(1, "all", "stop")}


def test_a_stop_from_an_unknown_number_is_honoured(world) -> None:
    world.text("stop", seq=3)
    assert world.suppressed() == {world.sms_suppressed(3, "all", "stop")}


def test_start_lifts_a_stop_but_nothing_else(world) -> None:
    world.send([1], step_no=NUDGE)
    world.text("stop")
    with world.store.write() as connection:
        suppress(
            connection,
            channel=Channel.SMS,
            address_key=world.store.keyring.address_key("sms", world.phone(1)),
            contact=None,
            scope=SCOPE_ALL,
            reason=Reason.INVALID_NUMBER,
            source="test",
            at=world.start,
        )
    later(world.store, minutes=5)
    world.text("START")
    assert world.suppressed() == {world.sms_suppressed(1, "all", "invalid_number")}
    assert world.people_suppressed() == set()
    later(world.store, minutes=5)
    world.text("STOP")
    assert world.sms_suppressed(1, "all", "stop") in world.suppressed()


def test_a_start_lifts_the_stop_of_whoever_sent_it_from_that_number_however_long_ago(world) -> None:
    world.send([1], step_no=NUDGE)
    world.text("stop")
    later(world.store, days=30)
    world.text("START")
    assert world.row(step_no=NUDGE).replied_at is None
    assert (world.suppressed(), world.people_suppressed()) == (set(), set())


def test_a_start_that_arrives_right_after_a_stop_may_be_older_so_the_opt_out_wins(world) -> None:
    later(world.store, factor=1.0, seconds=0)
    world.text("STOP")
    later(world.store, factor=1.0, seconds=5)
    world.text("START")
    assert world.suppressed() == {world.sms_suppressed(1, "all", "stop")}


# -- the inbox


def unread(plan_text: str) -> str:
    """Return the plan under a digest that no test has used: what a process has read once it does not read again."""
    return f"{plan_text}# {uuid4()}\n"


def test_a_post_is_kept_until_it_is_applied_and_applied_once(world) -> None:
    attempt = world.send()
    body = json.dumps([world.event("delivered", attempt=attempt)]).encode()
    for _ in range(3):
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    assert tracking.waiting(world.store) == 3
    assert world.row().state == MessageState.ACCEPTED
    applied = tracking.apply_inbox(world.store)
    assert (applied.posts, applied.new, applied.known) == (3, 1, 2)
    assert tracking.apply_inbox(world.store).posts == 0
    assert tracking.waiting(world.store) == 0


def test_a_post_that_cannot_be_read_is_counted_and_does_not_hold_up_the_next(world) -> None:
    attempt = world.send()
    tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=b"\xff\xfe not json")
    tracking.append(world.store, kind=PostKind.TWILIO_STATUS, query={"m": "?"}, body=b"%zz")
    applied = world.told(world.event("delivered", attempt=attempt))
    assert (applied.posts, applied.unreadable, applied.new) == (3, 2, 1)


def test_a_post_that_cannot_be_applied_waits_and_holds_up_no_other(world, build, plan_text) -> None:
    broken = build(world.store, plan_text=unread(plan_text), occurrence="2")
    with world.store.write() as connection:
        connection.execute(
            update(bundles)
            .where(bundles.c.digest == select(runs.c.digest).where(runs.c.run_id == broken.run_id).scalar_subquery())
            .values(files='{"plan.yaml": "of another time"}')
        )
    unheard = broken.event("unsubscribe", attempt=broken.send())
    heard = world.event("delivered", attempt=world.send())
    for one in (unheard, heard):
        body = json.dumps([one]).encode()
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    assert tracking.apply_inbox(world.store).posts == 1
    assert world.row().state == MessageState.DELIVERED
    assert tracking.waiting(world.store) == 1
    assert broken.row().opted_out_at is None


def test_a_post_that_the_store_has_damaged_holds_up_no_opt_out(world) -> None:
    world.send([1], step_no=NUDGE)
    with world.store.write() as connection:
        connection.execute(
            insert(inbox).values(kind="sendgrid.inbound", query="no json", body=b"x", received_at=world.start)
        )
    applied = world.text("STOP")
    assert applied.posts >= 1
    assert world.suppressed() == {world.sms_suppressed(1, "all", "stop")}
    assert tracking.waiting(world.store) == 1


def test_any_number_of_posts_that_cannot_be_applied_are_set_aside_and_tried_again(world, build, plan_text) -> None:
    broken = build(world.store, plan_text=unread(plan_text), occurrence="2")
    of_broken = bundles.c.digest == select(runs.c.digest).where(runs.c.run_id == broken.run_id).scalar_subquery()
    with world.store.write() as connection:
        files = connection.execute(select(bundles.c.files).where(of_broken)).scalar_one()
        connection.execute(update(bundles).where(of_broken).values(files='{"plan.yaml": "of another time"}'))
    attempt = broken.send()
    for after in range(12):
        body = json.dumps([broken.event("unsubscribe", attempt=attempt, after=after)]).encode()
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    body = json.dumps([world.event("delivered", attempt=world.send())]).encode()
    tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body)
    assert tracking.apply_inbox(world.store, limit=5).posts == 1
    assert world.row().state == MessageState.DELIVERED
    with world.store.write() as connection:
        connection.execute(update(bundles).where(of_broken).values(files=files))
        # An hour, for this machine may take ten seconds to come here.
        tried = update(inbox).where(inbox.c.retry_machine.is_not(None))
        assert connection.execute(tried.values(retry_machine=machine_now() + 3_600)).rowcount == 12
    # Readable again, but none is tried before its time.
    assert tracking.apply_inbox(world.store).posts == 0
    assert tracking.waiting(world.store) == 12
    with world.store.write() as connection:
        assert set(connection.execute(select(inbox.c.failures)).scalars()) == {0, 1}
        connection.execute(update(inbox).where(inbox.c.failures == 1).values(retry_machine=0.0))
    assert tracking.apply_inbox(world.store, limit=5).posts == 5
    assert tracking.apply_inbox(world.store).posts == 7
    assert broken.row().opted_out_at is not None


def test_a_post_that_fails_again_and_again_is_tried_ever_more_seldom(world, build, plan_text) -> None:
    broken = build(world.store, plan_text=unread(plan_text), occurrence="2")
    with world.store.write() as connection:
        connection.execute(
            update(bundles)
            .where(bundles.c.digest == select(runs.c.digest).where(runs.c.run_id == broken.run_id).scalar_subquery())
            .values(files='{"plan.yaml": "of another time"}')
        )
    broken.told(broken.event("unsubscribe", attempt=broken.send()))
    waits = []
    for _ in range(8):
        with world.store.write() as connection:
            waits.append(connection.execute(select(inbox.c.retry_machine - machine_now())).scalar_one())
            connection.execute(update(inbox).values(retry_machine=0.0))
        assert tracking.apply_inbox(world.store).posts == 0
    assert waits == pytest.approx([10, 20, 40, 80, 160, 320, 600, 600], abs=9)
    assert tracking.waiting(world.store) == 1


def test_many_processes_apply_each_post_exactly_once(world, settings, store_url) -> None:
    attempt = world.send()
    for after in range(40):
        body = json.dumps(
            [world.event("open", attempt=attempt, after=after), world.event("click", attempt=attempt, after=after)]
        )
        tracking.append(world.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=body.encode())
    found: list[tracking.Applied] = []
    together = threading.Barrier(4)

    def work() -> None:
        from pydantic import SecretStr

        mine = open_store(settings.model_copy(update={"store_url": SecretStr(store_url)}))
        together.wait()
        while (applied := tracking.apply_inbox(mine, limit=3)).posts or tracking.waiting(mine):
            found.append(applied)
        mine.dispose()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(applied.posts for applied in found) == 40
    assert sum(applied.new for applied in found) == 80
    assert count(world.store, receipts) == 80


def test_an_opt_out_of_another_systems_mail_stops_marketing_and_is_no_reaction_to_ours(world) -> None:
    attempt = world.send([1])
    ours = {"email": world.email(1), "timestamp": int(world.start.timestamp()) + 60}
    world.told(world.event("delivered", attempt=attempt))
    with world.store.write() as connection:
        connection.execute(update(attempts).values(provider_id="ours"))
    world.told({**ours, "event": "group_unsubscribe", "sg_message_id": "theirs.recvd-1", "sg_event_id": "a"})
    assert world.row().opted_out_at is None
    assert world.suppressed() == {world.email_suppressed(1, "marketing", "unsubscribed")}
    # One whose name begins as that of our request is ours.
    world.told({**ours, "event": "group_unsubscribe", "sg_message_id": "ours.recvd-1", "sg_event_id": "b"})
    assert world.row().opted_out_at is not None
    assert world.email_suppressed(1, "getting-started", "unsubscribed") in world.suppressed()
