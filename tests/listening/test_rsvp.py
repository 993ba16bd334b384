"""Invitations: one answer a person, which they can correct, and never more who come than there are places."""

from __future__ import annotations

import re
import threading

import pytest
from sqlalchemy import func, select, update

from commplan.evaluation import evaluate
from commplan.evaluation.reading import read_rate
from commplan.explain import explain
from commplan.ids import TokenPurpose
from commplan.ledger.run import plan_of
from commplan.metrics import measure
from commplan.plan import Goal
from commplan.pricing import read_prices
from commplan.report import to_markdown
from commplan.store.tables import answers, messages, receipts, rsvps, runs
from commplan.terms import MessageState, RsvpAnswer
from commplan.tracking import answer_invitation
from tests.conftest import later

EVENTS = """events:
  launch: {title: {en: The launch party, zh: 发布会}, places: 2, closes: 2026-12-24, open_for: P200D}
"""


@pytest.fixture
def plan(plan_text: str) -> str:
    """The plan of the other tests, whose welcome and survey invite to one event."""
    text = plan_text.replace("sequence:\n", EVENTS + "sequence:\n")
    text = text.replace("content: welcome}", "content: welcome, rsvp: launch}")
    return re.sub(r"content: survey,\n.*\n", "content: survey, rsvp: launch}\n", text)


@pytest.fixture
def sent(store, build, plan):  # type: ignore[no-untyped-def]
    world = build(store, people=5, plan_text=plan, locales=["en", "zh"])
    for step_no in (1, 2, 3):
        world.send(step_no=step_no)
    return world


def token(world, seq=1, step_no=1) -> str:  # type: ignore[no-untyped-def]
    return str(world.token(seq, step_no, TokenPurpose.RSVP))


def link(world, seq=1, step_no=1) -> str:  # type: ignore[no-untyped-def]
    return f"/r/{token(world, seq, step_no)}"


def said(world) -> dict[str, str]:  # type: ignore[no-untyped-def]
    with world.store.read() as connection:
        return {row.contact_id: row.answer for row in connection.execute(select(rsvps))}


def everything(world) -> list:  # type: ignore[no-untyped-def, type-arg]
    with world.store.read() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (rsvps, answers, receipts)
        ]
    return [*counts, said(world), *world.rows()]


def test_an_answer_is_kept_can_be_corrected_and_is_one_through_whichever_message(client, sent) -> None:
    page = client.post(link(sent), data={"answer": "yes"}).text
    assert "we look forward to seeing you" in page
    assert "You have a place." in page
    assert said(sent) == {"c1": "yes"}
    assert sent.row().answered_at == sent.store.clock.now()
    later(sent.store, hours=1)
    assert re.findall(r'value="(\w+)" checked', client.get(link(sent, 1, 3)).text) == ["yes"]
    client.post(link(sent, 1, 3), data={"answer": "no"})
    assert said(sent) == {"c1": "no"}


def test_who_comes_too_late_for_a_place_waits_and_takes_one_that_becomes_free(client, sent) -> None:
    assert "2 places are left." in client.get(link(sent)).text
    client.post(link(sent, 1), data={"answer": "yes"})
    assert "One place is left." in client.get(link(sent, 3)).text
    client.post(link(sent, 3), data={"answer": "yes"})
    assert "All places are taken." in client.get(link(sent, 4)).text
    assert "waiting list" in client.post(link(sent, 4), data={"answer": "yes"}).text
    assert said(sent) == {"c1": "yes", "c3": "yes", "c4": "waiting"}
    client.post(link(sent, 1), data={"answer": "yes"})
    assert said(sent)["c1"] == "yes"
    client.post(link(sent, 3), data={"answer": "maybe"})
    page = client.post(link(sent, 4), data={"answer": "yes"}).text
    assert "You have a place." in page
    assert said(sent) == {"c1": "yes", "c3": "maybe", "c4": "yes"}


def test_two_people_who_press_at_once_never_get_the_same_place(sent) -> None:
    together = threading.Barrier(5)
    failures: list[BaseException] = []

    def press(seq: int) -> None:
        try:
            together.wait()
            answer_invitation(sent.store, token(sent, seq), RsvpAnswer.YES)
        except BaseException as error:
            failures.append(error)

    people = [threading.Thread(target=press, args=(seq,)) for seq in range(1, 6)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert failures == []
    assert sorted(said(sent).values()) == ["waiting"] * 3 + ["yes"] * 2


@pytest.mark.parametrize("headers", [{}, {"Purpose": "prefetch"}, {"Sec-Purpose": "prefetch"}])
def test_looking_stores_nothing_even_with_an_answer_in_the_link(client, sent, headers) -> None:
    before = everything(sent)
    for method in ("GET", "HEAD"):
        answer = client.request(method, link(sent) + "?answer=maybe", headers=headers)
        assert answer.status_code == 200
    assert re.findall(r'value="(\w+)" checked', client.get(link(sent) + "?answer=maybe").text) == ["maybe"]
    assert everything(sent) == before


@pytest.mark.parametrize("form", [{}, {"answer": ""}, {"answer": "waiting"}, {"answer": "perhaps"}])
def test_what_is_no_answer_is_asked_for_again(client, sent, form) -> None:
    answer = client.post(link(sent), data=form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert said(sent) == {}


def test_after_the_last_day_a_kind_page_tells_what_is_left_to_do(client, sent) -> None:
    sent.store.clock = sent.store.clock.__class__(
        origin=sent.start.replace(year=2026, month=12, day=24, hour=23, minute=59), anchor=0.0, factor=1e-9
    )
    assert client.get(link(sent, 2)).status_code == 200
    later(sent.store, minutes=2)
    before = everything(sent)
    for answer in (client.get(link(sent, 2)), client.post(link(sent, 2), data={"answer": "yes"})):
        assert answer.status_code == 410
        assert "已经结束" in answer.text
        assert "选择您想收到的内容" in answer.text
    assert everything(sent) == before
    (path,) = re.findall(r'href="\.\.(/p/[^"?]+)\?', client.get(link(sent, 2)).text)
    assert client.get(path).status_code == 200


def test_an_invitation_expires_as_long_after_its_own_message_as_the_plan_says(client, store, build, plan) -> None:
    world = build(store, plan_text=plan.replace(", closes: 2026-12-24, open_for: P200D", ", open_for: P2D"))
    world.send()
    later(world.store, days=1, hours=22)
    world.send(step_no=3, at=world.store.clock.now())
    later(world.store, hours=2)
    assert client.get(link(world)).status_code == 410
    assert client.get(link(world, 1, 3)).status_code == 200


@pytest.mark.parametrize("which", ["forged", "for another purpose", "a step that invites to nothing", "cut off"])
def test_a_link_that_is_not_ours_changes_nothing(client, sent, which) -> None:
    bad = {
        "forged": "A" * 22,
        "for another purpose": sent.token(1, 1, TokenPurpose.SURVEY),
        "a step that invites to nothing": token(sent, 1, 2),
        "cut off": token(sent)[:-2],
    }[which]
    before = everything(sent)
    for answer in (client.get(f"/r/{bad}"), client.post(f"/r/{bad}", data={"answer": "yes"})):
        assert answer.status_code == 404
    assert everything(sent) == before


def test_goals_and_the_evaluation_count_people_by_their_last_answer(client, sent, store, settings) -> None:
    with store.write() as connection:
        connection.execute(update(runs).values(snapshot_at=sent.start))
        connection.execute(
            messages.update().where(messages.c.seq <= 4, messages.c.step_no == 1).values(state=MessageState.DELIVERED)
        )
    for seq, answer in ((1, "yes"), (2, "no"), (3, "yes"), (4, "yes")):
        client.post(link(sent, seq), data={"answer": answer})
    client.post(link(sent, 3, 3), data={"answer": "maybe"})
    with store.read() as connection:
        plan = plan_of(connection, sent.run_id)
        metrics = measure(connection, run_id=sent.run_id, plan=plan)
    prices = read_prices(settings.prices.read_text(encoding="utf-8"), "prices.yaml")
    (found,) = metrics.invited
    assert (found.invited, found.yes, found.no, found.maybe, found.waiting) == (4, 1, 1, 1, 1)
    assert found.open == 1
    goal = Goal.model_validate({"id": "come", "metric": "rsvp_yes", "target": "at least 30%"})
    reading = read_rate(goal, metrics, plan, now=store.clock.now())
    assert (reading.numerator, reading.denominator, reading.outside) == (1, 4, 1)
    document = evaluate(metrics, plan, prices, run_key="onboarding@1", now=store.clock.now(), sandbox=True)
    assert "| launch | 2 | 4 | 1 | 1 | 1 | 1 |" in to_markdown(document)
    told = explain(store, settings, contact="customers:c3")
    assert any(one.what == "answered the invitation to launch: maybe" for one in told.runs[0].decisions)
