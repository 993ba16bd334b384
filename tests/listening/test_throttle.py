"""Who asks too often waits; no signed post, and nobody with a link of their own, ever does for somebody else's sake."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from commplan.errors import InputError
from commplan.ids import LinkRef, TokenPurpose
from commplan.settings import load_settings
from commplan.store.tables import inbox
from commplan.web.client import Proxies
from commplan.web.throttle import Buckets

EVENTS = "/hooks/sendgrid/events"
STRANGER, OTHER = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}


def until_limited(ask: Callable[[], httpx.Response], *, meanwhile: set[int]) -> httpx.Response:
    """Ask again and again until it is too often; every answer before that is one of `meanwhile`."""
    for _ in range(500):
        answer = ask()
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            return answer
        assert answer.status_code in meanwhile
    raise AssertionError("nobody was limited")


def kept(store) -> int:  # type: ignore[no-untyped-def]
    with store.read() as connection:
        return len(connection.execute(inbox.select()).all())


def test_unsigned_posts_are_limited_and_signed_ones_from_the_same_address_are_all_taken(client, store, signer) -> None:
    until_limited(lambda: client.post(EVENTS, content=b"[]", headers=STRANGER), meanwhile={403})
    good = {**signer.sendgrid(b"[]"), **STRANGER}
    for _ in range(100):
        assert client.post(EVENTS, content=b"[]", headers=good).status_code == 204
    assert kept(store) == 100
    assert client.post(EVENTS, content=b"[]", headers=OTHER).status_code == 403


def test_who_is_refused_all_the_time_fills_no_log(client, caplog) -> None:
    caplog.set_level(logging.WARNING)
    until_limited(lambda: client.post(EVENTS, content=b"[]", headers=STRANGER), meanwhile={403})
    before = len(caplog.records)
    answers = [client.post(EVENTS, content=b"[]", headers=STRANGER).status_code for _ in range(30)]
    assert answers.count(429) >= 1
    assert len(caplog.records) - before <= answers.count(403)


@pytest.mark.parametrize(
    ("path", "language", "words"),
    [
        ("/u/nobody", "en", "One moment, please"),
        ("/s/nobody", "zh-CN", "请稍等片刻"),
        ("/", "fr", "One moment, please"),
    ],
)
def test_who_guesses_links_gets_a_kind_page(client, path, language, words) -> None:
    headers = {**STRANGER, "Accept-Language": language}
    page = until_limited(lambda: client.get(path, headers=headers), meanwhile={404})
    assert words in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get(path, headers=OTHER).status_code == 404


def test_who_guesses_links_may_still_use_their_own(client, world) -> None:
    until_limited(lambda: client.get("/u/nobody", headers=STRANGER), meanwhile={404})
    world.send()
    own = f"/u/{world.token(purpose=TokenPurpose.UNSUBSCRIBE)}"
    assert client.get(own, headers=STRANGER).status_code == 200
    world.send([1], step_no=2)
    (short,) = world.store.keyring.links([LinkRef(world.ref(1, 2), 0)])
    assert client.get(f"/l/{short}", headers=STRANGER).status_code != 429
    assert client.post(own, headers=STRANGER, data={"List-Unsubscribe": "One-Click"}).status_code == 200
    assert world.people_suppressed() == {("all", 1, "getting-started", "unsubscribed")}


def test_a_mail_service_that_opts_out_many_people_from_one_address_is_never_limited(client, store, build) -> None:
    world = build(store, people=150)
    world.send()
    for seq in range(1, 151):
        path = f"/u/{world.token(seq, purpose=TokenPurpose.UNSUBSCRIBE)}"
        answer = client.post(path, headers=STRANGER, data={"List-Unsubscribe": "One-Click"})
        assert answer.status_code == 200
    assert len(world.people_suppressed()) == 150


def test_one_page_is_not_asked_for_without_end_and_the_others_are_not_touched(client, world) -> None:
    world.send()
    first, second = (f"/u/{world.token(seq, purpose=TokenPurpose.UNSUBSCRIBE)}" for seq in (1, 2))
    until_limited(lambda: client.get(first, headers=STRANGER), meanwhile={200})
    assert client.get(second, headers=STRANGER).status_code == 200
    assert client.get(first, headers=OTHER).status_code == 200


def test_addresses_are_not_typed_in_without_end(client, world) -> None:
    numbers = iter(range(500))

    def opt_out() -> httpx.Response:
        number = next(numbers)
        form = {"address": f"p{number}@person.example.com"}
        return client.post(f"/u/broken{number}", headers=STRANGER, data=form)

    until_limited(opt_out, meanwhile={200})
    taken = len(world.suppressed())
    assert opt_out().status_code in (200, 429)
    assert taken < 500


def test_guesses_of_the_token_of_the_figures_are_limited(store, signed_settings, serve) -> None:
    token = SecretStr("a token of sixteen letters or more")
    with serve(store, signed_settings.model_copy(update={"metrics_token": token})) as client:
        until_limited(lambda: client.get("/metrics", headers=STRANGER), meanwhile={401})
        right = {**STRANGER, "Authorization": f"Bearer {token.get_secret_value()}"}
        assert client.get("/metrics", headers=right).status_code == 200


def test_nobody_on_this_machine_is_limited(client) -> None:
    for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": "not an address"}):
        for _ in range(70):
            assert client.get("/u/nobody", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("127.0.0.1", [], None),
        ("::1", ["198.51.100.1"], "198.51.100.1"),
        ("198.51.100.1", [], "198.51.100.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, rubbish"], None),
        ("10.0.0.1", [], None),
        ("127.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.1", [], "198.51.100.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
    ],
)
def test_the_client_is_whom_the_last_trusted_proxy_names(peer, told, client) -> None:
    headers = [(b"x-forwarded-for", line.encode()) for line in told]
    scope = {"type": "http", "client": (peer, 1), "headers": headers}
    assert Proxies(["10.0.0.0/8"]).client_of(scope) == client


def test_a_proxy_that_nobody_trusts_is_noticed() -> None:
    told = [(b"x-forwarded-for", b"203.0.113.9")]
    proxies = Proxies(["10.0.0.0/8"])
    for peer, noticed in (("198.51.100.1", True), ("10.0.0.1", False), ("127.0.0.1", False)):
        scope = {"type": "http", "client": (peer, 1), "headers": told}
        assert proxies.is_passed_on_by_a_stranger(scope) is noticed


def test_a_network_of_proxies_that_is_none_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setenv("COMMPLAN_TRUSTED_PROXIES", '["10.0.0.1/8"]')
    with pytest.raises(InputError, match="COMMPLAN_TRUSTED_PROXIES"):
        load_settings()


def test_a_bucket_gives_so_many_at_once_and_then_so_many_a_second() -> None:
    buckets = Buckets(burst=3, per_second=0.5)
    assert [buckets.take(b"a", 100.0) for _ in range(4)] == [0, 0, 0, 2]
    assert buckets.take(b"b", 100.0) == 0
    assert buckets.take(b"a", 101.5) == 0.5
    assert buckets.take(b"a", 102.0) == 0
    assert [buckets.take(b"a", 1000.0) for _ in range(4)] == [0, 0, 0, 2]


def test_of_too_many_clients_those_not_seen_for_longest_are_forgotten() -> None:
    buckets = Buckets(burst=1, per_second=0.001, most=2)
    for key in (b"a", b"b", b"c"):
        assert buckets.take(key, 0.0) == 0
    assert buckets.wait(b"a", 0.0) == 0
    assert buckets.wait(b"b", 0.0) > 0
    assert buckets.wait(b"c", 0.0) > 0


def test_no_address_of_a_client_reaches_a_log(client, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    until_limited(lambda: client.get("/u/nobody", headers=STRANGER), meanwhile={404})
    client.post(EVENTS, content=b"[]", headers=OTHER)
    ours = [record for record in caplog.records if record.name.startswith("commplan")]
    assert ours
    assert "203.0.113" not in " ".join(f"{record.getMessage()} {vars(record)}" for record in ours)
