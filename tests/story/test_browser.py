"""What an owner of a goal sees: the evaluation in the Prefect UI, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.story, pytest.mark.long, pytest.mark.browser, pytest.mark.xdist_group("story")]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 1400})
    yield opened
    opened.close()


def _artifact(demo: Any) -> str:
    return next(word for word in demo.output.split() if "/artifacts/artifact/" in word)


def test_the_evaluation_in_the_ui_has_its_title_tables_and_pictures(demo: Any, page: Page) -> None:
    page.goto(_artifact(demo))
    expect(page.get_by_role("heading", name="Welcome new customers")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("SANDBOX", exact=False).first).to_be_visible()
    expect(page.get_by_role("heading", name="Goals")).to_be_visible()
    goals = page.get_by_role("table").first
    for goal in demo.evaluation["goals"]:
        row = goals.get_by_role("row").filter(has_text=goal["id"])
        expect(row).to_contain_text(goal["verdict"])
    pictures = page.locator("img[src^='data:image/svg+xml']")
    expect(pictures).to_have_count(2)
    for number in range(2):
        assert pictures.nth(number).evaluate("image => image.complete && image.naturalWidth > 300")


def test_the_run_page_shows_the_steps_by_name(demo: Any, page: Page) -> None:
    page.goto(next(word for word in demo.output.split() if "/runs/flow-run/" in word))
    page.get_by_text("Task Runs", exact=True).click()
    for name in ("welcome · email", "nudge · sms", "survey · email"):
        expect(page.get_by_text(name).first).to_be_visible(timeout=30_000)


def test_the_html_report_stands_alone(demo: Any, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{demo.last_line['report']}")
    expect(page.get_by_role("heading", name="Welcome new customers")).to_be_visible()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
