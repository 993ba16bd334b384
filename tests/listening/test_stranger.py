"""Whoever gets somebody else's mail: nothing goes there any more, and the owner is told, of nobody."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from commplan import campaign
from commplan.ids import TokenPurpose
from commplan.store.tables import suppression_changes
from tests.conftest import later
from tests.test_notice import hearing


@pytest.fixture
def sent(store, build):  # type: ignore[no-untyped-def]
    world = build(store, locales=["en", "zh"])
    for step_no in (1, 2):
        world.send(step_no=step_no)
    return world


def link(world, seq=1, step_no=1) -> str:  # type: ignore[no-untyped-def]
    return f"/w/{world.token(seq, step_no, TokenPurpose.STRANGER)}"


def test_the_address_gets_nothing_more_and_the_person_elsewhere_still_does(client, sent) -> None:
    assert "somebody may have given us your email address" in client.get(link(sent)).text
    assert sent.suppressed() == set()
    assert "Thank you" in client.post(link(sent)).text
    assert sent.suppressed() == {sent.email_suppressed(1, "all", "wrong_person")}
    assert sent.people_suppressed() == set()
    assert sent.row().opted_out_at is None
    client.post(link(sent, 2, 2))
    assert sent.sms_suppressed(2, "all", "wrong_person") in sent.suppressed()


def test_it_can_be_taken_back(client, sent) -> None:
    client.post(link(sent), data={"do": "disown"})
    assert 'value="own"' in client.get(link(sent)).text
    later(sent.store, minutes=1)
    assert "Taken back" in client.post(link(sent), data={"do": "own"}).text
    assert sent.suppressed() == set()
    assert 'value="disown"' in client.get(link(sent)).text


@pytest.mark.parametrize("purpose", [TokenPurpose.UNSUBSCRIBE, TokenPurpose.PREFERENCES, None])
def test_a_link_that_is_not_for_this_changes_nothing(client, sent, purpose) -> None:
    token = "A" * 22 if purpose is None else sent.token(1, 1, purpose)
    for answer in (client.get(f"/w/{token}"), client.post(f"/w/{token}")):
        assert answer.status_code == 404
        assert "<h1>" in answer.text
    assert sent.suppressed() == set()


@pytest.mark.parametrize("headers", [{}, {"Purpose": "prefetch"}, {"Sec-Purpose": "prefetch"}])
def test_looking_changes_nothing(client, sent, headers) -> None:
    for method in ("GET", "HEAD"):
        assert client.request(method, link(sent) + "?do=disown", headers=headers).status_code == 200
    with sent.store.read() as connection:
        assert connection.execute(select(func.count()).select_from(suppression_changes)).scalar_one() == 0


def test_the_owner_is_told_how_many_addresses_are_wrong_and_of_nobody(
    client, store, build, plan_text, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(store, plan_text=plan_text.replace("{crm: {}}", "{crm: {notify: env:CRM_NOTIFY}}"))
    world.send()
    with hearing() as (url, heard):
        monkeypatch.setenv("CRM_NOTIFY", url)
        for seq in (1, 2):
            client.post(link(world, seq))
        for _ in range(2):
            campaign.apply_receipts(store)
    (told,) = heard
    assert told["title"] == "SANDBOX: onboarding@1: an address is somebody else's"
    assert told["message"].startswith("2 people told us that they are not whom we mean.")
    assert not any(private in str(told) for private in ("p1", "p2", "c1", "c2", "person.example"))
