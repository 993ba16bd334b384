"""The pages in a real browser at a phone's width: by mouse, by the keyboard alone, and as axe-core judges them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from sqlalchemy import select, update

from commplan.ids import TokenPurpose
from commplan.store import open_store
from commplan.store.tables import answers, recipients, rsvps
from tests.conftest import later

pytestmark = pytest.mark.browser


#: How wide a phone is, and how it is lit.
PHONES = [(320, "light"), (400, "dark")]
#: The person who reads a language, and what they read.
UNSUBSCRIBING = [
    (1, ("Unsubscribe", "You are unsubscribed", "Undo", "You are subscribed again")),
    (2, ("退订", "您已退订", "撤销退订", "您已恢复订阅")),
]
CHOOSING = [
    (1, ("getting started", "Text", "Save", "Saved.", "Pause for 30 days", "End the pause", "Stop everything")),
    (2, ("上手指南", "短信", "保存", "已保存。", "暂停 30 天", "结束暂停", "全部停止")),
]
INVITED = [
    (1, ("The launch party", "One place is left.", "Yes, I will come", "Maybe", "Send", "Change my answer")),
    (2, ("发布会", "还有 1 个名额。", "参加", "还不确定", "提交", "修改我的回答")),
]
STRANGE = [
    (1, ("This is not me", "Thank you for telling us", "It is me after all", "Taken back")),
    (2, ("不是我", "谢谢您告诉我们", "其实是我", "已撤销")),
]
LANGUAGES = ["en", "zh"]


@pytest.fixture(params=PHONES, ids=["320 light", "400 dark"])
def page(browser, request) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 740}, color_scheme=scheme)
    opened = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    opened.on("request", lambda one: asked.append(one.url))
    # A page for what is gone or closed says so in its status, too.
    opened.on("console", lambda one: None if "status of 4" in one.text else complaints.append(one.text))
    yield opened
    here = opened.url.split("/", 3)[2]
    assert {url.split("/", 3)[2] for url in asked} == {here}
    assert complaints == []
    context.close()


@pytest.fixture
def site(settings, build, serve, plan_text) -> Iterator:  # type: ignore[no-untyped-def, type-arg]
    store = open_store(settings)
    text = plan_text.replace(
        "topic: getting-started\n", "topic: getting-started\ntopic_title: {en: getting started, zh: 上手指南}\n"
    )
    text = text.replace(
        "sequence:\n", "events: {launch: {title: {en: The launch party, zh: 发布会}, places: 1}}\nsequence:\n"
    )
    world = build(
        store,
        plan_text=text.replace("content: welcome}", "content: welcome, rsvp: launch}"),
        locales=["en", "zh-CN", "en", "zh"],
        people=4,
    )
    for step_no in (1, 2, 3):
        world.send(step_no=step_no)
    with serve(store, settings) as client:
        yield world, str(client.base_url).rstrip("/")
    store.dispose()


def focused(page) -> str:  # type: ignore[no-untyped-def]
    return str(page.evaluate("(document.activeElement.innerText || document.activeElement.value || '').trim()"))


def fits(page) -> bool:  # type: ignore[no-untyped-def]
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def tab_to(page, name: str) -> None:  # type: ignore[no-untyped-def]
    """Go to the control that is called so, with the Tab key alone."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
    pytest.fail(f"no way to {name}")


def chosen(page) -> list[bool]:  # type: ignore[no-untyped-def]
    return [box.is_checked() for box in page.get_by_role("checkbox").all()]


def replied(world) -> list[str]:  # type: ignore[no-untyped-def]
    with world.store.read() as connection:
        return list(connection.execute(select(rsvps.c.answer)).scalars())


@pytest.mark.parametrize(("seq", "words"), UNSUBSCRIBING, ids=LANGUAGES)
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


@pytest.mark.parametrize(("seq", "words"), UNSUBSCRIBING, ids=LANGUAGES)
def test_unsubscribing_and_taking_it_back_by_mouse(page, site, seq, words) -> None:
    world, base = site
    stop, stopped, undo, back = words
    page.goto(f"{base}/u/{world.token(seq, 1, TokenPurpose.UNSUBSCRIBE)}")
    page.get_by_role("button", name=stop).click()
    page.get_by_role("heading", name=stopped).wait_for()
    assert world.suppressed() == {world.email_suppressed(seq, "getting-started", "unsubscribed")}
    page.get_by_role("button", name=undo).click()
    page.get_by_role("heading", name=back).wait_for()
    assert world.suppressed() == set()


def test_answering_a_survey_by_mouse(page, site) -> None:
    world, base = site
    page.goto(f"{base}/s/{world.token(1, 3, TokenPurpose.SURVEY)}")
    page.get_by_role("radio", name="2").click()
    page.get_by_role("textbox").fill("slow")
    page.get_by_role("button").click()
    page.get_by_role("status").wait_for()
    with world.store.read() as connection:
        assert [tuple(row) for row in connection.execute(select(answers.c.score, answers.c.text))] == [(2, "slow")]


@pytest.mark.parametrize(("seq", "words"), CHOOSING, ids=LANGUAGES)
def test_choosing_what_to_get_by_keyboard(page, site, seq, words) -> None:
    world, base = site
    topic, way, save, saved, pause, resume, stop = words
    page.goto(f"{base}/p/{world.token(seq, 1, TokenPurpose.PREFERENCES)}")
    assert fits(page)
    assert chosen(page) == [True, True]
    for key in ("Tab", "Tab", "Space"):
        page.keyboard.press(key)
    assert page.get_by_role("checkbox", name=f"{topic} · {way}").evaluate("box => box === document.activeElement")
    tab_to(page, save)
    assert world.people_suppressed() == set()
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert focused(page).startswith(saved)
    assert chosen(page) == [True, False]
    assert world.people_suppressed() == {("sms", seq, "getting-started", "declined")}
    tab_to(page, pause)
    page.keyboard.press("Enter")
    page.get_by_role("button", name=resume).wait_for()
    assert ("all", seq, "all", "paused") in world.people_suppressed()
    tab_to(page, resume)
    page.keyboard.press("Enter")
    page.get_by_role("button", name=pause).wait_for()
    assert world.people_suppressed() == {("sms", seq, "getting-started", "declined")}
    tab_to(page, stop)
    page.keyboard.press("Enter")
    page.locator("input[value=unstop]").wait_for(state="attached")
    assert ("all", seq, "all", "unsubscribed") in world.people_suppressed()
    assert chosen(page) == [False, False]
    assert fits(page)


@pytest.mark.parametrize(("seq", "words"), CHOOSING, ids=LANGUAGES)
def test_choosing_what_to_get_by_mouse_from_the_unsubscribe_page(page, site, seq, words) -> None:
    world, base = site
    topic, way, save, _, pause, _, stop = words
    page.goto(f"{base}/u/{world.token(seq, 1, TokenPurpose.UNSUBSCRIBE)}")
    page.locator(".also a").click()
    page.get_by_role("checkbox", name=f"{topic} · {way}").click()
    page.get_by_role("button", name=save).click()
    page.get_by_role("status").wait_for()
    assert world.people_suppressed() == {("sms", seq, "getting-started", "declined")}
    page.get_by_role("checkbox", name=f"{topic} · {way}").click()
    page.get_by_role("button", name=save).click()
    page.locator("input[type=checkbox]:checked >> nth=1").wait_for()
    assert world.people_suppressed() == set()
    page.get_by_role("button", name=pause).click()
    page.locator("input[value=resume]").wait_for(state="attached")
    page.get_by_role("button", name=stop).click()
    page.locator("input[value=unstop]").wait_for(state="attached")
    assert world.people_suppressed() == {("all", seq, "all", "paused"), ("all", seq, "all", "unsubscribed")}


@pytest.mark.parametrize(("seq", "words"), INVITED, ids=LANGUAGES)
def test_answering_an_invitation_by_keyboard_and_correcting_it_by_mouse(page, site, seq, words) -> None:
    world, base = site
    title, left, yes, maybe, send, change = words
    page.goto(f"{base}/r/{world.token(seq, 1, TokenPurpose.RSVP)}")
    assert fits(page)
    assert page.get_by_role("group", name=title).is_visible()
    assert page.get_by_text(left).is_visible()
    for key in ("Tab", "Space", "Tab"):
        page.keyboard.press(key)
    assert page.get_by_role("radio", name=yes, exact=True).is_checked()
    assert focused(page) == send
    assert replied(world) == []
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert replied(world) == ["yes"]
    page.get_by_role("radio", name=maybe, exact=True).click()
    page.get_by_role("button", name=change).click()
    page.locator("input[value=maybe]:checked").wait_for()
    page.get_by_text(left).wait_for()
    assert replied(world) == ["maybe"]
    assert fits(page)


@pytest.mark.parametrize(("seq", "words"), STRANGE, ids=LANGUAGES)
def test_saying_that_it_is_not_me_by_keyboard_and_taking_it_back_by_mouse(page, site, seq, words) -> None:
    world, base = site
    strange, done, undo, back = words
    page.goto(f"{base}/w/{world.token(seq, 1, TokenPurpose.STRANGER)}")
    assert fits(page)
    page.keyboard.press("Tab")
    assert focused(page) == strange
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert focused(page) == done
    assert world.suppressed() == {world.email_suppressed(seq, "all", "wrong_person")}
    page.get_by_role("button", name=undo).click()
    page.get_by_role("heading", name=back).wait_for()
    assert world.suppressed() == set()


def grave(page) -> list[str]:  # type: ignore[no-untyped-def]
    """What axe-core calls serious, or worse."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize(("seq", "other"), [(1, 3), (2, 4)], ids=LANGUAGES)
def test_axe_finds_nothing_serious_on_any_page(page, site, seq, other) -> None:
    world, base = site
    seen: dict[str, list[str]] = {}
    page.set_content("<input type=text>")
    assert any("label" in one for one in grave(page))

    def judge(what: str) -> None:
        assert fits(page), what
        assert page.evaluate("document.documentElement.lang") == ("zh-CN" if seq == 2 else "en"), what
        seen[what] = grave(page)

    def press(value: str, ends: str) -> None:
        page.locator(f"form:has(input[value={value}]) button").click()
        page.locator(f"input[value={ends}]").first.wait_for(state="attached")

    def open_(path: str, purpose: TokenPurpose, step_no: int, person: int = seq) -> None:
        page.goto(f"{base}/{path}/{world.token(person, step_no, purpose)}")

    open_("u", TokenPurpose.UNSUBSCRIBE, 1)
    judge("unsubscribe")
    press("unsubscribe", "resubscribe")
    judge("unsubscribed")
    press("resubscribe", "unsubscribe")
    judge("subscribed again")
    page.goto(f"{base}/u/broken?lang={'zh' if seq == 2 else 'en'}")
    judge("address")
    page.get_by_role("textbox").fill("nobody")
    page.get_by_role("button").click()
    page.get_by_role("alert").wait_for()
    judge("no address")
    page.get_by_role("textbox").fill("somebody@person.example.com")
    page.get_by_role("button").click()
    page.get_by_role("status").wait_for()
    judge("address taken")
    open_("p", TokenPurpose.PREFERENCES, 1)
    judge("preferences")
    press("save", "save")
    press("pause", "resume")
    judge("paused")
    press("stop", "unstop")
    judge("stopped")
    world.text("STOP", seq)
    with world.store.write() as connection:
        connection.execute(update(recipients).where(recipients.c.seq == seq).values(phone=None, phone_key=None))
    open_("p", TokenPurpose.PREFERENCES, 1)
    judge("preferences with a way that is closed")
    open_("s", TokenPurpose.SURVEY, 3)
    judge("survey")
    page.get_by_role("button").click()
    page.get_by_role("alert").wait_for()
    judge("no answer")
    page.get_by_role("radio").first.check(force=True)
    page.get_by_role("button").click()
    page.get_by_role("status").wait_for()
    judge("answered")
    open_("r", TokenPurpose.RSVP, 1)
    judge("invitation")
    page.get_by_role("button").click()
    page.get_by_role("alert").wait_for()
    judge("no reply")
    page.locator("input[value=yes]").check(force=True)
    page.get_by_role("button").click()
    page.get_by_role("status").wait_for()
    judge("accepted")
    open_("r", TokenPurpose.RSVP, 1, other)
    judge("full")
    open_("w", TokenPurpose.STRANGER, 1)
    judge("stranger")
    press("disown", "own")
    judge("disowned")
    page.locator("button").click()
    page.locator("input").wait_for(state="detached")
    judge("owned again")
    page.goto(f"{base}/s/broken?lang={'zh' if seq == 2 else 'en'}")
    judge("gone")
    later(world.store, days=60)
    open_("s", TokenPurpose.SURVEY, 3)
    judge("survey closed")
    open_("r", TokenPurpose.RSVP, 1)
    judge("invitation closed")
    assert {what: found for what, found in seen.items() if found} == {}
    assert len(seen) == 23
