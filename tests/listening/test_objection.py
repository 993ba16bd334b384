"""Texts that may ask us to stop: the plan's owner is told how many there are, and of nobody."""

from __future__ import annotations

import pytest

from commplan import campaign
from tests.test_notice import hearing


def test_the_owner_is_told_of_each_text_that_may_ask_us_to_stop_once_and_of_no_person(
    store, build, plan_text, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(store, plan_text=plan_text.replace("{crm: {}}", "{crm: {notify: env:CRM_NOTIFY}}"))
    world.send(step_no=2)
    with hearing() as (url, heard):
        monkeypatch.setenv("CRM_NOTIFY", url)
        world.text("please STOP sending me these", 1)
        world.text("unsubscribe me please", 2)
        world.text("thank you", 3)
        for _ in range(2):
            campaign.apply_receipts(store)
        world.text("stop it now", 3)
        campaign.apply_receipts(store)
    assert [told["title"] for told in heard] == ["SANDBOX: onboarding@1: a reply may ask us to stop"] * 2
    assert [told["message"].split(" wrote")[0] for told in heard] == ["2 people", "1 person"]
    for told in heard:
        assert not any(private in str(told) for private in ("555", "sending", "c1", "c2"))
