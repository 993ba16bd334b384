"""The recipients' pages: a look changes nothing, an act is theirs alone, and everybody can read them."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from jinja2 import Environment, FileSystemLoader
from pydantic import SecretStr
from sqlalchemy import func, select, update

from commplan.clock import Clock
from commplan.ids import TokenPurpose
from commplan.settings import Settings
from commplan.store import open_store
from commplan.store.tables import answers, messages, receipts, suppressions
from commplan.web.pages import language_of, localized
from tests.conftest import later

ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def sent(store, build):  # type: ignore[no-untyped-def]
    world = build(store, locales=["en", "zh-TW", None])
    for step_no in (1, 2, 3):
        world.send(step_no=step_no)
    return world


def unsubscribe_link(world, seq=1, step_no=1) -> str:  # type: ignore[no-untyped-def]
    return f"/u/{world.token(seq, step_no, TokenPurpose.UNSUBSCRIBE)}"


def survey_link(world, seq=1, step_no=3) -> str:  # type: ignore[no-untyped-def]
    return f"/s/{world.token(seq, step_no, TokenPurpose.SURVEY)}"


def answered(world) -> list[tuple[int, int | None, str | None]]:  # type: ignore[no-untyped-def]
    with world.store.read() as connection:
        return [tuple(row) for row in connection.execute(select(answers.c.seq, answers.c.score, answers.c.text))]


def everything(world) -> list:  # type: ignore[no-untyped-def, type-arg]
    with world.store.read() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (suppressions, answers, receipts)
        ]
    return [*counts, *world.rows()]


class _Page(HTMLParser):
    """What a page is made of, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


# -- unsubscribe


def test_an_unsubscribe_link_from_before_a_rotation_of_the_secret_still_opts_out(
    store_url, settings, signed_settings, sent, serve
) -> None:
    link = unsubscribe_link(sent)
    rotated = {"secret_key": SecretStr("new"), "earlier_secret_keys": (settings.secret_key,)}
    here = signed_settings.model_copy(update={**rotated, "store_url": SecretStr(store_url)})
    opened = open_store(here)
    with serve(opened, here) as client:
        assert client.post(link, content=ONE_CLICK, headers=FORM).status_code == 200
    opened.dispose()
    assert sent.suppressed() == {sent.email_suppressed(1, "getting-started", "unsubscribed")}


def test_a_link_to_choose_from_before_a_rotation_of_the_secret_still_opens(
    store_url, settings, signed_settings, sent, serve
) -> None:
    link = f"/p/{sent.token(1, 1, TokenPurpose.PREFERENCES)}"
    rotated = {"secret_key": SecretStr("new"), "earlier_secret_keys": (settings.secret_key,)}
    here = signed_settings.model_copy(update={**rotated, "store_url": SecretStr(store_url)})
    opened = open_store(here)
    with serve(opened, here) as client:
        assert client.post(link, data={"do": "stop"}).status_code == 200
    opened.dispose()
    assert sent.email_suppressed(1, "all", "unsubscribed") in sent.suppressed()


def test_an_unsubscribe_link_still_opts_out_after_ten_years(client, sent) -> None:
    clock = sent.store.clock
    sent.store.clock = Clock(origin=clock.now() + timedelta(days=3_653), anchor=time.time(), factor=1.0)
    assert client.post(unsubscribe_link(sent), content=ONE_CLICK, headers=FORM).status_code == 200
    assert sent.suppressed() == {sent.email_suppressed(1, "getting-started", "unsubscribed")}


def test_looking_at_an_unsubscribe_link_changes_nothing(client, sent) -> None:
    before = everything(sent)
    for method in ("GET", "HEAD", "GET"):
        assert client.request(method, unsubscribe_link(sent)).status_code == 200
    assert client.request("PUT", unsubscribe_link(sent)).status_code == 405
    assert everything(sent) == before


@pytest.mark.parametrize("headers", [{"Purpose": "prefetch"}, {"Sec-Purpose": "prefetch;prerender"}])
def test_fetching_a_page_beforehand_changes_nothing(client, sent, headers) -> None:
    before = everything(sent)
    for link in (unsubscribe_link(sent), survey_link(sent) + "?score=5"):
        for method in ("GET", "HEAD"):
            assert client.request(method, link, headers=headers).status_code == 200
    assert everything(sent) == before


@pytest.mark.parametrize("files", [False, True], ids=["form", "multipart"])
def test_a_mail_program_unsubscribes_in_one_click(client, sent, files) -> None:
    body = {"files": {"List-Unsubscribe": (None, "One-Click")}} if files else {"content": ONE_CLICK, "headers": FORM}
    answer = client.post(unsubscribe_link(sent, 2), **body)
    assert answer.status_code == 200
    assert not answer.history
    assert sent.suppressed() == {sent.email_suppressed(2, "getting-started", "unsubscribed")}
    assert sent.people_suppressed() == {("all", 2, "getting-started", "unsubscribed")}
    assert sent.row(2).opted_out_at == sent.store.clock.now()
    assert sent.row(1).opted_out_at is None


def test_unsubscribing_twice_is_unsubscribing_once(client, sent) -> None:
    client.post(unsubscribe_link(sent), content=ONE_CLICK, headers=FORM)
    before = everything(sent)
    later(sent.store, hours=1)
    assert client.post(unsubscribe_link(sent), content=ONE_CLICK, headers=FORM).status_code == 200
    assert everything(sent) == before


def test_a_post_that_cannot_be_read_still_unsubscribes(client, sent) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post(unsubscribe_link(sent), content=b"\xff\xfe", headers=headers).status_code == 200
    assert len(sent.suppressed()) == 1


def test_a_link_in_a_text_opts_the_number_out(client, sent) -> None:
    client.post(unsubscribe_link(sent, 1, 2), data={"do": "unsubscribe"})
    assert sent.suppressed() == {sent.sms_suppressed(1, "getting-started", "unsubscribed")}


def test_opting_out_of_a_marketing_plan_is_opting_out_of_marketing(client, store, build, plan_text) -> None:
    world = build(store, plan_text=plan_text.replace("purpose: service", "purpose: marketing"), occurrence="2")
    world.send()
    answer = client.post(unsubscribe_link(world), data={"do": "unsubscribe"})
    assert "no more marketing" in answer.text
    assert world.suppressed() == {world.email_suppressed(1, "marketing", "unsubscribed")}


def test_an_opt_out_can_be_taken_back_and_given_again(client, sent) -> None:
    link = unsubscribe_link(sent)
    client.post(link, data={"do": "unsubscribe"})
    assert "You are unsubscribed" in client.get(link).text
    later(sent.store, minutes=1)
    assert "subscribed again" in client.post(link, data={"do": "resubscribe"}).text
    assert sent.suppressed() == sent.people_suppressed() == set()
    assert sent.row().opted_out_at is None
    later(sent.store, minutes=1)
    client.post(link, data={"do": "unsubscribe"})
    assert len(sent.suppressed()) == 1
    assert sent.row().opted_out_at == sent.store.clock.now()


def test_an_opt_out_by_email_and_one_by_text_are_both_taken_back_through_either_link(client, sent) -> None:
    for link in (unsubscribe_link(sent), unsubscribe_link(sent, 1, 2)):
        client.post(link, data={"do": "unsubscribe"})
    assert len(sent.suppressed()) == 2
    later(sent.store, minutes=1)
    client.post(unsubscribe_link(sent), data={"do": "resubscribe"})
    assert sent.suppressed() == sent.people_suppressed() == set()


def test_taking_back_one_s_own_opt_out_leaves_that_of_another_person_with_the_same_address(client, sent) -> None:
    shared = sent.store.keyring.address_key("email", sent.email(1))
    with sent.store.write() as connection:
        connection.execute(update(messages).where(messages.c.seq == 2, messages.c.step_no == 3).values(address_key="x"))
        connection.execute(update(messages).where(messages.c.seq == 1, messages.c.step_no == 3).values(address_key="y"))
        connection.execute(
            update(messages).where(messages.c.seq == 2, messages.c.step_no == 3).values(address_key=shared)
        )
    for link in (unsubscribe_link(sent, 1), unsubscribe_link(sent, 2, 3)):
        client.post(link, data={"do": "unsubscribe"})
    assert sent.row(2, 3).opted_out_at is not None
    later(sent.store, minutes=1)
    client.post(unsubscribe_link(sent, 1), data={"do": "resubscribe"})
    assert sent.suppressed() == set()
    assert sent.people_suppressed() == {("all", 2, "getting-started", "unsubscribed")}


def test_taking_an_opt_out_back_leaves_what_the_address_itself_forbids(client, sent) -> None:
    attempt = sent.row().attempt_id
    sent.told(sent.event("bounce", attempt=attempt, type="bounce"))
    later(sent.store, days=1)
    client.post(unsubscribe_link(sent), data={"do": "resubscribe"})
    assert sent.suppressed() == {sent.email_suppressed(1, "all", "hard_bounce")}


@pytest.mark.parametrize("which", ["forged", "for another purpose", "of a message that is gone", "cut off"])
def test_a_link_that_is_not_ours_changes_nothing_and_offers_to_take_the_address(client, sent, which) -> None:
    token = {
        "forged": "A" * 22,
        "for another purpose": sent.token(1, 1, TokenPurpose.SURVEY),
        "of a message that is gone": sent.token(99, 1, TokenPurpose.UNSUBSCRIBE),
        "cut off": sent.token(1, 1, TokenPurpose.UNSUBSCRIBE)[:-2],
    }[which]
    before = everything(sent)
    for answer in (client.get(f"/u/{token}"), client.post(f"/u/{token}", content=ONE_CLICK, headers=FORM)):
        assert answer.status_code == 404
        assert 'name="address"' in answer.text
    assert everything(sent) == before


@pytest.mark.parametrize(
    ("address", "channel", "normal"),
    [
        ("P2@Person.Example.com ", "email", "p2@person.example.com"),
        ("stranger@person.example.com", "email", "stranger@person.example.com"),
        ("+1 202 555 0123", "sms", "+12025550123"),
        ("(202) 555-0123", "sms", "+12025550123"),
        ("+86 138 0013 8000", "sms", "+8613800138000"),
    ],
)
def test_a_broken_link_still_opts_out_whoever_types_an_address(client, sent, address, channel, normal) -> None:
    answer = client.post("/u/broken", data={"address": address})
    assert answer.status_code == 200
    assert sent.suppressed() == {(channel, sent.store.keyring.address_key(channel, normal), "all", "unsubscribed")}


def test_the_answer_does_not_tell_whether_an_address_is_known(client, sent) -> None:
    told = {
        client.post("/u/broken", data={"address": f"{name}@person.example.com"}).text for name in ("p1", "stranger")
    }
    assert len(told) == 1


@pytest.mark.parametrize("address", ["", "nobody", "@", "12", "a@b@c", "\x00"])
def test_what_is_no_address_is_asked_for_again(client, sent, address) -> None:
    answer = client.post("/u/broken", data={"address": address})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert sent.suppressed() == set()


# -- survey


def test_looking_at_a_survey_stores_nothing_even_with_a_score_in_the_link(client, sent) -> None:
    before = everything(sent)
    answer = client.get(survey_link(sent) + "?score=4")
    assert re.findall(r'value="(\d)" checked', answer.text) == ["4"]
    assert client.head(survey_link(sent) + "?score=5").status_code == 200
    assert everything(sent) == before


def test_an_answer_is_kept_and_can_be_corrected(client, sent) -> None:
    client.post(survey_link(sent), data={"score": "2", "text": "slow"})
    assert answered(sent) == [(1, 2, "slow")]
    first = sent.row(1, 3).answered_at
    assert first == sent.store.clock.now()
    later(sent.store, days=1)
    page = client.get(survey_link(sent)).text
    assert "slow" in page
    assert re.findall(r'value="(\d)" checked', page) == ["2"]
    client.post(survey_link(sent), data={"score": "5", "text": ""})
    assert answered(sent) == [(1, 5, None)]
    assert sent.row(1, 3).answered_at == first
    assert sent.row(1, 1).answered_at is None


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"score": "3"}, (1, 3, None)),
        ({"text": "只有文字"}, (1, None, "只有文字")),
        ({"score": "1", "text": " "}, (1, 1, None)),
    ],
)
def test_a_partial_answer_is_kept(client, sent, form, expected) -> None:
    assert client.post(survey_link(sent), data=form).status_code == 200
    assert answered(sent) == [expected]


@pytest.mark.parametrize(
    "form", [{}, {"score": ""}, {"score": "6"}, {"score": "0"}, {"score": "-1"}, {"score": "four", "text": "x"}]
)
def test_an_answer_that_says_nothing_or_what_the_scale_has_not_is_asked_for_again(client, sent, form) -> None:
    answer = client.post(survey_link(sent), data=form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert answered(sent) == []


def test_a_recommendation_is_asked_for_from_0_to_10(client, store, build, plan_text) -> None:
    world = build(store, plan_text=plan_text.replace("scale: csat", "scale: nps"), occurrence="2")
    world.send(step_no=3)
    assert re.findall(r'name="score" value="(\d+)"', client.get(survey_link(world)).text) == [str(n) for n in range(11)]
    client.post(survey_link(world), data={"score": "0"})
    assert answered(world) == [(1, 0, None)]


@pytest.mark.parametrize("path", ["forged", "no survey in this step", "/s/", "/nothing", "/u/a/b"])
def test_what_is_not_there_gets_a_kind_page_and_changes_nothing(client, sent, path) -> None:
    where = {"forged": "/s/" + "A" * 22, "no survey in this step": survey_link(sent, 1, 1)}.get(path, path)
    before = everything(sent)
    for answer in (client.get(where), client.post(where, data={"score": "4"})):
        assert answer.status_code == 404
        assert "<h1>" in answer.text
    assert everything(sent) == before


def test_a_survey_closes_as_long_after_its_message_as_the_plan_says(client, store, build, plan_text) -> None:
    world = build(store, plan_text=plan_text.replace("scale: csat,", "scale: csat, open_for: P3D,"), occurrence="2")
    world.send(step_no=3)
    later(world.store, days=2, hours=22)
    assert client.post(survey_link(world), data={"score": "2"}).status_code == 200
    later(world.store, hours=2)
    before = everything(world)
    for answer in (client.get(survey_link(world)), client.post(survey_link(world), data={"score": "5"})):
        assert answer.status_code == 410
        assert "The time for answers to this question is over." in answer.text
    assert everything(world) == before


def test_a_survey_is_open_for_thirty_days_unless_the_plan_says_otherwise(client, sent) -> None:
    later(sent.store, days=29)
    assert client.get(survey_link(sent)).status_code == 200
    later(sent.store, days=1)
    assert client.get(survey_link(sent)).status_code == 410


def test_links_to_unsubscribe_to_choose_and_for_strangers_never_expire(client, sent) -> None:
    later(sent.store, days=3650)
    links = {"u": TokenPurpose.UNSUBSCRIBE, "p": TokenPurpose.PREFERENCES, "w": TokenPurpose.STRANGER}
    for path, purpose in links.items():
        assert client.get(f"/{path}/{sent.token(1, 1, purpose)}").status_code == 200


def test_a_long_text_is_cut_and_a_huge_form_is_refused(client, sent) -> None:
    client.post(survey_link(sent), data={"text": "x" * 5_000})
    assert len(answered(sent)[0][2] or "") == 2_000
    assert client.post(survey_link(sent), data={"text": "x" * 70_000}).status_code == 413


def test_what_people_write_comes_back_escaped(client, sent) -> None:
    answer = client.post(survey_link(sent), data={"text": "</textarea><script>alert(1)</script>"})
    assert "<script>" not in answer.text


# -- every page


@pytest.mark.parametrize(
    ("seq", "query", "tag"),
    [
        (1, "", "en"),
        (2, "", "zh-CN"),
        (3, "", "en"),
        (1, "?lang=zh", "zh-CN"),
        (2, "?lang=en", "en"),
    ],
)
def test_a_page_speaks_the_recipients_language_unless_another_is_chosen(client, sent, seq, query, tag) -> None:
    page = client.get(survey_link(sent, seq) + query).text
    assert f'<html lang="{tag}">' in page
    assert ("提交" if tag == "zh-CN" else "Send") in page
    assert ("您的第一周感觉如何？" in page) == (tag == "zh-CN")


def test_a_page_without_a_recipient_speaks_the_browsers_language(client, sent) -> None:
    assert '<html lang="zh-CN">' in client.get("/u/x", headers={"Accept-Language": "fr-FR, zh;q=0.8, en;q=0.5"}).text
    assert '<html lang="en">' in client.get("/u/x", headers={"Accept-Language": "fr"}).text


def test_every_page_asks_nobody_else_for_anything_and_names_every_control(client, sent) -> None:
    pages = [
        client.get(unsubscribe_link(sent)),
        client.post(unsubscribe_link(sent), data={"do": "unsubscribe"}),
        client.get(survey_link(sent)),
        client.post(survey_link(sent), data={"score": "5"}),
        client.get("/u/broken"),
        client.get("/s/broken"),
        client.get(f"/p/{sent.token(1, 1, TokenPurpose.PREFERENCES)}"),
        client.post(f"/p/{sent.token(1, 1, TokenPurpose.PREFERENCES)}", data={"do": "pause"}),
        client.get(f"/w/{sent.token(1, 1, TokenPurpose.STRANGER)}"),
    ]
    for answer in pages:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-robots-tag"] == "noindex, nofollow"
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
        page = _Page(answer.text)
        assert not [tag for tag, _ in page.tags if tag in {"script", "img", "link", "iframe"}]
        assert not [
            attrs
            for _, attrs in page.tags
            if re.match(r"(?:https?:)?//", attrs.get("href") or attrs.get("action") or "")
        ]
        labelled = {attrs.get("for") for tag, attrs in page.tags if tag == "label"}
        for tag, attrs in page.tags:
            if tag == "textarea" or (tag == "input" and attrs.get("type") == "text"):
                assert attrs["id"] in labelled
        assert "person.example.com" not in answer.text
        assert "SANDBOX" in answer.text


def test_the_words_of_both_languages_have_the_same_names() -> None:
    folder = Settings().templates / "shared" / "pages"
    words = Environment(loader=FileSystemLoader(folder), autoescape=True).get_template("words.html.j2").module.words  # type: ignore[attr-defined]

    def shape(value):  # type: ignore[no-untyped-def]
        if isinstance(value, dict):
            return {name: shape(inner) for name, inner in value.items()}
        return sorted(re.findall(r"{\w+}", value))

    assert json.dumps(shape(words["en"]), sort_keys=True) == json.dumps(shape(words["zh"]), sort_keys=True)


@pytest.mark.parametrize(
    ("wishes", "language"),
    [
        ((None,), "en"),
        (("zh-Hant-TW",), "zh"),
        (("de", "zh_CN"), "zh"),
        (("fr;q=1, zh;q=0.3",), "zh"),
        (("", "xx"), "en"),
    ],
)
def test_the_first_language_wished_for_that_exists_is_taken(wishes, language) -> None:
    assert language_of(*wishes) == language


def test_a_question_falls_back_from_region_to_language_to_default() -> None:
    texts = {"en": "a", "zh": "b", "zh-TW": "c"}
    assert [localized(texts, wish, "en") for wish in ("zh-tw", "zh_CN", "fr", "en-GB")] == ["c", "b", "a", "a"]
    assert localized({"de": "d"}, "fr") == "d"
    assert localized("e", "fr") == "e"
