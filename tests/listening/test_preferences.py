"""The preference page: what a person gets is what they ticked, in runs under way too, and it is on record."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from commplan.consent import Contact
from commplan.explain import explain
from commplan.ids import TokenPurpose
from commplan.store.tables import recipients, runs, suppression_changes
from commplan.suppression import active
from commplan.terms import Channel, Reason
from tests.conftest import later

OFFERS = {
    "plan: onboarding": "plan: offers",
    "purpose: service": "purpose: marketing",
    "topic: getting-started": "topic: offers\ntopic_title: {en: Special offers, zh: 特别优惠}",
}


def offers(plan_text: str) -> str:
    for old, new in OFFERS.items():
        plan_text = plan_text.replace(old, new)
    return plan_text


@pytest.fixture
def sent(store, build, plan_text):  # type: ignore[no-untyped-def]
    """Two plans: a service that everybody may get, and marketing that only person 1 has agreed to, by email."""
    marketing = build(store, plan_text=offers(plan_text))
    with store.write() as connection:
        connection.execute(update(recipients).where(recipients.c.seq == 1).values(email_consent=True))
    marketing.send()
    world = build(store, locales=["en", "zh-TW", None])
    for step_no in (1, 2):
        world.send(step_no=step_no)
    return world


def link(world, seq=1, step_no=1) -> str:  # type: ignore[no-untyped-def]
    return f"/p/{world.token(seq, step_no, TokenPurpose.PREFERENCES)}"


def ticks(page: str) -> dict[str, bool]:
    """What the boxes of a page say, by topic and channel."""
    found = re.findall(r'type="checkbox" name="get:([^"]+)" value="yes"( checked)?', page)
    return {name: bool(checked) for name, checked in found}


def save(client, where: str, **wanted: bool):  # type: ignore[no-untyped-def]
    fields = ticks(client.get(where).text) | {
        name.replace("__", ":").replace("_", "-"): on for name, on in wanted.items()
    }
    form = {f"get:{name}": "yes" if on else "no" for name, on in fields.items()}
    return client.post(where, data={"do": "save", **form})


def keeps_back(world, channel: Channel, seq=1) -> set[tuple[str, str]]:  # type: ignore[no-untyped-def]
    """What the suppression list says of a person on a channel, as the last look reads it."""
    address = world.email(seq) if channel is Channel.EMAIL else world.phone(seq)
    with world.store.read() as connection:
        found = active(
            connection,
            channel=channel,
            address_key=world.store.keyring.address_key(channel, address),
            contact=Contact(people="customers", contact_id=f"c{seq}"),
            now=world.store.clock.now(),
        )
    return {(entry.reason, entry.scope) for entry in found}


def changes(world) -> int:  # type: ignore[no-untyped-def]
    with world.store.read() as connection:
        return len(connection.execute(select(suppression_changes)).all())


def test_the_page_offers_what_the_person_may_get_and_nothing_they_have_not_agreed_to(client, sent) -> None:
    page = client.get(link(sent)).text
    assert ticks(page) == {"getting-started:email": True, "getting-started:sms": True, "offers:email": True}
    assert "Special offers" in page
    assert "You have not agreed to get this." in page
    assert ticks(client.get(link(sent, 2)).text) == {"getting-started:email": True, "getting-started:sms": True}


def test_a_topic_can_be_declined_on_one_channel_and_taken_up_again(client, sent) -> None:
    assert save(client, link(sent), getting_started__sms=False).status_code == 200
    assert keeps_back(sent, Channel.SMS) == {("declined", "getting-started")}
    assert keeps_back(sent, Channel.EMAIL) == set()
    assert sent.people_suppressed() == {("sms", 1, "getting-started", "declined")}
    assert not ticks(client.get(link(sent, 1, 2)).text)["getting-started:sms"]
    assert sent.row(1, 1).opted_out_at is None
    later(sent.store, minutes=1)
    save(client, link(sent), getting_started__sms=True)
    assert keeps_back(sent, Channel.SMS) == set()


def test_declining_a_topic_the_way_its_message_came_is_an_opt_out_of_that_message(client, sent) -> None:
    save(client, link(sent), getting_started__email=False)
    assert sent.row(1, 1).opted_out_at == sent.store.clock.now()
    assert sent.row(1, 2).opted_out_at is None
    later(sent.store, minutes=1)
    save(client, link(sent), getting_started__email=True)
    assert sent.row(1, 1).opted_out_at is None


def test_declining_a_service_leaves_marketing_as_it_was(client, sent) -> None:
    save(client, link(sent), getting_started__email=False, getting_started__sms=False)
    assert ticks(client.get(link(sent)).text)["offers:email"]


def test_saving_what_is_there_changes_nothing(client, sent) -> None:
    save(client, link(sent))
    assert sent.suppressed() == sent.people_suppressed() == set()
    assert changes(sent) == 0


def test_taking_back_a_wide_opt_out_for_one_topic_leaves_the_others_off(client, sent) -> None:
    client.post(f"/u/{sent.token(1, 1, TokenPurpose.UNSUBSCRIBE)}", data={"do": "unsubscribe"})
    assert ticks(client.get(link(sent)).text) == {
        "getting-started:email": False,
        "getting-started:sms": False,
        "offers:email": False,
    }
    later(sent.store, minutes=1)
    save(client, link(sent), getting_started__email=True)
    assert ticks(client.get(link(sent)).text) == {
        "getting-started:email": True,
        "getting-started:sms": False,
        "offers:email": False,
    }
    assert keeps_back(sent, Channel.SMS) == {("declined", "getting-started"), ("declined", "offers")}
    assert keeps_back(sent, Channel.EMAIL) == {("declined", "offers")}


def test_a_box_that_nobody_showed_changes_nothing(client, sent) -> None:
    for name in ("offers:sms", "another-topic:email", "getting-started:fax", "getting-started", ":email"):
        client.post(link(sent), data={"do": "save", f"get:{name}": "no"})
    client.post(link(sent), data={"do": "nothing we know"})
    client.post(link(sent))
    assert changes(sent) == 0


def test_what_a_stop_or_a_dead_address_forbids_cannot_be_ticked(client, sent) -> None:
    sent.text("STOP")
    sent.told(sent.event("bounce", attempt=sent.row().attempt_id, type="bounce"))
    page = client.get(link(sent)).text
    assert ticks(page) == {}
    assert "Text START to our number" in page
    later(sent.store, days=1)
    client.post(link(sent), data={"do": "save", "get:getting-started:sms": "yes", "get:getting-started:email": "yes"})
    assert keeps_back(sent, Channel.SMS) == {("stop", "all")}
    assert keeps_back(sent, Channel.EMAIL) == {("hard_bounce", "all")}


def test_a_pause_lasts_thirty_days_can_be_ended_before_and_is_one_however_often_it_is_pressed(client, sent) -> None:
    page = client.post(link(sent), data={"do": "pause"}).text
    end = sent.store.clock.now() + timedelta(days=30)
    assert f"{end:%B} {end.day}, {end.year}" in page
    assert keeps_back(sent, Channel.EMAIL) == keeps_back(sent, Channel.SMS) == {("paused", "all")}
    later(sent.store, days=29)
    assert 'value="resume"' in client.get(link(sent)).text
    assert keeps_back(sent, Channel.EMAIL) == {("paused", "all")}
    client.post(link(sent), data={"do": "resume"})
    assert keeps_back(sent, Channel.EMAIL) == keeps_back(sent, Channel.SMS) == set()
    later(sent.store, minutes=1)
    client.post(link(sent), data={"do": "pause"})
    later(sent.store, days=30, seconds=1)
    assert keeps_back(sent, Channel.EMAIL) == set()
    assert 'value="pause"' in client.get(link(sent)).text


def test_stopping_everything_holds_on_every_channel_and_taking_it_back_leaves_the_choices_of_before(
    client, sent
) -> None:
    save(client, link(sent), getting_started__sms=False)
    later(sent.store, minutes=1)
    client.post(link(sent), data={"do": "stop"})
    for channel in Channel:
        assert (Reason.UNSUBSCRIBED, "all") in keeps_back(sent, channel)
    assert not any(ticks(client.get(link(sent)).text).values())
    assert sent.row().opted_out_at is not None
    later(sent.store, minutes=1)
    client.post(link(sent), data={"do": "unstop"})
    assert keeps_back(sent, Channel.EMAIL) == set()
    assert keeps_back(sent, Channel.SMS) == {("declined", "getting-started")}
    assert sent.row().opted_out_at is None


def test_who_stopped_everything_and_ticks_one_box_gets_that_alone(client, sent) -> None:
    client.post(link(sent), data={"do": "stop"})
    later(sent.store, minutes=1)
    assert "that alone reaches you again" in client.get(link(sent)).text
    save(client, link(sent), getting_started__sms=True)
    assert ticks(client.get(link(sent)).text) == {
        "getting-started:email": False,
        "getting-started:sms": True,
        "offers:email": False,
    }
    assert 'value="stop"' in client.get(link(sent)).text


def test_every_change_is_on_record_with_the_words_it_was_made_by_and_explain_tells_them(
    client, sent, settings, store
) -> None:
    save(client, link(sent, 2), getting_started__sms=False)
    later(sent.store, minutes=1)
    save(client, link(sent, 2), getting_started__sms=True)
    later(sent.store, minutes=1)
    client.post(f"/u/{sent.token(2, 1, TokenPurpose.UNSUBSCRIBE)}", data={"do": "unsubscribe"})
    with store.write() as connection:
        connection.execute(update(runs).values(snapshot_at=sent.start))
    told = explain(store, settings, contact="customers:c2")
    of_person = [(one.what, one.rule) for one in told.history if "customers c2" in one.what]
    assert [what for what, _ in of_person] == [
        "sms: customers c2: listed (declined, scope getting-started)",
        "sms: customers c2: taken off (declined, scope getting-started)",
        "every channel: customers c2: listed (unsubscribed, scope getting-started)",
    ]
    assert all(rule.startswith("said by preference page: 请勾选") for _, rule in of_person[:2])
    assert "☐ getting started · 短信" in of_person[0][1]
    assert "☑ getting started · 短信" in of_person[1][1]
    assert "将不再向您发送关于" in of_person[2][1]


@pytest.mark.parametrize("which", ["forged", "for another purpose", "of a message that is gone", "cut off"])
def test_a_link_that_is_not_ours_changes_nothing_and_leads_to_where_an_address_is_taken(client, sent, which) -> None:
    token = {
        "forged": "A" * 22,
        "for another purpose": sent.token(1, 1, TokenPurpose.UNSUBSCRIBE),
        "of a message that is gone": sent.token(99, 1, TokenPurpose.PREFERENCES),
        "cut off": sent.token(1, 1, TokenPurpose.PREFERENCES)[:-2],
    }[which]
    for answer in (client.get(f"/p/{token}"), client.post(f"/p/{token}", data={"do": "stop"})):
        assert answer.status_code == 404
        assert 'href="../u/-?lang=en"' in answer.text
    assert changes(sent) == 0
    assert client.get("/u/-").status_code == 404
    assert 'name="address"' in client.get("/u/-").text


@pytest.mark.parametrize("headers", [{}, {"Purpose": "prefetch"}, {"Sec-Purpose": "prefetch;prerender"}])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_looking_changes_nothing_whoever_looks(client, sent, method, headers) -> None:
    before = sent.rows()
    for query in ("", "?do=stop", "?do=save"):
        assert client.request(method, link(sent) + query, headers=headers).status_code == 200
    assert changes(sent) == 0
    assert sent.rows() == before


def test_the_unsubscribe_page_leads_to_the_choices_of_the_same_person(client, sent) -> None:
    page = client.get(f"/u/{sent.token(2, 1, TokenPurpose.UNSUBSCRIBE)}").text
    (path,) = re.findall(r'href="\.\.(/p/[^"?]+)\?lang=zh"', page)
    client.post(path, data={"do": "pause"})
    assert keeps_back(sent, Channel.EMAIL, 2) == {("paused", "all")}
    assert keeps_back(sent, Channel.EMAIL, 1) == set()
