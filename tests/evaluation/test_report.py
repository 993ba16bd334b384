"""All forms of a report tell the same, escape what people wrote, and are the same bytes for the same ledger."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from commplan import report
from commplan.evaluation import Evaluation
from commplan.report.markdown import escape

START = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
DAY = timedelta(days=1)
_ROOT = Path(__file__).resolve().parents[2]

_WRITE_ALL = """
import sys
from hashlib import sha256
from commplan import report
from commplan.evaluation import Evaluation
found = Evaluation.model_validate_json(sys.stdin.read())
for write in (report.to_markdown, report.to_html, report.to_json, report.to_csv):
    print(sha256(write(found).encode()).hexdigest())
"""


def _people(run):
    for n in range(6):
        run.person(
            run.email(opened_at=START if n % 2 else None, clicked_at=START if n % 3 else None),
            run.sms("not_needed", reason="condition_false") if n % 2 else run.sms(),
            run.email(at=START + 5 * DAY, answered_at=START + 6 * DAY),
            segment="vip" if n < 2 else "new",
            locale="zh-CN" if n % 2 else None,
            score=n % 5 + 1,
            comment="很好 a very private remark",
        )
    run.person(*[row("excluded", reason="no_email") for row in (run.email, run.sms, run.email)])
    run.person(run.email("unknown"), run.sms("not_due"), run.email("not_due"))


@pytest.fixture
def found(run, assess) -> Evaluation:
    _people(run)
    return assess(run)


class _Page(HTMLParser):
    """Collects what a browser would show and what it would fetch."""

    def __init__(self, html):
        super().__init__()
        self.text, self.fetched, self.tags = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text.append(data)


def test_verdicts_come_first_and_sandbox_before_everything(found):
    markdown = report.to_markdown(found, charts=False)
    assert re.findall("^## (.*)$", markdown, re.M)[0] == "Goals"
    assert markdown.index("SANDBOX") < markdown.index("## Goals")
    page = " ".join(_Page(report.to_html(found, charts=False)).text)
    assert page.index("SANDBOX") < page.index("welcome")


def test_a_live_run_is_never_called_sandbox(found):
    live = found.model_copy(update={"sandbox": False})
    for text in (report.to_markdown(live), report.to_html(live)):
        assert "SANDBOX" not in text


def test_every_goal_its_figure_and_its_reason_are_in_both_forms(found):
    markdown = report.to_markdown(found, charts=False)
    page = " ".join(_Page(report.to_html(found, charts=False)).text)
    for goal in found.goals:
        assert escape(goal.why) in markdown
        for said in (goal.id, goal.target, goal.verdict.value, goal.why):
            assert said in page


def test_markdown_carries_its_charts_inside_itself(found):
    markdown = report.to_markdown(found)
    pictures = re.findall(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert len(pictures) == 2
    for picture in pictures:
        assert b64decode(picture).startswith(b"<svg")
    assert "](http" not in markdown


def test_every_table_row_has_as_many_cells_as_its_head(found):
    tables = re.findall(r"(?:^\|.*\|$\n?)+", report.to_markdown(found, charts=False), re.M)
    assert len(tables) >= 7
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_page_stands_alone(found):
    html = report.to_html(found)
    page = _Page(html)
    assert page.fetched == []
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert not re.search(r"url\(|@import", html)
    assert page.tags.count("svg") == 2
    assert '<html lang="en">' in html


def test_nothing_a_recipient_wrote_is_in_any_form(found):
    for write in (report.to_markdown, report.to_html, report.to_json, report.to_csv):
        assert "remark" not in write(found)
        assert "很好" not in write(found)


def test_what_a_planner_wrote_never_becomes_markup(run, assess, make_plan):
    _people(run)
    goal = {"id": "g", "purpose": "a|b <img src=x> `c` [d](http://e)", "metric": "reach", "target": "at least 1%"}
    nasty = assess(run, plan=make_plan(title="# <b>Tom & Jerry</b>", goals=[goal], conversions={}))
    page = _Page(report.to_html(nasty))
    assert "b" not in page.tags
    assert "img" not in page.tags
    markdown = report.to_markdown(nasty, charts=False)
    assert markdown.startswith(r"# \# \<b\>Tom \& Jerry\</b\>")
    assert r"a\|b \<img src=x\> \`c\` \[d\](http://e)" in markdown


def test_json_is_the_document_with_its_keys_in_order(found):
    text = report.to_json(found)
    assert Evaluation.model_validate_json(text) == found
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_csv_has_a_row_for_each_step_channel_segment_and_locale_and_adds_up(found):
    rows = list(csv.DictReader(io.StringIO(report.to_csv(found), newline="")))
    keys = [(row["step"], row["channel"], row["segment"], row["locale"]) for row in rows]
    assert len(keys) == len(set(keys)) == len(found.breakdown)
    for step in found.steps:
        mine = [row for row in rows if row["step"] == step.step]
        assert sum(int(row["messages"]) for row in mine) == found.audience
        assert sum(int(row["delivered"]) for row in mine) == step.counts.delivered


def test_books_that_do_not_balance_are_not_folded_away(run, assess):
    _people(run)
    run.rows.pop()
    markdown = report.to_markdown(assess(run), charts=False)
    assert "## The books" in markdown


def test_an_empty_run_can_be_reported(run, assess):
    empty = assess(run)
    assert "Nothing was sent" in report.to_markdown(empty)
    assert "Nothing was sent" in report.to_html(empty)
    assert report.to_csv(empty).count("\r\n") == 1


def test_the_same_evaluation_is_the_same_bytes_in_every_process(found):
    def written(seed):
        return subprocess.run(
            [sys.executable, "-c", _WRITE_ALL],
            input=found.model_dump_json(),
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": seed, "LANG": "C.UTF-8"},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    first = written("1")
    assert len(set(first)) == 4
    assert written("2") == first
