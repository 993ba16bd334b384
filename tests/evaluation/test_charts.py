"""Figures are drawings whose words stay words, in any language, and nothing in them comes from elsewhere."""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from commplan import charts

_SVG = "{http://www.w3.org/2000/svg}"
START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)


def _words(svg):
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{_SVG}text")]


def _people(run):
    for n in range(8):
        clicked = {"clicked_at": START, "opened_at": START} if n % 2 else {}
        run.person(run.email(**clicked), run.sms("not_needed"), segment="vip" if n < 3 else "new")
    run.person(run.email("excluded", reason="no_email"))


def test_the_funnel_says_every_count_in_words(run, assess):
    _people(run)
    words = _words(charts.funnel(assess(run)))
    assert "How far people came" in words
    for label in ("audience", "reachable", "accepted", "delivered", "opened", "clicked", "activated"):
        assert label in words
    for count in ("9", "8 (89%)", "4 (44%)", "0 (0%)"):
        assert count in words
    for step in ("welcome (email)", "nudge (SMS)", "survey (email)"):
        assert step in words


def test_the_segment_chart_says_every_rate_in_words(run, assess):
    _people(run)
    words = _words(charts.by_segment(assess(run)))
    assert {"vip", "new", "respond", "33.3% (1 of 3)", "60.0% (3 of 5)"} <= set(words)
    assert "content-people" not in words


def test_chinese_titles_and_goals_are_readable_in_a_font_that_has_them(run, assess, make_plan):
    _people(run)
    goal = {"id": "respond", "purpose": "新客户第一周完成设置", "metric": "response_rate", "target": "at least 25%"}
    result = assess(run, plan=make_plan(goals=[goal], conversions={}))
    for svg in (charts.funnel(result), charts.by_segment(result)):
        assert any(re.search("[一-鿿]", word) for word in _words(svg))
        fonts = {node.get("font-family", "") for node in ET.fromstring(svg).iter(f"{_SVG}text")}
        assert all("Noto Sans CJK SC" in font and "Microsoft YaHei" in font for font in fonts)


def test_a_rehearsal_is_called_sandbox_in_every_figure(run, assess):
    _people(run)
    result = assess(run)
    real = result.model_copy(update={"sandbox": False})
    for draw in (charts.funnel, charts.by_segment):
        assert any("SANDBOX" in word for word in _words(draw(result)))
        assert not any("SANDBOX" in word for word in _words(draw(real)))


def test_figures_bring_their_ground_and_ask_nobody_for_anything(run, assess):
    _people(run)
    for draw in (charts.funnel, charts.by_segment):
        svg = draw(assess(run))
        run.occurrence += "+"
        first = ET.fromstring(svg)[0]
        assert (first.tag, first.get("fill")) == (f"{_SVG}rect", "#ffffff")
        assert not re.search(r"<(image|script|style|foreignObject)|(?<!xmlns:)href=|url\((?!#)", svg)


def test_words_of_a_plan_are_never_markup(run, assess, make_plan):
    _people(run)
    svg = charts.funnel(assess(run, plan=make_plan(title="<script>alert(1)</script> & co")))
    assert any("<script>alert(1)</script> & co" in word for word in _words(svg))
    assert "<script>" not in svg


@pytest.mark.parametrize("people", [0, 1])
def test_runs_without_figures_still_draw(run, assess, make_plan, people):
    for _ in range(people):
        run.person(run.email("excluded", reason="no_email"))
    result = assess(run)
    assert ET.fromstring(charts.funnel(result)).tag == f"{_SVG}svg"
    assert ET.fromstring(charts.by_segment(result)).tag == f"{_SVG}svg"
