"""SendGrid's suppression lists, over HTTP with its SDK: taken into ours, and our opt-outs put into its groups."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr
from sqlalchemy import select, update

from commplan import campaign, optout, pull, push
from commplan.channels.base import open_lists
from commplan.channels.lists_sendgrid import MOST
from commplan.clock import Clock
from commplan.consent import SCOPE_ALL, SCOPE_MARKETING, Contact
from commplan.ids import TokenPurpose
from commplan.pull import Pulled
from commplan.push import Backlog, Pushed
from commplan.sandbox import SandboxConfig, Switches, generate_key, running
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import group_entries, provider_lists, recipients, suppressions
from commplan.suppression import Entry, restore
from commplan.terms import Channel, Reason
from commplan.tracking import resubscribe, unsubscribe
from tests.conftest import NOON, PERSONAL, PLAIN
from tests.listening.conftest import World, make_world

KEY = "SG.of-the-tests"


@dataclass
class Account:
    """SendGrid's account, and what of ours knows it."""

    url: str
    store: Store
    settings: Settings
    world: World

    def put(self, name: str, email: str, *, after: float = 60.0) -> None:
        """Let another system on the account get an address on a list."""
        created = int((self.world.start + timedelta(seconds=after)).timestamp())
        self._post("/sandbox/lists", {"list": name, "email": email, "created": created}).raise_for_status()

    def group(self, name: str) -> int:
        body = {"name": name, "description": "of the tests"}
        return int(self._post("/v3/asm/groups", body).json()["id"])

    def opt_out_of(self, group_id: int, *emails: str) -> None:
        self._post(f"/v3/asm/groups/{group_id}/suppressions", {"recipient_emails": list(emails)}).raise_for_status()

    def members(self, group_id: int) -> set[str]:
        return set(self.get(f"/v3/asm/groups/{group_id}/suppressions").json())

    def get(self, path: str, **query: object) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", params=query, headers=self._headers, timeout=10, **PLAIN)

    def _post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=self._headers, timeout=10, **PLAIN)

    @property
    def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    def grouped(self, **groups: int) -> Account:
        email = self.settings.email.model_copy(update={"groups": groups})
        self.settings = self.settings.model_copy(update={"email": email})
        return self

    def exchange(self, *, force: bool = True) -> tuple[Pulled, Pushed]:
        return campaign.exchange_lists(self.store, self.settings, force=force)


@pytest.fixture
def account(store: Store, settings: Settings) -> Iterator[Callable[..., Account]]:
    """Open an account under calm switches plus those given; its clock is the store's."""
    with ExitStack() as stack:

        def account(people: int = 3, **switches: object) -> Account:
            config = SandboxConfig(
                api_key=KEY,
                account_sid="AC" + "1" * 32,
                auth_token="a token",
                webhook_private_key=generate_key()[0],
                public_url="http://127.0.0.1:9",
                clock=store.clock,
                switches=Switches.calm(**switches),
            )
            url = stack.enter_context(running(config))
            email = settings.email.model_copy(update={"base_url": url, "api_key": SecretStr(KEY)})
            return Account(
                url=url,
                store=store,
                settings=settings.model_copy(update={"email": email}),
                world=make_world(store, people=people),
            )

        yield account


def listed_since(store: Store, name: str) -> tuple[int, int]:
    with store.read() as connection:
        row = connection.execute(select(provider_lists).where(provider_lists.c.name == name)).one()
    return row.placed, row.strangers


def due_again(store: Store) -> None:
    with store.write() as connection:
        connection.execute(update(provider_lists).values(next_machine=0.0))


def test_what_every_list_says_is_taken_in_with_its_source_and_time_and_strangers_are_only_counted(account) -> None:
    here: Account = account(people=6)
    for name, seq in (("bounces", 1), ("invalid_emails", 2), ("spam_reports", 3), ("unsubscribes", 4), ("blocks", 5)):
        here.put(name, here.world.email(seq).upper())
        here.put(name, f"stranger{seq}@person.example.com")
    assert here.exchange()[0].failure is None
    world = here.world
    assert world.suppressed() == {
        world.email_suppressed(1, SCOPE_ALL, "hard_bounce"),
        world.email_suppressed(2, SCOPE_ALL, "hard_bounce"),
        world.email_suppressed(3, SCOPE_ALL, "spam_report"),
        world.email_suppressed(4, SCOPE_ALL, "unsubscribed"),
        world.email_suppressed(4, SCOPE_MARKETING, "unsubscribed"),
    }
    assert world.people_suppressed() == {
        ("email", 3, SCOPE_ALL, "spam_report"),
        ("all", 4, SCOPE_MARKETING, "unsubscribed"),
    }
    with here.store.read() as connection:
        told = connection.execute(select(suppressions.c.source, suppressions.c.at)).all()
    assert {row.at for row in told} == {world.start.replace(microsecond=0) + timedelta(seconds=60)}
    assert {row.source for row in told} == {
        f"SendGrid's list of {name}" for name in ("bounces", "invalid emails", "spam reports", "unsubscribes")
    }
    assert {listed_since(here.store, name) for name in pull.LISTS} == {(1, 1)}
    assert all(one.pulled_at is not None for one in pull.standing(here.store))


def test_a_second_reading_asks_only_for_what_is_new_and_changes_nothing_that_is_known(account) -> None:
    here: Account = account()
    here.put("bounces", here.world.email(1))
    assert here.exchange()[0] == Pulled(new=1)
    assert here.exchange(force=False)[0] == Pulled()
    here.put("bounces", here.world.email(2), after=61)
    # Not due yet.
    assert here.exchange(force=False)[0] == Pulled()
    due_again(here.store)
    assert here.exchange(force=False)[0] == Pulled(new=1)
    assert listed_since(here.store, "bounces") == (2, 0)
    with here.store.read() as connection:
        since = connection.execute(
            select(provider_lists.c.since).where(provider_lists.c.name == "bounces")
        ).scalar_one()
    assert since == int(here.world.start.timestamp()) + 61 - pull.OVERLAP


def test_a_list_longer_than_a_page_is_read_to_its_end_and_a_refused_reading_goes_on_where_it_was(account) -> None:
    here: Account = account(people=2)
    for number in range(2 * MOST + 1):
        here.put("bounces", f"s{number}@person.example.com", after=100 + number)
    here.put("bounces", here.world.email(1))

    class Stumbling:
        """Answers one page, and then refuses as SendGrid does when it is asked too often."""

        def __init__(self) -> None:
            self.lists, self.asked = open_lists(here.settings), 0

        def page(self, name: str, *, since: int, offset: int) -> Any:
            self.asked += 1
            if self.asked == 2:
                broken = here.settings.email.model_copy(update={"base_url": "http://127.0.0.1:9"})
                nobody = open_lists(here.settings.model_copy(update={"email": broken}))
                return nobody.page(name, since=since, offset=offset)
            return self.lists.page(name, since=since, offset=offset)

        def in_groups(self) -> Any:
            return self.lists.in_groups()

    lists = Stumbling()
    stopped = pull.pull(here.store, here.settings, lambda: lists)
    assert "the provider refuses connections" in str(stopped.failure)
    assert here.world.suppressed() == set()
    (bounces, *_) = pull.standing(here.store)
    assert (bounces.pulled_at, bounces.strangers) == (None, MOST)
    due_again(here.store)
    assert pull.pull(here.store, here.settings, lambda: lists) == Pulled(new=1)
    assert listed_since(here.store, "bounces") == (1, 2 * MOST + 1)
    assert here.world.suppressed() == {here.world.email_suppressed(1, SCOPE_ALL, "hard_bounce")}
    lists.lists.close()


def test_a_busy_account_is_left_alone_for_a_minute_and_the_doctor_is_told_why(account) -> None:
    here: Account = account(lists_busy_share=1.0)
    here.put("bounces", here.world.email(1))
    pulled, _ = here.exchange()
    assert str(pulled.failure).startswith("the provider's rate limit is reached")
    (bounces, *_) = pull.standing(here.store)
    assert (bounces.failure, bounces.pulled_at) == (pulled.failure, None)
    with here.store.read() as connection:
        assert [name for (name,) in connection.execute(select(provider_lists.c.name))] == ["bounces"]
    # Not asked again so soon, and the other lists wait for their turn.
    assert here.exchange(force=False)[0] != Pulled()


def test_an_opt_out_is_put_into_the_group_of_its_topic_once_and_taken_out_when_it_is_lifted(account) -> None:
    here: Account = account()
    topic, any_other = here.group("Getting started"), here.group("Everything else")
    here.grouped(**{"getting-started": topic, "any": any_other})
    world = here.world
    world.send()
    unsubscribe(here.store, world.token(1, purpose=TokenPurpose.UNSUBSCRIBE))
    optout.suppress_address(here.store, here.settings, world.email(2), by="kim")
    optout.suppress_address(here.store, here.settings, world.email(3), reason="unsubscribed", scope="news", by="kim")
    optout.suppress_address(here.store, here.settings, "stranger@person.example.com", by="kim")
    assert push.backlog(here.store, here.settings) == Backlog(joining=4)
    assert here.exchange()[1] == Pushed(joined=4)
    assert here.members(topic) == {world.email(1), world.email(2)}
    assert here.members(any_other) == {world.email(2), world.email(3)}
    assert here.get("/v3/suppression/unsubscribes").json() == []
    before = world.suppressed(), world.people_suppressed()
    for _ in range(2):
        assert here.exchange() == (Pulled(), Pushed())
    assert (world.suppressed(), world.people_suppressed()) == before

    # At the same instant the opt-out would win.
    here.store.clock = Clock(origin=NOON + timedelta(hours=1), anchor=time.time(), factor=1e-9)
    resubscribe(here.store, world.token(1, purpose=TokenPurpose.UNSUBSCRIBE))
    optout.unsuppress_address(here.store, here.settings, world.email(2), by="kim")
    assert here.exchange() == (Pulled(), Pushed(left=3))
    assert (here.members(topic), here.members(any_other)) == (set(), {world.email(3)})
    assert here.exchange() == (Pulled(), Pushed())
    assert ("all", 1, "getting-started", "unsubscribed") not in world.people_suppressed()
    # Once more, it is a new opt-out.
    optout.suppress_address(here.store, here.settings, world.email(2), by="kim")
    assert here.exchange()[1] == Pushed(joined=2)


def test_who_opted_out_by_text_stands_in_the_group_with_the_email_address_they_have_now(account) -> None:
    here: Account = account()
    group = here.group("Everything")
    here.grouped(any=group)
    world = here.world
    world.send([1], step_no=2)
    unsubscribe(here.store, world.token(1, 2, TokenPurpose.UNSUBSCRIBE))
    assert here.exchange()[1] == Pushed(joined=1)
    assert here.members(group) == {world.email(1)}


def test_who_is_in_a_group_without_us_has_opted_out_of_its_topic_or_of_marketing(account) -> None:
    here: Account = account()
    topic, foreign = here.group("News"), here.group("Shop")
    here.grouped(news=topic)
    world = here.world
    here.opt_out_of(topic, world.email(1), "stranger@person.example.com")
    here.opt_out_of(foreign, world.email(2))
    pulled, pushed = here.exchange()
    # It stands there already: nothing has to be put in.
    assert (pulled.new, pushed) == (2, Pushed())
    assert world.people_suppressed() == {("all", 1, "news", "unsubscribed"), ("all", 2, "marketing", "unsubscribed")}
    with here.store.read() as connection:
        assert connection.execute(select(group_entries.c.group_id)).scalars().all() == [topic]
    optout.unsuppress_address(here.store, here.settings, world.email(1), by="kim", note="asked for it again")
    assert here.exchange() == (Pulled(), Pushed(left=1))
    assert here.members(topic) == {"stranger@person.example.com"}
    # Somebody who opts out there anew is heard anew.
    assert world.people_suppressed() == {("all", 2, "marketing", "unsubscribed")}


@pytest.mark.parametrize(
    ("reason", "channel", "joins"),
    [
        ("unsubscribed", "all", True),
        ("unsubscribed", "email", True),
        ("declined", "email", True),
        ("declined", "sms", False),
        ("never_contact", "email", True),
        ("paused", "all", False),
        ("stop", "all", False),
        ("spam_report", "email", False),
        ("hard_bounce", "email", False),
        ("wrong_person", "email", False),
    ],
)
def test_only_what_people_asked_for_and_of_email_alone_is_put_into_groups(account, reason, channel, joins) -> None:
    here: Account = account()
    here.grouped(any=here.group("Everything"))
    world, at = here.world, here.world.start
    of_topic = Reason(reason) in (Reason.UNSUBSCRIBED, Reason.DECLINED)
    line = Entry(
        channel=channel,
        address_key=here.store.keyring.address_key(Channel.EMAIL, world.email(1)),
        contact=Contact(people="customers", contact_id="c1"),
        scope="getting-started" if of_topic else SCOPE_ALL,
        reason=Reason(reason),
        source="test",
        at=at,
        until=at + timedelta(days=30) if reason == "paused" else None,
    )
    with here.store.write() as connection:
        restore(connection, line)
    assert push.backlog(here.store, here.settings) == Backlog(joining=int(joins))


def test_a_group_that_is_gone_keeps_nobody_out_of_another_and_nobody_in_one(account) -> None:
    here: Account = account()
    first, second = here.group("Getting started"), here.group("Everything else")
    here.grouped(**{"getting-started": 99, "any": second})
    assert first < second
    world = here.world
    world.send()
    unsubscribe(here.store, world.token(1, purpose=TokenPurpose.UNSUBSCRIBE))
    optout.suppress_address(here.store, here.settings, world.email(3), reason="unsubscribed", scope="news", by="kim")
    pushed = here.exchange()[1]
    assert (pushed.joined, pushed.left) == (1, 0)
    assert str(pushed.failure).startswith("group 99: ")
    assert here.members(second) == {world.email(3)}
    assert push.backlog(here.store, here.settings) == Backlog(joining=1)


def test_many_opt_outs_are_put_in_a_request_for_each_five_hundred(account) -> None:
    here: Account = account(people=MOST + 20)
    group = here.group("Everything")
    here.grouped(any=group)
    with here.store.write() as connection:
        for seq in range(1, MOST + 21):
            connection.execute(
                suppressions.insert().values(
                    channel="email",
                    address_key=here.store.keyring.address_key("email", here.world.email(seq)),
                    scope="all",
                    reason="unsubscribed",
                    source="test",
                    at=here.world.start,
                )
            )
    assert here.exchange()[1] == Pushed(joined=MOST + 20)
    assert len(here.members(group)) == MOST + 20


def test_nothing_is_pulled_about_a_person_and_put_into_a_message(account) -> None:
    here: Account = account()
    here.put("bounces", here.world.email(1))
    here.exchange()
    broken = here.settings.email.model_copy(update={"api_key": SecretStr("SG.another")})
    here.settings = here.settings.model_copy(update={"email": broken})
    pulled, pushed = here.exchange()
    assert str(pulled.failure).startswith("SendGrid refuses the API key")
    assert PERSONAL.search(f"{pulled} {pushed} {pull.standing(here.store)}") is None


def test_somebody_whose_address_changed_is_found_by_the_one_a_message_went_to(account) -> None:
    here: Account = account()
    here.world.send([1])
    key = here.store.keyring.address_key(Channel.EMAIL, "moved@person.example.com")
    with here.store.write() as connection:
        connection.execute(
            update(recipients).where(recipients.c.seq == 1).values(email="moved@person.example.com", email_key=key)
        )
    here.put("spam_reports", here.world.email(1))
    assert here.exchange()[0].failure is None
    assert here.world.people_suppressed() == {("email", 1, "all", Reason.SPAM_REPORT)}


_SPECS = os.environ.get("COMMPLAN_SPECS")


@pytest.mark.skipif(not _SPECS, reason="COMMPLAN_SPECS names no folder with the providers' documents")
def test_the_sandbox_answers_in_the_shapes_of_the_document(account) -> None:
    here: Account = account()
    for name in (*pull.LISTS, "blocks"):
        here.put(name, here.world.email(1))
    group = here.group("News")
    here.opt_out_of(group, here.world.email(1))
    document = json.loads((Path(str(_SPECS)) / "sendgrid" / "tsg_suppressions_v3.json").read_text(encoding="utf-8"))
    paths = [*(f"/v3/suppression/{name}" for name in (*pull.LISTS, "blocks")), "/v3/asm/suppressions", "/v3/asm/groups"]
    for path in paths:
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        found = here.get(path).json()
        assert len(found) == 1
        Draft202012Validator({**schema, "components": document["components"]}).validate(found)
