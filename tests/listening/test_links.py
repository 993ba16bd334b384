"""Links in texts: who follows one arrives, and is counted if they are a person."""

from __future__ import annotations

import json
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select, text, update

from commplan import pulse, tracking
from commplan.ids import LinkRef, MessageRef, RunId
from commplan.ledger import feed
from commplan.settings import Settings
from commplan.store import open_store
from commplan.store.tables import attempts, feed_beats, inbox, message_values, messages, receipts, runs, skeletons
from tests.conftest import later
from tests.listening.conftest import NUDGE, World
from tests.listening.receiver import eventually

PHONE = {"User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1"}
SHOP, HELP = "https://shop.example/setup/{seq}?a=1&b=ü", "https://help.example/"


def texted(world: World, *, delivered: float | None = 60.0) -> str:
    """Let everybody have a text with two counted links, delivered so many seconds after it was sent."""
    attempt = world.send(step_no=NUDGE)
    with world.store.write() as connection:
        connection.execute(
            insert(skeletons).values(
                run_id=world.run_id, skeleton_no=1, digest="d" * 64, content="nudge", channel="sms", locale="en",
                subject="", text="…", html="", placeholders="[]", links=json.dumps(["setup_url", HELP]),
            )
        )  # fmt: skip
        connection.execute(update(messages).where(messages.c.step_no == NUDGE).values(skeleton_no=1))
        connection.execute(
            insert(message_values),
            [
                {
                    "run_id": world.run_id, "step_no": NUDGE, "seq": seq, "slot_values": "[]",
                    "targets": json.dumps([SHOP.format(seq=seq), HELP]),
                }
                for seq in range(1, world.people + 1)
            ],
        )  # fmt: skip
    if delivered is not None:
        for seq in range(1, world.people + 1):
            world.status("delivered", seq, attempt=attempt)
        set_back(world, delivered)
    return attempt


def set_back(world: World, after: float) -> None:
    """Let the deliveries have been so many seconds after the start."""
    with world.store.write() as connection:
        at = world.start + timedelta(seconds=after)
        connection.execute(update(receipts).where(receipts.c.kind == "delivered").values(at=at))


def url(world: World, seq: int = 1, number: int = 0) -> str:
    return f"/l/{world.store.keyring.links([LinkRef(world.ref(seq, NUDGE), number)])[0]}"


def counted(world: World, seq: int = 1) -> tuple[bool, bool]:
    """Apply what was kept; return whether a person, and whether a machine, clicked."""
    tracking.apply_inbox(world.store)
    row = world.row(seq, NUDGE)
    return row.clicked_at is not None, row.machine_clicked_at is not None


def whys(world: World) -> list[str | None]:
    tracking.apply_inbox(world.store)
    with world.store.read() as connection:
        kept = select(receipts.c.machine_why).where(receipts.c.kind == "clicked").order_by(receipts.c.at)
        return list(connection.execute(kept).scalars())


def test_a_person_who_follows_a_link_arrives_where_their_own_text_pointed_and_counts(world, client):
    texted(world)
    answer = client.get(url(world, 2), headers=PHONE)
    assert answer.status_code == 302
    assert answer.headers["location"] == "https://shop.example/setup/2?a=1&b=%C3%BC"
    assert answer.headers["cache-control"] == "no-store"
    assert counted(world, 2) == (True, False)
    assert counted(world, 1) == (False, False)
    assert whys(world) == [None]


def test_what_is_kept_of_a_visit_is_the_message_the_link_the_time_and_the_kind_of_program(world, client):
    texted(world)
    client.get(url(world), headers={**PHONE, "X-Forwarded-For": "203.0.113.7", "Cookie": "a=b"})
    with world.store.read() as connection:
        kept = connection.execute(select(inbox).order_by(inbox.c.inbox_id.desc())).first()
    query = json.loads(kept.query)
    assert (kept.body, {**query, "at": ""}) == (
        b"",
        {"m": world.token(1, NUDGE), "l": "setup_url", "at": "", "by": "browser"},
    )
    tracking.apply_inbox(world.store)
    with world.store.read() as connection:
        receipt = connection.execute(select(receipts).where(receipts.c.kind == "clicked")).one()
    assert (receipt.provider, receipt.url_key, receipt.agent_class) == ("page", "setup_url", "browser")


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"User-Agent": "facebookexternalhit/1.1 Facebot Twitterbot/1.0"}, "agent"),
        ({"User-Agent": "WhatsApp/2.23.20.0"}, "agent"),
        ({"User-Agent": "TelegramBot (like TwitterBot)"}, "agent"),
        ({"User-Agent": "Mozilla/5.0 Google-PageRenderer Google (+https://developers.google.com/)"}, "agent"),
        ({"User-Agent": "curl/8.5.0"}, "agent"),
        ({**PHONE, "Purpose": "prefetch"}, "flagged"),
        ({**PHONE, "Sec-Purpose": "prefetch;prerender"}, "flagged"),
        ({**PHONE, "X-Moz": "prefetch"}, "flagged"),
        ({**PHONE, "X-Purpose": "preview"}, "flagged"),
    ],
)
def test_a_previewer_arrives_too_is_marked_and_weighs_nothing_until_the_person_comes(world, client, headers, why):
    texted(world)
    assert client.get(url(world), headers=headers).status_code == 302
    assert counted(world) == (False, True)
    assert whys(world) == [why]
    client.get(url(world), headers=PHONE)
    assert counted(world) == (True, True)


def test_a_head_is_a_machines_and_tells_where_the_link_leads(world, client):
    texted(world)
    answer = client.head(url(world), headers=PHONE)
    assert (answer.status_code, answer.headers["location"]) == (302, "https://shop.example/setup/1?a=1&b=%C3%BC")
    assert counted(world) == (False, True)


def test_who_comes_sooner_than_anybody_reads_is_a_machine(world, client):
    texted(world, delivered=3_600.0 - 2)
    client.get(url(world), headers=PHONE)
    assert counted(world) == (False, True)
    assert whys(world) == ["too_soon"]


def test_who_comes_sooner_after_the_text_left_is_a_machine_before_any_delivery_is_told(world, client):
    attempt = texted(world, delivered=None)
    with world.store.write() as connection:
        connection.execute(update(attempts).values(wire_at=world.store.clock.now() - timedelta(seconds=2)))
    client.get(url(world), headers=PHONE)
    assert counted(world) == (False, True)
    world.status("delivered", attempt=attempt)
    assert whys(world) == ["too_soon"]


def test_a_delivery_that_is_told_late_is_not_held_against_who_came_before(world, client):
    attempt = texted(world, delivered=None)
    client.get(url(world), headers=PHONE)
    assert counted(world) == (True, False)
    later(world.store, seconds=3)
    world.status("delivered", attempt=attempt)
    assert counted(world) == (True, False)


def test_who_follows_every_link_at_once_is_a_machine(world, client):
    texted(world)
    for number in (0, 1):
        client.get(url(world, 1, number), headers=PHONE)
    assert counted(world) == (False, True)
    assert whys(world) == ["all_links", "all_links"]


def test_the_same_link_twice_at_once_is_one_person(world, client):
    texted(world)
    for _ in range(3):
        client.get(url(world), headers=PHONE)
    assert counted(world) == (True, False)
    assert len(whys(world)) == 1


def test_nothing_but_what_stood_in_the_text_can_be_reached(world, client):
    texted(world)
    good = url(world)
    assert (
        client.get(good + "?to=https://evil.example/&url=//evil.example")
        .headers["location"]
        .startswith("https://shop.example/setup/1")
    )
    beyond = world.store.keyring.links(
        [
            LinkRef(world.ref(1, NUDGE), 2),
            LinkRef(world.ref(99, NUDGE), 0),
            LinkRef(world.ref(1, 1), 0),
            LinkRef(MessageRef(RunId(77), NUDGE, 1), 0),
        ]
    )
    forged = [good[:-1] + ("a" if good[-1] != "a" else "b"), "/l/" + "0" * 16, "/l/https:%2F%2Fevil.example", "/l/a"]
    for path in [*forged, *(f"/l/{token}" for token in beyond), f"/l/{world.token(1, NUDGE)}"]:
        answer = client.get(path, headers=PHONE)
        assert (answer.status_code, "location" in answer.headers) == (404, False), path
        assert "There is nothing here" in answer.text
    assert client.get("/l/" + "0" * 16, headers={"Accept-Language": "zh-CN"}).text.count("这里没有内容") >= 1
    assert client.post(good).status_code == 405
    tracking.apply_inbox(world.store)
    assert counted(world, 2) == (False, False)


def test_a_link_survives_a_new_secret(store_url, world, signed_settings, serve):
    texted(world)
    secrets = {"secret_key": SecretStr("new"), "earlier_secret_keys": (SecretStr("a secret of the tests"),)}
    renewed = open_store(signed_settings.model_copy(update={**secrets, "store_url": SecretStr(store_url)}))
    renewed.clock = world.store.clock
    with serve(renewed, signed_settings) as client:
        assert client.get(url(world), headers=PHONE).status_code == 302
    tracking.apply_inbox(renewed)
    renewed.dispose()
    assert counted(world) == (True, False)


def test_a_link_ends_long_after_its_run_with_a_kind_page(world, client):
    texted(world)
    with world.store.write() as connection:
        connection.execute(update(runs).values(finished_at=world.start - timedelta(days=364)))
    assert client.get(url(world), headers=PHONE).status_code == 302
    with world.store.write() as connection:
        connection.execute(update(runs).values(finished_at=world.start - timedelta(days=366)))
    answer = client.get(url(world), headers=PHONE)
    assert (answer.status_code, "location" in answer.headers) == (410, False)


def test_who_was_here_before_is_sent_on_while_the_store_is_away_and_counted_when_it_is_back(world, client):
    texted(world)
    client.get(url(world), headers={"User-Agent": "WhatsApp/2"})
    tables = ("messages", "inbox")
    for table in tables:
        with world.store.write() as connection:
            connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_away"))
    assert client.get(url(world), headers=PHONE).status_code == 302
    assert client.get(url(world, 2), headers=PHONE).status_code == 503
    for table in tables:
        with world.store.write() as connection:
            connection.execute(text(f"ALTER TABLE {table}_away RENAME TO {table}"))
    assert counted(world) == (False, True)
    client.get(url(world, 3), headers=PHONE)
    assert counted(world) == (True, True)
    assert counted(world, 2) == (False, False)


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
def test_a_click_that_waits_is_kept_by_the_process_that_has_it_without_another(world, signed_settings, serve, ends):
    texted(world)
    with serve(world.store, signed_settings, applies=True) as client:
        client.get(url(world), headers={"User-Agent": "WhatsApp/2"})
        eventually(lambda: tracking.waiting(world.store) == 0)
        with world.store.write() as connection:
            connection.execute(text("ALTER TABLE inbox RENAME TO inbox_away"))
        assert client.get(url(world), headers=PHONE).status_code == 302
        with world.store.write() as connection:
            connection.execute(text("ALTER TABLE inbox_away RENAME TO inbox"))
        if not ends:
            eventually(lambda: counted(world) == (True, True))
    assert counted(world) == (True, True)


def test_a_heartbeat_of_the_receiver_is_heard_under_its_public_address_and_no_other(
    world, client: httpx.Client, signed_settings: Settings
):
    nonce = feed.ask(world.store, feed.RECEIVER, every=timedelta(minutes=1))
    assert nonce is not None
    assert client.get("/l/" + "a" * 32).status_code == 404
    pulse._visit(signed_settings.model_copy(update={"public_url": "http://127.0.0.1:9"}), nonce)
    with world.store.read() as connection:
        assert connection.execute(select(feed_beats.c.heard_at)).scalars().all() == [None]
    pulse._visit(signed_settings.model_copy(update={"public_url": str(client.base_url).rstrip("/")}), nonce)
    with world.store.read() as connection:
        assert connection.execute(select(feed_beats.c.heard_at)).scalars().all() != [None]
