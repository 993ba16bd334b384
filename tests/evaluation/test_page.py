"""The page in a real browser: it fits a phone, shows its charts, and asks the network for nothing."""

from datetime import UTC, datetime

import pytest

from commplan import report

START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)


@pytest.mark.browser
@pytest.mark.parametrize("screen", [(390, "light"), (1200, "dark")])
def test_the_report_fits_its_screen_and_fetches_nothing(run, assess, tmp_path, browser, screen):
    width, scheme = screen
    for n in range(6):
        run.person(
            run.email(clicked_at=START if n % 2 else None),
            run.sms("not_needed"),
            run.email("excluded", reason="no_email"),
            segment="vip" if n < 2 else "new",
        )
    path = tmp_path / "report.html"
    path.write_text(report.to_html(assess(run)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("heading", level=1).inner_text() == "欢迎新客户 · Welcome"
    assert page.get_by_role("listitem").filter(has_text="activate").first.is_visible()
    heights = [picture.bounding_box()["height"] for picture in page.locator("figure svg.marks").all()]
    assert len(heights) == 2
    assert min(heights) > 100
    page.get_by_text("The books").click()
    assert page.get_by_role("rowheader", name="welcome").last.is_visible()
    assert requests == [path.as_uri()]
    assert complaints == []
    context.close()
