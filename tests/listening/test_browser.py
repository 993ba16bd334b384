"""The pages in a real browser, with the keyboard alone, at a phone's width."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from commplan.ids import TokenPurpose
from commplan.store.tables import answers

pytestmark = pytest.mark.browser


@pytest.fixture(params=["light", "dark"])
def page(browser, request) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=request.param)
    opened = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda one: asked.append(one.url))
    opened.on("console", lambda one: complaints.append(one.text))
    yield opened
    here = opened.url.split("/", 3)[2]
    assert {url.split("/", 3)[2] for url in asked} == {here}
    assert complaints == []
    context.close()


@pytest.fixture
def site(settings, build, serve, tmp_path) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    from commplan.store import open_store

    store = open_store(settings)
    world = build(store, locales=["en", "zh-CN"])
    for step_no in (1, 3):
        world.send(step_no=step_no)
    with serve(store, settings) as client:
        yield world, str(client.base_url).rstrip("/")
    store.dispose()


def focused(page) -> str:  # type: ignore[no-untyped-def]
    return str(page.evaluate("(document.activeElement.innerText || document.activeElement.value || '').trim()"))


def fits(page) -> bool:  # type: ignore[no-untyped-def]
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize(
    ("seq", "words"),
    [
        (1, ("Unsubscribe", "You are unsubscribed", "Undo", "You are subscribed again")),
        (2, ("退订", "您已退订", "撤销退订", "您已恢复订阅")),
    ],
    ids=["en", "zh"],
)
def test_unsubscribing_and_taking_it_back_by_keyboard(page, site, seq, words) -> None:
    world, base = site
    stop, stopped, undo, back = words
    page.goto(f"{base}/u/{world.token(seq, 1, TokenPurpose.UNSUBSCRIBE)}")
    assert fits(page)
    assert world.suppressed() == set()
    page.keyboard.press("Tab")
    assert focused(page) == stop
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert page.get_by_role("heading").inner_text() == stopped
    assert focused(page) == stopped
    assert world.suppressed() == {world.email_suppressed(seq, "getting-started", "unsubscribed")}
    page.keyboard.press("Tab")
    assert focused(page) == undo
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=back).wait_for()
    assert world.suppressed() == set()
    assert fits(page)


@pytest.mark.parametrize(
    ("seq", "question", "thanks"),
    [(1, "How was your first week?", "Thank you."), (2, "您的第一周感觉如何？", "谢谢！")],
    ids=["en", "zh"],
)
def test_answering_a_survey_and_correcting_it_by_keyboard(page, site, seq, question, thanks) -> None:
    world, base = site

    def answered() -> list[tuple[int | None, str | None]]:
        with world.store.read() as connection:
            return [tuple(row) for row in connection.execute(select(answers.c.score, answers.c.text))]

    page.goto(f"{base}/s/{world.token(seq, 3, TokenPurpose.SURVEY)}?score=3")
    assert fits(page)
    assert page.get_by_role("group").get_by_role("radio").count() == 5
    assert page.get_by_role("group", name=question).is_visible()
    assert answered() == []
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("很好 & <fine>")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert page.get_by_role("status").inner_text().startswith(thanks)
    assert answered() == [(4, "很好 & <fine>")]
    for key in ("Tab", "ArrowRight", "Tab", "Tab", "Enter"):
        page.keyboard.press(key)
    page.locator("input[value='5']:checked").wait_for()
    assert answered() == [(5, "很好 & <fine>")]
    assert fits(page)
