"""Whatever is posted to the receiver, it answers, keeps nothing that was not signed, stays small, and tells of nobody.

Bodies are made up, or are a provider's own with something changed; signed, or not, or wrongly; to a receiver in a
process of its own, which applies what it keeps meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from commplan import tracking
from commplan.receipts import mail
from commplan.store import Store
from commplan.store.tables import inbox
from tests.conftest import PERSONAL, PLAIN
from tests.contract.hooks import HOOKS, Hook, Post
from tests.listening.conftest import Signer, make_world
from tests.listening.receiver import Receiver, eventually

#: Posts of one example: they cost less than an example.
_TOGETHER = 25
#: What the receiver may grow by after the first fifth of all posts, in MB: its caches are still filling.
_GROWTH = 16.0

_BYTES = st.binary(max_size=300)
_TEXTS = st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


@st.composite
def _mutated(draw: st.DrawFn, body: bytes) -> bytes:
    """Return a body with something cut out, put in, or turned into something else."""
    first = draw(st.integers(0, len(body)))
    last = draw(st.integers(first, min(len(body), first + 40)))
    return body[:first] + draw(_BYTES | _TEXTS | st.just(b"")) + body[last:]


@dataclass(frozen=True, kw_only=True)
class Try:
    """A post, and whether whoever has the key signed it just as it is."""

    hook: Hook
    post: Post
    is_signed: bool


@st.composite
def _tries(draw: st.DrawFn, good: list[tuple[Hook, Post]], signer: Signer) -> Try:
    """Return something to post; what its headers say is right, wrong, or not there."""
    hook, post = draw(st.sampled_from(good))
    made = replace(post, body=draw(st.just(post.body) | _mutated(post.body) | _JSON | _TEXTS | _BYTES))
    match how := draw(st.sampled_from(["signed", "signed", "before", "by a stranger", "broken", "not at all"])):
        case "signed":
            headers = hook.sign(signer, made)
        case "before":
            headers = dict(post.headers)
        case "by a stranger":
            headers = hook.sign(_STRANGER, made)
        case "broken":
            headers = dict.fromkeys(post.headers, draw(_TOKENS))
        case _:
            headers = {}
    # Twilio signs what a form says: one that says the same in other bytes is signed, too.
    is_signed = how == "signed" or (
        how == "before" and (made.body == post.body or hook.sign(signer, made) == post.headers)
    )
    return Try(hook=hook, post=replace(made, headers=headers), is_signed=is_signed)


_TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
_STRANGER = Signer()
_STRANGER.auth_token = "of somebody else"


class Fuzz:
    """A receiver in a process of its own, and what it was told."""

    def __init__(self, store: Store, receiver: Receiver, signer: Signer, client: httpx.Client) -> None:
        self.receiver, self.signer = receiver, signer
        self.good = [(hook, hook.post(make_world(store, occurrence=hook.kind))) for hook in HOOKS]
        self.good = [(hook, replace(post, headers=hook.sign(signer, post))) for hook, post in self.good]
        self._as_made = [(hook, post.body) for hook, post in self.good]
        #: Posts that were answered with 2xx, and how often each answer was given.
        self.taken: Counter[tuple[str, bytes]] = Counter()
        self.answers: Counter[int] = Counter()
        self._client = client

    def post(self, one: Try) -> None:
        post = one.post
        answer = self._client.post(post.asked, content=post.body, headers=dict(post.headers))
        self.answers[answer.status_code] += 1
        # What Twilio signs is a form; of bytes that are none there is nothing that it could have signed.
        expected = {one.hook.answer, 400, 403} if one.is_signed else {403}
        if one.is_signed and (one.hook, post.body) in self._as_made:
            expected = {one.hook.answer}
        assert answer.status_code in expected, one.hook.kind
        if answer.is_success:
            # A mail is kept as its parts that are no files, whatever stands between them.
            body = mail.strip_files(post.body) if one.hook.kind == "sendgrid.inbound" else post.body
            self.taken[one.hook.kind, body] += 1

    def size(self) -> float:
        """Return the memory of the receiver's process, in MB."""
        statm = Path(f"/proc/{self.receiver.process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.fixture
def fuzz(on_disk: Store, receiver: Receiver, signer: Signer) -> Iterator[Fuzz]:
    receiver.start()
    with httpx.Client(base_url=receiver.url, timeout=60, **PLAIN) as client:
        yield Fuzz(on_disk, receiver, signer, client)


def _run(fuzz: Fuzz, posts: int) -> None:
    """Post so many made-up posts."""

    @settings(
        max_examples=posts // _TOGETHER,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(_tries(fuzz.good, fuzz.signer), min_size=_TOGETHER, max_size=_TOGETHER))
    def post_all(tries: list[Try]) -> None:
        for one in tries:
            fuzz.post(one)

    post_all()


@pytest.mark.parametrize(
    "posts",
    [2_000, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(7_200)])],
)
def test_whatever_is_posted_is_answered_and_nothing_is_kept_that_was_not_signed(fuzz, on_disk, posts) -> None:
    _run(fuzz, posts // 5)
    warm = fuzz.size()
    _run(fuzz, posts - posts // 5)
    eventually(lambda: tracking.waiting(on_disk) == 0, seconds=600)
    grown = fuzz.size() - warm
    code, told = fuzz.receiver.end(signal.SIGTERM)
    print(f"{dict(fuzz.answers)}, {warm:.1f} MB and {grown:.1f} more")  # noqa: T201
    assert code == 0
    assert fuzz.answers.total() >= posts
    assert {400, 403, 204, 200} <= set(fuzz.answers)
    assert grown < _GROWTH
    with on_disk.read() as connection:
        kept = Counter((row.kind, row.body) for row in connection.execute(select(inbox.c.kind, inbox.c.body)))
    assert kept == fuzz.taken
    assert "Traceback" not in told
    assert PERSONAL.search(told) is None
    assert not any(word in told for _, post in fuzz.good for word in re.findall(r"[\w-]{22}(?=&|\")", post.asked))
