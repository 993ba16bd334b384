"""Whoever keeps a post goes before whoever applies what is kept, and not for ever."""

from __future__ import annotations

import threading

from commplan.web.priority import Priority


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
