"""Whoever keeps a post goes before whoever applies what is kept, and not for ever."""

from __future__ import annotations

import threading

from commplan import tracking
from commplan.terms import MessageState
from commplan.tracking import PostKind
from commplan.web import app
from commplan.web.priority import Priority
from tests.campaign.conftest import until
from tests.listening.conftest import serving


def test_nobody_is_waited_for_when_nobody_keeps_anything() -> None:
    priority = Priority()
    priority.give_way(3_600)
    with priority:
        pass
    priority.give_way(3_600)


def test_whoever_applies_waits_for_all_who_keep() -> None:
    priority, gone = Priority(), threading.Event()

    def apply() -> None:
        priority.give_way(3_600)
        gone.set()

    with priority:
        with priority:
            applier = threading.Thread(target=apply)
            applier.start()
            assert not gone.wait(0.05)
        assert not gone.wait(0.05)
    assert gone.wait(60)
    applier.join()


def test_posts_that_never_end_do_not_keep_others_from_being_applied() -> None:
    priority = Priority()
    with priority:
        priority.give_way(0.001)


def test_way_is_given_after_each_transaction_and_not_in_one(store) -> None:
    for _ in range(3):
        # Each is as large as a transaction may be.
        tracking.append(store, kind=PostKind.SENDGRID_EVENTS, query={}, body=b"[" + b" " * 512 * 1024 + b"]")
    left: list[int] = []

    def give_way(seconds: float) -> None:
        assert seconds > 0
        left.append(tracking.waiting(store))

    tracking.apply_inbox(store, give_way=give_way)
    assert left == [2, 1, 0]


def test_the_receiver_keeps_posts_and_clicks_first_and_gives_way_when_it_applies(
    world, signed_settings, signer, monkeypatch
) -> None:
    seen: list[str] = []

    class Watched(Priority):
        def __enter__(self) -> None:
            seen.append("keeps")
            super().__enter__()

        def give_way(self, seconds: float) -> None:
            seen.append("gives way")
            super().give_way(seconds)

    monkeypatch.setattr(app, "Priority", Watched)
    world.send(state=MessageState.SENDING)
    body = b"[]"
    with serving(world.store, signed_settings, applies=True) as client:
        assert client.post("/hooks/sendgrid/events", content=body, headers=signer.sendgrid(body)).status_code == 204
        until(lambda: "gives way" in seen, why="that what was kept is applied")
    assert seen == ["keeps", "gives way"]
