"""What people say reaches the step's owner: listed for them, told in counts, and shown by a link that expires."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from commplan import archive, campaign, report
from commplan.errors import InputError
from commplan.explain import explain
from commplan.feedback import PAUSE, find, link_to, open_link, tell_owners, telling
from commplan.ids import TokenPurpose
from commplan.store.tables import answers, feedback_notices
from commplan.terms import Channel
from tests.campaign.conftest import PAIR, crowd
from tests.listening.conftest import PLAN, World, make_world, serving
from tests.listening.test_replies import mailed, reply_to
from tests.test_cli import ROOT
from tests.test_notice import hearing

NUDGE, SURVEY = 2, 3
TOLD = PLAN.replace("{crm: {}}", "{crm: {notify: env:CRM_NOTIFY}}")


def answer(world: World, seq: int, score: int | None, text: str | None = None, *, minutes: float = 0) -> None:
    at = world.store.clock.now() + timedelta(minutes=minutes)
    with world.store.write() as connection:
        connection.execute(
            insert(answers).values(
                run_id=world.run_id, step_no=SURVEY, seq=seq, score=score, text=text, at=at, changed_at=at
            )
        )


@pytest.fixture
def world(store) -> World:
    """A run of which everything went out to three people."""
    made = make_world(store, plan_text=TOLD)
    for step_no in (1, NUDGE, SURVEY):
        made.send(step_no=step_no)
    return made


def said(world: World, **wanted: Any) -> list[tuple[str, str, int | None, str | None]]:
    with world.store.read() as connection:
        return [(one.step, one.contact, one.score, one.text) for one in find(connection, world.run_id, **wanted)]


def test_words_and_low_scores_are_listed_newest_first_and_what_machines_say_is_not(world) -> None:
    world.text("Thank you", 1)
    mailed(world, "Absent", headers="Auto-Submitted: auto-replied")
    answer(world, 1, 5, minutes=1)
    answer(world, 2, 4, "Easy", minutes=2)
    answer(world, 3, 2, minutes=3)
    assert said(world) == [
        ("survey", "customers:c3", 2, None),
        ("survey", "customers:c2", 4, "Easy"),
        ("nudge", "customers:c1", None, "Thank you"),
    ]
    assert said(world, low=True) == [("survey", "customers:c3", 2, None)]
    assert said(world, step="nudge") == [("nudge", "customers:c1", None, "Thank you")]
    assert len(said(world, limit=2)) == 2
    with pytest.raises(InputError, match="welcome, nudge, survey"):
        said(world, step="nudges")


def test_each_scale_has_its_own_low_scores(store) -> None:
    world = make_world(store, people=8, plan_text=PLAN.replace("scale: csat", "scale: nps"))
    world.send(step_no=SURVEY)
    for seq, score in enumerate((0, 2, 3, 6, 7, 10), 1):
        answer(world, seq, score)
    assert sorted(score or 0 for _, _, score, _ in said(world, low=True)) == [0, 2, 3, 6]


def test_what_may_ask_us_to_stop_and_what_is_inferred_say_so(world) -> None:
    world.text("please stop it", 2)
    mailed(world, to="lost@reply.sender.example.com", sender=world.email(1))
    with world.store.read() as connection:
        items = find(connection, world.run_id)
    assert {(item.channel, item.objects, item.inferred) for item in items} == {
        (Channel.SMS, True, False),
        (Channel.EMAIL, False, True),
    }


def test_the_html_report_lists_them_for_its_owner_and_no_other_form_does(rehearse) -> None:
    here = rehearse(crowd(2))
    running = here.ready(PAIR)
    here.send_due(running)
    world = World(store=here.store, run_id=running.run.run_id, people=2, start=here.store.clock.now())
    mailed(world, "A very private <b>remark</b>", to=reply_to(world, 1), sender="other@person.example.com")
    judged = running.evaluate()
    path = archive.write_report(here.store, here.settings, judged)
    page = path.read_text(encoding="utf-8")
    assert "A very private &lt;b&gt;remark&lt;/b&gt;" in page
    assert "commplan explain letter@first --contact customers:1" in page
    assert "person.example.com" not in page
    assert path.stat().st_mode & 0o077 == 0
    # What goes to the Prefect UI, and what others compute with.
    for text in (report.to_markdown(judged), report.to_json(judged), report.to_csv(judged)):
        assert "private" not in text
        assert "customers:1" not in text
    found = explain(here.store, here.settings, contact="customers:1")
    told = [one.what for part in found.runs for message in part.messages for one in message.decisions]
    assert any(what.startswith("replied: A very private") for what in told)


def test_the_command_lists_them_for_a_person_and_for_a_program(rehearse) -> None:
    here = rehearse(crowd(2))
    running = here.ready(PAIR)
    here.send_due(running)
    world = World(store=here.store, run_id=running.run.run_id, people=2, start=here.store.clock.now())
    mailed(world, "It works", to=reply_to(world, 2))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "commplan", "feedback", *words],
            capture_output=True,
            check=False,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **here.environment()},
        )

    shown = command("letter@first")
    assert shown.returncode == 0, shown.stderr
    for words in (
        "SANDBOX: Feedback on letter@first: 1",
        "It works",
        "commplan explain letter@first --contact customers:2",
    ):
        assert words in shown.stdout
    (told,) = json.loads(command("letter@first", "--json").stdout)
    assert (told["contact"], told["text"], told["step"], told["channel"]) == (
        "customers:2",
        "It works",
        "welcome",
        "email",
    )
    assert json.loads(command("letter@first", "--low", "--json").stdout) == []
    wrong = command("letter@first", "--step", "welcom")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert command("letter@second").returncode == 2


def pass_hour(world: World) -> None:
    """Let the last notifications be as old as makes room for the next."""
    with world.store.write() as connection:
        connection.execute(
            update(feedback_notices).values(told_machine=feedback_notices.c.told_machine - PAUSE, lease_machine=None)
        )


def test_the_owner_is_told_counts_and_a_link_once_and_again_after_an_hour(world, settings) -> None:
    world.text("My number is +12025550199", 1)
    world.text("Thanks", 2)
    answer(world, 1, 1, "Bad")
    answer(world, 2, 5)
    with hearing() as (url, heard):
        environ = {"CRM_NOTIFY": url}
        assert tell_owners(world.store, settings, environ) == 2
        world.text("One more thing", 3)
        answer(world, 3, 2, minutes=5)
        assert tell_owners(world.store, settings, environ) == 0
        pass_hour(world)
        assert tell_owners(world.store, settings, environ) == 2
        pass_hour(world)
        assert tell_owners(world.store, settings, environ) == 0
    assert [told["title"] for told in heard] == [
        f"SANDBOX: onboarding@1: feedback on {step}" for step in ("nudge", "survey", "nudge", "survey")
    ]
    assert [told["message"].partition(".")[0] for told in heard] == [
        "2 replies",
        "1 comment, 1 low score",
        "1 reply",
        "1 low score",
    ]
    for told in heard:
        assert "for 72 hours: http://127.0.0.1:8025/f/" in told["message"]
        # The token of the link is random letters.
        words = re.sub(r"/f/[\w-]{22}", "", str(told))
        assert not any(private in words for private in ("555", "Thanks", "Bad", "c1", "customers"))


def test_high_scores_and_machines_are_no_news_and_are_looked_at_once(world, settings) -> None:
    answer(world, 1, 5)
    mailed(world, "Absent", headers="Auto-Submitted: auto-replied")
    with hearing() as (url, heard):
        assert tell_owners(world.store, settings, {"CRM_NOTIFY": url}) == 0
        with world.store.read() as connection:
            assert telling._steps(connection) == set()
        answer(world, 2, 2, minutes=5)
        assert tell_owners(world.store, settings, {"CRM_NOTIFY": url}) == 1
    assert [told["message"].partition(".")[0] for told in heard] == ["1 low score"]


def test_of_several_processes_one_tells(world, settings) -> None:
    world.text("Thank you", 1)
    told: list[int] = []
    together = threading.Barrier(4)

    def tell(url: str) -> None:
        together.wait()
        told.append(tell_owners(world.store, settings, {"CRM_NOTIFY": url}))

    with hearing() as (url, heard):
        at_it = [threading.Thread(target=tell, args=(url,)) for _ in range(4)]
        for thread in at_it:
            thread.start()
        for thread in at_it:
            thread.join()
    assert (sorted(told), len(heard)) == ([0, 0, 0, 1], 1)


def test_whom_nobody_could_tell_is_told_of_all_of_it_later(world, settings) -> None:
    world.text("Thank you", 1)
    assert tell_owners(world.store, settings, {}) == 0
    assert tell_owners(world.store, settings, {"CRM_NOTIFY": "json://127.0.0.1:1/"}) == 0
    world.text("Hello?", 2)
    with hearing() as (url, heard):
        # Somebody may still be telling.
        assert tell_owners(world.store, settings, {"CRM_NOTIFY": url}) == 0
        with world.store.write() as connection:
            connection.execute(update(feedback_notices).values(lease_machine=0.0))
        assert tell_owners(world.store, settings, {"CRM_NOTIFY": url}) == 1
    assert [told["message"].partition(".")[0] for told in heard] == ["2 replies"]


def test_a_plan_that_names_no_address_for_its_owner_leaves_no_trace(store, settings) -> None:
    world = make_world(store)
    world.send(step_no=NUDGE)
    world.text("Thank you", 1)
    assert tell_owners(store, settings, {}) == 0
    with store.read() as connection:
        assert connection.execute(select(func.count()).select_from(feedback_notices)).scalar_one() == 0


def test_a_run_in_progress_tells_of_it_when_it_gathers(rehearse, monkeypatch: pytest.MonkeyPatch) -> None:
    here = rehearse(crowd(1))
    with hearing() as (url, heard):
        monkeypatch.setenv("CRM_NOTIFY", url)
        running = here.ready(PAIR.replace("{crm: {}}", "{crm: {notify: env:CRM_NOTIFY}}"))
        here.send_due(running)
        world = World(store=here.store, run_id=running.run.run_id, people=1, start=here.store.clock.now())
        mailed(world, "It works", to=reply_to(world, 1))
        running.gather()
        campaign.tell_of_feedback(here.store, here.settings)
    assert [told["title"] for told in heard] == ["SANDBOX: letter@first: feedback on welcome"]


def test_the_link_shows_what_people_said_and_no_address_and_may_not_be_kept(world, settings) -> None:
    world.text("<script>alert(1)</script> Thank you", 1)
    mailed(world, "Where do I stop it?", sender="private@person.example.com")
    answer(world, 3, 2)
    with serving(world.store, settings) as client:
        path = link_to(settings, world.store.keyring, world.run_id).removeprefix(settings.public_url)
        page = client.get(path)
        assert page.status_code == 200
        for words in (
            "&lt;script&gt;",
            "Where do I stop it?",
            "May ask us to stop",
            "CSAT 2",
            "customers:c3",
            "SANDBOX",
        ):
            assert words in page.text
        assert not any(private in page.text for private in ("<script>", "person.example.com", "+1202"))
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-robots-tag"] == "noindex, nofollow"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert "大家说了什么" in client.get(path, headers={"Accept-Language": "zh-CN"}).text
        assert "大家说了什么" in client.get(f"{path}?lang=zh").text
        assert client.head(path).text == ""
        assert client.post(path, data={"a": "b"}).status_code == 405


def test_a_link_that_is_over_foreign_or_forged_shows_a_kind_page_and_nothing_of_the_run(world, settings) -> None:
    world.text("Thank you", 1)
    keyring = world.store.keyring
    over = link_to(settings.model_copy(update={"feedback_hours": -1.0}), keyring, world.run_id).rpartition("/")[2]
    good = link_to(settings, keyring, world.run_id).rpartition("/")[2]
    forged = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
    with serving(world.store, settings) as client:
        for token, status in (
            (over, 410),
            (forged, 404),
            (world.token(1, SURVEY, TokenPurpose.SURVEY), 404),
            ("x", 404),
        ):
            page = client.get(f"/f/{token}")
            assert page.status_code == status
            assert "Thank you" not in page.text
        assert "链接已过期" in client.get(f"/f/{over}?lang=zh").text
        assert client.get(f"/s/{good}").status_code == 404


def test_a_link_says_until_when_it_is_good(world, settings) -> None:
    short = settings.model_copy(update={"feedback_hours": 0.5})
    before = int(time.time())
    token = link_to(short, world.store.keyring, world.run_id).rpartition("/")[2]
    ref = world.store.keyring.open(TokenPurpose.FEEDBACK, token)
    assert ref is not None
    assert before + 1_800 <= ref.seq <= time.time() + 1_800
    link = open_link(world.store.keyring, token)
    assert link is not None
    assert (link.run_id, link.is_over) == (world.run_id, False)


@pytest.mark.parametrize("when", ["replied(welcome)", "not replied(welcome)"])
def test_a_step_that_asks_for_answers_by_mail_is_refused_where_nothing_takes_them(rehearse, when) -> None:
    here = rehearse(crowd(1))
    plan = PAIR.replace("content: nudge,", f"content: nudge, when: {when},")
    with pytest.raises(InputError, match=r"sequence\[1\]\.when: replied\(welcome\): answers by mail"):
        here.start(plan)
    email = here.settings.email.model_copy(update={"inbound_domain": "reply.sender.example.com"})
    here.start(plan, settings=here.settings.model_copy(update={"email": email}))


def test_whoever_answers_by_mail_gets_no_follow_up_on_silence_and_an_absence_note_changes_nothing(rehearse) -> None:
    here = rehearse(crowd(3))
    settings = here.settings.model_copy(
        update={"email": here.settings.email.model_copy(update={"inbound_domain": "reply.sender.example.com"})}
    )
    running = here.ready(PAIR.replace("content: nudge,", "content: nudge, when: replied(welcome),"), settings=settings)
    here.send_due(running)
    here.deliver_all()
    world = World(store=here.store, run_id=running.run.run_id, people=3, start=here.store.clock.now())
    mailed(world, "It works", to=reply_to(world, 1))
    mailed(world, "Absent", to=reply_to(world, 2), headers="Auto-Submitted: auto-replied")
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    assert {ref.seq: row.state for ref, row in here.rows().items() if ref.step_no == 2} == {
        1: "accepted",
        2: "not_needed",
        3: "not_needed",
    }
