"""What every provider's way in is held to: the same nine posts, what each is answered, what is kept, and its effect.

Nothing that was refused leaves a trace: every table of the store is compared.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from commplan import tracking
from commplan.settings import Settings
from commplan.store.tables import inbox
from tests.contract.hooks import HOOKS, Hook, Post
from tests.listening.conftest import Signer, World
from tests.listening.record import record
from tests.listening.test_replies import DOMAIN


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hook of a running receiver, and a good post to it that has not been posted yet."""

    hook: Hook
    client: httpx.Client
    world: World
    signer: Signer
    good: Post

    def signed(self, post: Post, signer: Signer | None = None) -> Post:
        """Return a post with the headers that its provider would send."""
        return replace(post, headers=self.hook.sign(signer or self.signer, post))

    def sent(self, post: Post, *, in_chunks: bool = False) -> httpx.Response:
        content = iter([post.body]) if in_chunks else post.body
        return self.client.post(post.asked, content=content, headers=dict(post.headers))

    def refused(self, post: Post, status: int, **how: bool) -> None:
        """See that a post gets this answer, leaves no trace in any table, and that there is nothing to apply."""
        before = record(self.world.store)
        assert self.sent(post, **how).status_code == status
        assert tracking.apply_inbox(self.world.store).posts == 0
        assert record(self.world.store) == before

    def taken(self, post: Post, times: int = 1) -> None:
        """See that a post is answered, and kept byte for byte as often as it came."""
        assert self.sent(post).status_code == self.hook.answer
        with self.world.store.read() as connection:
            rows = connection.execute(select(inbox.c.kind, inbox.c.query, inbox.c.body)).all()
        kept = [(row.kind, json.loads(row.query), row.body) for row in rows]
        assert kept == [(self.hook.kind, self.hook.query(self.world), post.body)] * times

    def effect(self) -> object:
        return self.hook.effect(self.world)

    def record(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """Return everything the store holds but the posts themselves."""
        return record(self.world.store, without=["inbox"])


@pytest.fixture
def signed_settings(signed_settings: Settings, signer: Signer) -> Settings:
    """Settings by which mail is taken in, too."""
    mail = {"inbound_domain": DOMAIN, "inbound_keys": (signer.public_key,)}
    return signed_settings.model_copy(update={"email": signed_settings.email.model_copy(update=mail)})


@pytest.fixture(params=HOOKS, ids=str)
def case(request: pytest.FixtureRequest, client: httpx.Client, world: World, signer: Signer) -> Case:
    hook: Hook = request.param
    post = hook.post(world)
    assert hook.effect(world) != hook.after
    good = replace(post, headers=hook.sign(signer, post))
    return Case(hook=hook, client=client, world=world, signer=signer, good=good)


def test_a_good_post_is_kept_as_it_came_answered_and_then_applied(case: Case) -> None:
    before = case.record()
    case.taken(case.good)
    assert case.record() == before
    assert tracking.apply_inbox(case.world.store).posts == 1
    assert case.effect() == case.hook.after


def test_a_tampered_post_is_refused(case: Case) -> None:
    for post in case.hook.tampered(case.good):
        assert post != case.good
        case.refused(post, 403)


def test_a_post_signed_with_another_key_is_refused(case: Case) -> None:
    other = Signer()
    other.auth_token = "54321"
    case.refused(case.signed(case.good, other), 403)


def test_a_post_without_a_header_that_proves_it_is_refused(case: Case) -> None:
    headers = case.good.headers
    proofs = [name for name in headers if name.startswith("X-")]
    assert proofs
    for name in proofs:
        case.refused(replace(case.good, headers={other: headers[other] for other in headers if other != name}), 403)


def test_a_post_that_is_replayed_is_kept_each_time_and_counts_once(case: Case) -> None:
    case.taken(case.good)
    tracking.apply_inbox(case.world.store)
    once = case.record()
    for times in (2, 3):
        case.taken(case.good, times)
        assert tracking.apply_inbox(case.world.store).new == 0
        assert case.record() == once


def test_a_malformed_post_though_signed_is_not_kept(case: Case) -> None:
    for post in case.hook.malformed(case.good):
        case.refused(case.signed(post), 400)


def test_a_compressed_post_is_refused_whichever_of_its_bytes_are_signed(case: Case) -> None:
    compressed = replace(case.good, body=gzip.compress(case.good.body))
    for headers in (case.good.headers, case.signed(compressed).headers):
        case.refused(replace(compressed, headers={**headers, "Content-Encoding": "gzip"}), 415)


@pytest.mark.parametrize("in_chunks", [False, True], ids=["length told", "in chunks"])
def test_a_post_that_is_too_large_though_signed_is_refused(case: Case, in_chunks: bool) -> None:
    large = replace(case.good, body=case.good.body + b" " * case.hook.too_large)
    case.refused(case.signed(large), 413, in_chunks=in_chunks)


def test_a_post_that_is_not_utf8_gets_its_answer_and_costs_nobody_anything(case: Case) -> None:
    for post, status in case.hook.not_utf8(case.good):
        if status != case.hook.answer:
            case.refused(case.signed(post), status)
            continue
        case.taken(case.signed(post))
        tracking.apply_inbox(case.world.store)
        assert case.effect() == case.hook.after


def test_nothing_but_a_post_is_taken(case: Case) -> None:
    assert case.client.get(case.good.asked).status_code == 405
