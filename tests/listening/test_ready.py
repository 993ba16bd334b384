"""The receiver says that it is ready only when it is, and otherwise what to do."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from sqlalchemy import text, update

from commplan import tracking
from commplan.store.tables import inbox, store_info
from commplan.tracking import PostKind
from tests.conftest import later


def keep(store) -> None:  # type: ignore[no-untyped-def]
    tracking.append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=b"[]")


def test_a_receiver_that_can_keep_and_apply_is_ready(client, store) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "waiting": 0, "set_aside": 0, "oldest_seconds": 0.0}


def test_without_a_key_nothing_could_be_taken_and_the_settings_are_named(store, settings, serve) -> None:
    with serve(store, settings) as client:
        answer = client.get("/readyz")
        assert client.get("/healthz").status_code == 200
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    told = " ".join(answer.json()["reasons"])
    assert "COMMPLAN_EMAIL__WEBHOOK_KEYS" in told
    assert "COMMPLAN_SMS__AUTH_TOKEN" in told


@pytest.mark.parametrize("sends", [True, False])
@pytest.mark.parametrize("provider", ["email", "sms"])
def test_a_provider_that_we_send_by_must_be_heard_and_another_need_not(
    store, signed_settings, serve, provider, sends
) -> None:
    key, credential, named = {
        "email": ({"webhook_keys": ()}, {"api_key": SecretStr("SG.1")}, "COMMPLAN_EMAIL__WEBHOOK_KEYS"),
        "sms": ({"auth_token": None}, {"account_sid": "AC1"}, "COMMPLAN_SMS__AUTH_TOKEN"),
    }[provider]
    part = getattr(signed_settings, provider).model_copy(update=key | (credential if sends else {}))
    with serve(store, signed_settings.model_copy(update={provider: part})) as client:
        answer = client.get("/readyz")
    assert answer.status_code == (503 if sends else 200)
    assert (named in answer.text) is sends


def test_a_store_that_takes_no_row_is_not_ready(client, store) -> None:
    with store.write() as connection:
        store_info.drop(connection)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "the store refused a statement" in answer.json()["reasons"][0]


def test_a_store_of_another_version_is_not_ready_and_says_how_to_bring_it_here(client, store) -> None:
    with store.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "commplan db upgrade" in answer.json()["reasons"][0]


def test_posts_that_wait_for_long_are_said_with_their_age(client, store) -> None:
    keep(store)
    later(store, minutes=1, factor=1.0)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["waiting"] == 1
    assert answer.json()["oldest_seconds"] >= 60


def test_when_the_oldest_post_has_waited_too_long_the_receiver_is_not_ready_but_still_takes_posts(
    client, store, signer
) -> None:
    keep(store)
    later(store, hours=1)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "waited to be applied" in answer.json()["reasons"][0]
    assert client.post("/hooks/sendgrid/events", content=b"[]", headers=signer.sendgrid(b"[]")).status_code == 204
    assert client.get("/healthz").status_code == 200


def test_a_post_that_cannot_be_applied_is_counted_and_makes_nobody_unready(client, store) -> None:
    keep(store)
    with store.write() as connection:
        connection.execute(update(inbox).values(failures=3, retry_machine=4e9))
    later(store, hours=1)
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert (answer.json()["set_aside"], answer.json()["oldest_seconds"]) == (1, 0.0)
