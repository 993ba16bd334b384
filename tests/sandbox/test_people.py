"""What simulated people do: always the same for the same seed, by really visiting pages."""

from __future__ import annotations

import sqlite3
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.sandbox import crm
from commplan.sandbox.browser import Form, fill
from commplan.sandbox.dice import Dice
from commplan.sandbox.people import Arrival, Deed, Person
from commplan.terms import Channel

NOBODY = "01234567890"
PAGE_OF_UNDOING = '<form method="post"><input type="hidden" name="do" value="resubscribe"><button>Undo</button></form>'


def onboarding(sandbox, receiver, *people, survey=False):
    """Return a mail with a page, a survey when asked for, an unsubscribe link and the one-click headers."""
    body = sandbox.mail(*people)
    links = [f"{receiver.url}/u/%t%"]
    links += [f"{receiver.url}/s/%t%?score={score}" for score in range(1, 6)] if survey else [f"{receiver.url}/x/%t%"]
    body["content"][1]["value"] = "".join(f'<a href="{link}">x</a>' for link in links)
    for number, personalization in enumerate(body["personalizations"]):
        personalization["substitutions"] = {"%t%": f"t{number}"}
        personalization["headers"] = {
            "List-Unsubscribe": f"<mailto:u@sender.example.com>, <{receiver.url}/u/t{number}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    return body


def test_a_click_opens_the_page_and_reports_it_and_unsubscribes_nobody(start, receiver):
    sandbox = start()
    sandbox.post(onboarding(sandbox, receiver, "click@person.example.com"))
    (truth,) = sandbox.settle()
    assert truth["clicked"]
    assert [request.path for request in receiver.to("/x/", "GET")] == ["/x/t0"]
    assert [event["url"] for event in receiver.events("click")] == [f"{receiver.url}/x/t0"]
    assert receiver.to("/u/", "GET") == receiver.to("/u/") == []


def test_untracked_links_and_switched_off_tracking_report_nothing(start, receiver):
    sandbox = start()
    body = onboarding(sandbox, receiver, "click@person.example.com")
    body["tracking_settings"] = {"click_tracking": {"enable": False}, "open_tracking": {"enable": False}}
    sandbox.post(body)
    (truth,) = sandbox.settle()
    assert (truth["visited"], truth["clicked"]) == (True, False)
    assert receiver.to("/x/", "GET")
    assert receiver.events("click") == receiver.events("open") == []


def test_links_elsewhere_are_never_followed(start, receiver):
    sandbox = start()
    body = sandbox.mail("click@person.example.com")
    other = receiver.url.replace("127.0.0.1", "localhost")
    body["content"][1]["value"] = f'<a href="{other}/x/1">x</a>'
    sandbox.post(body)
    sandbox.settle()
    assert [request.method for request in receiver.requests] == ["POST"] * len(receiver.requests)


def test_unsubscribing_opens_the_page_and_sends_its_form(start, receiver):
    sandbox = start()
    sandbox.post(onboarding(sandbox, receiver, "unsubscribe@person.example.com"))
    (truth,) = sandbox.settle()
    assert truth["unsubscribed"]
    assert [request.path for request in receiver.to("/u/", "GET")] == ["/u/t0"]
    (post,) = receiver.to("/u/")
    assert (post.path, post.form) == ("/u/t0?lang=en", {"do": "unsubscribe"})
    assert receiver.events("unsubscribe") == []


def test_a_scanner_opens_every_link_and_unsubscribes_nobody(start, receiver):
    sandbox = start(scanner_clicks=True)
    sandbox.post(onboarding(sandbox, receiver, "scanner@person.example.com"))
    (truth,) = sandbox.settle()
    assert (truth["scanned"], truth["unsubscribed"]) == (True, False)
    assert {(request.method, request.path) for request in receiver.requests if request.path[1] in "ux"} == {
        ("HEAD", "/u/t0"), ("GET", "/u/t0"), ("HEAD", "/x/t0"), ("GET", "/x/t0"),
    }  # fmt: skip
    assert len(receiver.events("click")) == 2


@pytest.mark.parametrize(("share", "agent", "latest"), [(0.0, "Barracuda Sentinel (EE)", 20), (1.0, "Mozilla/5.0", 1)])
def test_a_scanner_clicks_every_link_at_once_under_its_own_name_or_a_browsers(start, receiver, share, agent, latest):
    sandbox = start(scanner_clicks=True, disguised_share=share)
    sandbox.post(onboarding(sandbox, receiver, "scanner@person.example.com"))
    (truth,) = sandbox.settle()
    assert (truth["clicked"], truth["machine_clicked"]) == (False, True)
    one, other = receiver.events("click")
    (delivered,) = receiver.events("delivered")
    assert one["timestamp"] == other["timestamp"] <= delivered["timestamp"] + latest + 1
    assert one["url"] != other["url"]
    assert one["useragent"].startswith(agent)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bounce_after_the_delivery_may_come_without_ids(start, receiver, share):
    sandbox = start(idless_share=share)
    sandbox.post(onboarding(sandbox, receiver, "return@person.example.com"))
    (truth,) = sandbox.settle()
    assert (truth["delivered"], truth["bounced"]) == (True, True)
    (bounce,) = receiver.events("bounce")
    assert bounce["email"] == "return@person.example.com"
    told = {"sg_message_id", "smtp-id", *sandbox.mail("x@person.example.com")["personalizations"][0]["custom_args"]}
    assert bounce.keys() & told == (set() if share else told)


def test_a_survey_is_answered_by_its_form_with_the_score_of_the_link(start, receiver):
    sandbox = start()
    sandbox.post(onboarding(sandbox, receiver, "answer@person.example.com", survey=True))
    (truth,) = sandbox.settle()
    assert truth["answered"]
    (click,) = receiver.events("click")
    (post,) = receiver.to("/s/")
    assert post.form["score"] == str(truth["score"])
    assert click["url"].endswith(f"?score={truth['score']}")
    assert set(post.form) == {"score", "text"}


def test_somebody_whom_a_page_failed_comes_back(start, receiver):
    sandbox = start()
    receiver.refuse, receiver.refuse_at = 1, "/s/"
    sandbox.post(onboarding(sandbox, receiver, "answer@person.example.com", survey=True))
    (truth,) = sandbox.settle()
    assert truth["answered"]
    first, second = receiver.to("/s/")
    assert first.form == second.form


def test_an_opt_out_that_was_done_before_is_not_undone(start, receiver):
    sandbox = start()
    receiver.pages["u"] = PAGE_OF_UNDOING
    sandbox.post(onboarding(sandbox, receiver, "unsubscribe@person.example.com"))
    (truth,) = sandbox.settle()
    assert truth["unsubscribed"]
    assert receiver.to("/u/") == []


def test_setting_up_writes_the_plan_time_into_the_sample_crm(start, receiver, tmp_path):
    sandbox = start()
    crm.create(tmp_path / "crm.sqlite", contacts=3, seed=1, now=datetime(2026, 12, 1).astimezone(), site=sandbox.url)
    with sqlite3.connect(tmp_path / "crm.sqlite") as connection:
        connection.execute("UPDATE customers SET activated_at = NULL")
    connection.close()
    body = sandbox.mail("convert@person.example.com", "convert.2@person.example.com")
    body["content"][1]["value"] = f'<a href="{sandbox.url}/site/setup/%c%">x</a>'
    body["personalizations"][0]["substitutions"] = {"%c%": "2"}
    body["personalizations"][1]["substitutions"] = {"%c%": NOBODY}
    sandbox.post(body)
    truth = sandbox.settle()
    assert [message["converted"] for message in truth] == [True, False]
    connection = sqlite3.connect(tmp_path / "crm.sqlite")
    rows = dict(connection.execute("SELECT customer_id, activated_at FROM customers").fetchall())
    connection.close()
    assert (rows[1], rows[3]) == (None, None)
    local = datetime.fromisoformat(truth[0]["times"]["converted"]) + timedelta(hours=8)
    assert abs(datetime.fromisoformat(rows[2] + "+00:00") - local) < timedelta(hours=12)
    assert sandbox.summary()["visits_failed"] == 1


def test_replies_are_posted_in_the_language_of_the_message(start, receiver):
    sandbox = start(people={"+8613800138000": "reply", "+12025550123": "reply"})
    sandbox.text(To="+8613800138000", Body="您好")
    sandbox.text(To="+12025550123", Body="hello")
    truth = sandbox.settle()
    assert [message["replied"] for message in truth] == [True, True]
    said = {post.form["From"]: post.form["Body"] for post in receiver.to("/hooks/twilio/inbound")}
    assert said["+8613800138000"][0] > "\u3400"
    assert said["+12025550123"].isascii()


def test_the_same_seed_gives_the_same_people_in_any_order_of_arrival(start, receiver):
    people = [f"person{number}@person.example.com" for number in range(120)]

    def fates(order, seed):
        sandbox = start(settings={"seed": seed})
        for part in (order[:50], order[50:]):
            sandbox.post(onboarding(sandbox, receiver, *part))
        return {
            message["to"]: {name for name, value in message.items() if value is True} for message in sandbox.settle()
        }

    first = fates(people, 1)
    assert fates(people[::-1], 1) == first
    assert fates(people, 2) != first


def test_behaviour_is_in_the_proportions_that_the_readme_gives():
    arrivals, opens, clicks, leaves, scores = Counter(), 0, 0, 0, []
    for number in range(5_000):
        person = Person(3, Channel.EMAIL, f"person{number}@person.example.com", {})
        arrivals[person.arrival(1)] += 1
        deeds = {act.deed for act in person.email_acts(1, asks=False, invites=True)}
        opens += Deed.OPEN in deeds
        clicks += Deed.CLICK in deeds
        leaves += bool(deeds & {Deed.UNSUBSCRIBE, Deed.ONE_CLICK})
        scores.append(1 + int(person.pleased * 5))
    assert 0.97 < (arrivals[Arrival.DELIVERED] + arrivals[Arrival.DEFERRED]) / 5_000 < 0.99
    assert 0.52 < opens / 5_000 < 0.58
    assert 0.26 < clicks / 5_000 < 0.34
    assert 0.003 < leaves / 5_000 < 0.012
    assert 3.9 < sum(scores) / 5_000 < 4.1


@given(seed=st.integers(), subject=st.text(), question=st.text())
def test_dice_give_one_answer_for_ever_within_their_bounds(seed, subject, question):
    dice = Dice(seed, subject)
    assert 0 <= dice.draw(question) < 1
    assert dice.draw(question) == Dice(seed, subject).draw(question)
    assert 0 <= dice.delay(question, 10, 60) <= 60
    assert dice.pick(question, "abc") in "abc"


@pytest.mark.parametrize(("pleased", "score"), [(0.0, 1), (0.5, 3), (0.999, 5)])
def test_a_form_is_filled_in_by_choices_texts_and_hidden_fields(pleased, score):
    form = Form(
        action="",
        filled=[("csrf", "1")],
        choices={"score": ["5", "4", "3", "2", "1"], "again": ["yes"]},
        texts=["why", "else"],
    )
    fields, chosen = fill(form, Dice(1, "x"), score=pleased, words="很好")
    assert chosen == score
    assert fields == [("csrf", "1"), ("score", str(score)), ("again", "yes"), ("why", "很好"), ("else", "")]


@pytest.mark.parametrize(("role", "previews"), [("click", 1.0), ("click", 0.0), ("silent", 1.0), ("silent", 0.0)])
def test_a_person_follows_the_short_link_of_a_text_and_their_telephone_draws_a_preview_of_it(
    start, receiver, role, previews
):
    sandbox = start(people={"+12025550123": role}, previewed_share=previews)
    sandbox.text(Body=f"Finish: {receiver.url}/l/abc")
    (truth,) = sandbox.settle()
    assert (truth["clicked"], truth["visited"], truth["machine_clicked"]) == (role == "click",) * 2 + (previews == 1.0,)
    agents = [request.headers["User-Agent"].partition("/")[0] for request in receiver.to("/l/", "GET")]
    assert sorted(agents) == ["Mozilla"] * (role == "click") + ["facebookexternalhit"] * int(previews)
