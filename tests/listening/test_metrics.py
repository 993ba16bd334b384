"""The figures for Prometheus count what happened, name nobody, and are for whoever has the token."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError
from sqlalchemy import update

from commplan import tracking
from commplan.settings import Settings
from commplan.store.tables import inbox
from commplan.tracking import PostKind
from tests.listening.test_serve import eventually

TOKEN = "a token of sixteen letters or more"
EVENTS, STATUS = "/hooks/sendgrid/events", "/hooks/twilio/status"


def read(client: httpx.Client) -> dict[tuple[str, ...], float]:
    """Return each figure by its name and the values of its labels, in the order of their names."""
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def metered(signed_settings: Settings) -> Settings:
    return signed_settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})


@pytest.fixture
def client(store, metered, serve) -> Iterator[httpx.Client]:  # type: ignore[no-untyped-def]
    with serve(store, metered) as opened:
        yield opened


def test_without_a_token_in_the_settings_nobody_reads_them(store, signed_settings, serve) -> None:
    with serve(store, signed_settings) as client:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {TOKEN}"}):
            answer = client.get("/metrics", headers=headers)
            assert answer.status_code == 404
            assert "commplan_" not in answer.text


@pytest.mark.parametrize("given", [None, TOKEN, f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", "Bearer ÿ"])
def test_without_the_token_nobody_reads_them(client, given) -> None:
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "commplan_" not in answer.text


def test_a_token_that_could_be_guessed_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("COMMPLAN_METRICS_TOKEN", "short")
    with pytest.raises(ValidationError, match="at least 16"):
        Settings()


def test_posts_are_counted_by_path_and_answer_and_refused_ones_by_what_was_wrong(client, signer) -> None:
    good, other = signer.sendgrid(b"[]"), type(signer)().sendgrid(b"[]")
    for body, headers in ((b"[]", good), (b"[]", good), (b"[ ]", good), (b"[]", other), (b"[]", {})):
        client.post(EVENTS, content=body, headers=headers)
    client.post(EVENTS, content=b"{", headers=signer.sendgrid(b"{"))
    client.post(STATUS, data={"MessageSid": "SM1"})
    client.get(EVENTS)
    figures = read(client)
    counted = {key[1:]: value for key, value in figures.items() if key[0] == "commplan_answers_total"}
    assert counted == {
        ("204", EVENTS, ""): 2,
        ("403", EVENTS, "wrong_signature"): 2,
        ("403", EVENTS, "unsigned"): 1,
        ("400", EVENTS, ""): 1,
        ("405", EVENTS, ""): 1,
        ("403", STATUS, "unsigned"): 1,
    }
    assert figures["commplan_kept_bytes_total", EVENTS] == 4
    assert figures["commplan_answer_seconds_count", EVENTS] == 7
    assert figures["commplan_answer_seconds_bucket", "+Inf", EVENTS] == 7


def test_a_refusal_for_want_of_a_key_says_so(store, settings, signer, serve) -> None:
    with serve(store, settings.model_copy(update={"metrics_token": SecretStr(TOKEN)})) as client:
        client.post(EVENTS, content=b"[]", headers=signer.sendgrid(b"[]"))
        client.post(STATUS, data={"a": "b"}, headers={"X-Twilio-Signature": "x"})
        figures = read(client)
    assert figures["commplan_answers_total", "403", EVENTS, "no_key"] == 1
    assert figures["commplan_answers_total", "403", STATUS, "no_key"] == 1


def test_no_token_address_or_path_of_anybody_is_a_label(client, world) -> None:
    client.get(f"/u/{world.token()}")
    client.get("/p1@person.example.com")
    client.get("/u/p1@person.example.com?to=+12025550001")
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert 'commplan_answers_total{code="404",path="/u/{token}",why=""} 2.0' in answer.text
    assert 'commplan_answers_total{code="404",path="other",why=""} 1.0' in answer.text
    assert world.token() not in answer.text
    assert "person.example.com" not in answer.text
    assert "2025550001" not in answer.text


def test_what_waits_is_read_from_the_store_whoever_kept_it(client, store) -> None:
    for _ in range(3):
        tracking.append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=b"[]")
    with store.write() as connection:
        connection.execute(update(inbox).where(inbox.c.inbox_id == 1).values(failures=1, retry_machine=4e9))
    figures = read(client)
    assert figures["commplan_waiting_posts",] == 3
    assert figures["commplan_set_aside_posts",] == 1
    assert figures["commplan_waiting_seconds",] == 0
    assert figures["commplan_store_readable",] == 1


def test_when_the_store_cannot_be_read_the_figures_say_so_and_the_others_stay(client, store, signer) -> None:
    client.post(EVENTS, content=b"[]", headers=signer.sendgrid(b"[]"))
    with store.write() as connection:
        inbox.drop(connection)
    figures = read(client)
    assert figures["commplan_store_readable",] == 0
    assert ("commplan_waiting_posts",) not in figures
    assert figures["commplan_answers_total", "204", EVENTS, ""] == 1


def test_facts_are_counted_by_kind_when_they_are_applied(store, metered, world, signer, serve) -> None:
    attempt = world.send()
    events = [
        world.event("delivered", 1, attempt=attempt),
        world.event("delivered", 2, attempt=attempt),
        world.event("click", 1, attempt=attempt, url="https://example.com"),
        {"event": "delivered", "email": "p9@person.example.com", "timestamp": 1764554400, "sg_event_id": "foreign"},
        "rubbish",
    ]
    body = json.dumps(events).encode()
    with serve(store, metered, applies=True) as client:
        for _ in range(2):
            client.post(EVENTS, content=body, headers=signer.sendgrid(body)).raise_for_status()
        eventually(lambda: read(client).get(("commplan_events_total", "unreadable")) == 2)
        figures = read(client)
    counted = {key[1]: value for key, value in figures.items() if key[0] == "commplan_receipts_total"}
    assert counted == {"delivered": 2, "clicked": 1}
    assert figures["commplan_events_total", "known"] == 3
    assert figures["commplan_events_total", "foreign"] == 2
