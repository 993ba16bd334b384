"""Rendering a run: everybody's every message is frozen before the first goes out, or nothing is."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select, text

from commplan.errors import InputError, StoreError
from commplan.ledger.run import list_runs
from commplan.store.tables import message_values, skeletons
from tests.campaign.conftest import PAIR, PLAN, Customer, crowd


def spoil(here, plan: str, file: str, text: str):
    """Start a run whose template `file` reads `text`."""
    path = here.write(plan)
    (path.parent / file).write_text(text, encoding="utf-8")
    running = here.start_file(path)
    running.resolve_audience()
    return running


def test_a_template_that_fails_for_some_stops_the_run_before_anything_is_sent_and_counts_them(rehearse):
    people = [*crowd(3), Customer(name="zero", value=0), Customer(name="rich", value=500)]
    here = rehearse(people)
    running = spoil(here, PAIR, "nudge.sms.en.txt.j2", "Hello\n{{ 1 // lifetime_value }} {{ first_name }}")
    with pytest.raises(InputError) as caught:
        running.render()
    (finding,) = caught.value.findings
    # Nobody without a number is rendered a text for; of the others only those whose value is 0 are hit.
    assert finding.place == "nudge.sms.en.txt.j2:2"
    assert "(3 of 5 people)" in finding.rule
    assert (here.rows(), here.truth(), list_runs(here.store)) == ({}, [], [])


def test_every_fault_of_every_template_is_told_at_once(rehearse):
    here = rehearse([*crowd(2), Customer(name="chinese", lang="zh-CN", mobile="+8613800138001")])
    path = here.write(PAIR)
    for file in ("nudge.sms.en.txt.j2", "nudge.sms.zh.txt.j2"):
        (path.parent / file).write_text("{{ setup_url }} {{ nickname }}", encoding="utf-8")
    running = here.start_file(path)
    running.resolve_audience()
    with pytest.raises(InputError) as caught:
        running.render()
    assert [(finding.place, finding.rule.partition("(")[2]) for finding in caught.value.findings] == [
        ("nudge.sms.en.txt.j2:1", "2 of 3 people)"),
        ("nudge.sms.zh.txt.j2:1", "1 of 3 people)"),
    ]


def test_the_key_of_a_run_with_a_bad_template_works_once_the_template_is_mended(rehearse):
    here = rehearse(crowd(2))
    good = (here.write(PAIR).parent / "nudge.sms.en.txt.j2").read_text()
    with pytest.raises(InputError):
        spoil(here, PAIR, "nudge.sms.en.txt.j2", "{{ nickname }}").render()
    mended = spoil(here, PAIR, "nudge.sms.en.txt.j2", good)
    assert mended.render() == 2
    here.send_due(mended)
    assert len(here.truth()) == 2
    here.require_balance(mended)


def test_an_empty_audience_is_a_run_like_any_other(rehearse):
    here = rehearse([])
    running = here.ready()
    assert running.next_due() is None
    judged = running.evaluate()
    assert (judged.audience, judged.balanced, running.state) == (0, True, "finished")
    here.require_balance(running)


def test_people_who_share_a_text_share_a_skeleton_and_differ_in_their_values(rehearse):
    here = rehearse([*crowd(20), Customer(name="chinese", lang="zh-TW"), Customer(name="rich", value=2_000)])
    here.ready(PLAN)
    with here.store.read() as connection:
        welcomes = connection.execute(
            select(skeletons.c.content, skeletons.c.locale)
            .where(skeletons.c.channel == "email", skeletons.c.content != "survey")
            .order_by(skeletons.c.content, skeletons.c.locale)
        ).all()
        values = (
            connection.execute(select(message_values.c.slot_values).where(message_values.c.step_no == 1))
            .scalars()
            .all()
        )
    assert [tuple(row) for row in welcomes] == [("welcome", "en"), ("welcome", "zh"), ("welcome-vip", "en")]
    assert len(set(values)) == 22
    assert any("Person7" in value for text in values for value in json.loads(text))


def test_a_segment_may_be_left_out_of_a_step_or_take_another_channel(rehearse):
    plan = PLAN.replace(
        "content: welcome, by_segment: {vip: {content: welcome-vip}}",
        "content: welcome, by_segment: {vip: {channel: sms, content: nudge}}",
    ).replace("window: 09:00-18:00,", "window: 09:00-18:00, by_segment: {vip: {skip: true}},")
    here = rehearse([Customer(name="rich", value=2_000, mobile="+8613800138001"), *crowd(1)])
    running = here.ready(plan)
    here.send_due(running)
    assert {one["to"]: one["channel"] for one in here.truth()} == {
        "+8613800138001": "sms",
        "person1@person.example.com": "email",
    }
    assert here.states(running)["rich"][2:] == ["excluded: skipped_segment", "not_needed: earlier_step_not_sent"]
    here.require_balance(running)


def test_nothing_is_frozen_while_the_suppression_list_cannot_be_read(rehearse):
    here = rehearse(crowd(2))
    running = here.start(PAIR)
    running.resolve_audience()
    with here.store.write() as connection:
        connection.execute(text("ALTER TABLE suppressions RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        running.render()
    assert (here.rows(), here.truth()) == ({}, [])
    with here.store.write() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO suppressions"))
    assert here.start(PAIR).render() == 2
