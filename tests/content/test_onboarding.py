"""The mails that ship with the product: complete in both languages, fit to be sent, the same however they are made."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from jinja2 import DictLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from commplan.content import Library, Rendered, read_templates
from commplan.content.grammar import KNOWN
from commplan.content.language import MAX_OUTPUT, MAX_RANGE, MAX_STEPS, is_markup
from commplan.content.mail import Document, finish
from commplan.content.source import split
from commplan.plan import Plan

TEMPLATES = Path(__file__).parents[2] / "templates"
MAILS = [("welcome", "new"), ("welcome", "vip"), ("survey", "new")]
LINKS = {
    "unsubscribe": "https://example.com/u/token?a=1&b=2",
    "preferences": "https://example.com/p/token",
    "survey": "https://example.com/s/token",
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.model_validate(yaml.load((TEMPLATES / "onboarding" / "plan.yaml").read_text("utf-8"), yaml.BaseLoader))


@pytest.fixture(scope="module")
def files(plan: Plan) -> dict[str, str]:
    return read_templates(plan, TEMPLATES / "onboarding", TEMPLATES / "shared")


@pytest.fixture(scope="module")
def library(plan: Plan, files: dict[str, str]) -> Library:
    return Library(plan, files, "cp-test12345-")


def columns(**changes: object) -> dict[str, object]:
    return {
        "customer_id": 17,
        "first_name": "Ada & <Co>",
        "full_name": "王小明",
        "email": "ada@person.example.com",
        "mobile": None,
        "lang": None,
        "tz": None,
        "signed_up_at": "2026-11-20 08:00:00",
        "lifetime_value": 0,
        "sms_opt_in": 1,
        "sms_opt_in_source": "the sign-up form",
        "sms_opt_in_at": "2026-11-20 08:00:00",
        "setup_url": "http://127.0.0.1:54321/site/setup/1000000?via=crm&x=1",
        "activated_at": None,
        **changes,
    }


def render(library: Library, plan: Plan, step: str, segment: str, locale: str | None, **changes: object) -> Rendered:
    return library.render(
        plan.touch(plan.step_number(step), segment),
        locale=locale,
        columns=columns(**changes),
        contact={"id": "17", "locale": locale, "segment": segment},
        links=LINKS,
    )


class Tree(HTMLParser):
    """A document as what a mail program sees of it: tags, sorted attributes, text with entities resolved."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.events: list[object] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.events.append((tag, sorted((name, value or "") for name, value in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.events.append(("/" + tag, []))

    def handle_data(self, data: str) -> None:
        if self.events and isinstance(self.events[-1], str):
            self.events[-1] += data
        else:
            self.events.append(data)

    def handle_comment(self, data: str) -> None:
        self.events.append(("!", data))


@pytest.mark.parametrize("mail", MAILS)
@pytest.mark.parametrize("tag", ["en", "zh"])
def test_a_filled_skeleton_is_the_mail_made_for_one_person(library, plan, files, mail, tag) -> None:
    step, segment = mail
    touch = plan.touch(plan.step_number(step), segment)
    message = render(library, plan, step, segment, tag)
    sources = {name: text for file in files for name, text in split(file, files[file])[0].items()}
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader(sources),
        undefined=StrictUndefined,
        autoescape=is_markup,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    person = {**columns(), "contact": {"id": "17"}, "plan": {"title": plan.title}, "links": LINKS}
    file = f"{touch.content}.email.{tag}"
    alone = Document(
        file=file,
        kind="mjml",
        body=environment.get_template(f"{file}.mjml.j2").render(person),
        preheader=environment.get_template(f"{file}.mjml.j2#preheader").render(person),
        placeholders=(),
        sites=(),
    )
    assert Tree(message.html()).events == Tree(finish(alone, lambda piece: None).html).events
    assert message.text() == environment.get_template(f"{file}.txt.j2").render(person)
    assert message.subject() == environment.get_template(f"{file}.mjml.j2#subject").render(person)


@pytest.mark.parametrize(("step", "segment"), MAILS)
@pytest.mark.parametrize("locale", ["en", "en-GB", "zh-CN", "zh-TW", None])
def test_every_mail_has_what_a_mail_needs(library, plan, step, segment, locale) -> None:
    message = render(library, plan, step, segment, locale)
    html, chinese = message.html(), (locale or "").startswith("zh")
    assert f'<html lang="{"zh-Hans" if chinese else "en"}"' in html
    assert 'href="https://example.com/u/token?a=1&amp;b=2" clicktracking="off"' in html
    assert LINKS["unsubscribe"] in message.text()
    assert f'href="{LINKS["preferences"]}" clicktracking="off"' in html
    assert LINKS["preferences"] in message.text()
    assert ("示例路" if chinese else "1 Example Street") in html
    assert ("示例路" if chinese else "1 Example Street") in message.text()
    assert ("王小明" if chinese else "Ada &amp; &lt;Co&gt;") in html
    assert "<Co>" not in html
    assert len(html.encode()) < 100_000, "longer mails are clipped by some programs"


@pytest.mark.parametrize("locale", ["en", "zh-TW"])
def test_the_welcome_leads_to_the_set_up(library, plan, locale) -> None:
    for segment in ("new", "vip"):
        message = render(library, plan, "welcome", segment, locale)
        assert 'href="http://127.0.0.1:54321/site/setup/1000000?via=crm&amp;x=1"' in message.html()
        assert "http://127.0.0.1:54321/site/setup/1000000?via=crm&x=1\n" in message.text()


@pytest.mark.parametrize("locale", ["en", "zh-TW"])
def test_the_survey_offers_five_answers(library, plan, locale) -> None:
    html = render(library, plan, "survey", "new", locale).html()
    assert [score for score in range(12) if f'href="https://example.com/s/token?score={score}"' in html] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_the_reminder_is_one_part_and_signed_in_chinese(library, plan) -> None:
    english = render(library, plan, "nudge", "new", "en")
    assert english.parts == 1
    assert "STOP" in english.text()
    chinese = render(library, plan, "nudge", "new", "zh-TW", setup_url="http://127.0.0.1:54321/site/setup/1000")
    assert chinese.links[0].target == "http://127.0.0.1:54321/site/setup/1000"
    assert chinese.text().startswith("【纸鸢】")
    assert "退订" in chinese.text()
    assert chinese.parts == 1


@pytest.mark.parametrize(("step", "segment"), [*MAILS, ("nudge", "new")])
@pytest.mark.parametrize("locale", ["en", "zh"])
def test_nobody_is_called_none(library, plan, step, segment, locale) -> None:
    message = render(library, plan, step, segment, locale, first_name=None, full_name=None)
    assert "None" not in message.subject() + message.text() + message.html().replace("none", "")
    assert not message.subject().startswith((",", "，"))


def test_the_readme_tells_the_truth(plan: Plan, files: dict[str, str]) -> None:
    readme = (TEMPLATES / "README.md").read_text("utf-8")
    for owner, names in KNOWN.items():
        assert all(f"`{owner}.{name}`" in readme for name in names)
    for limit in (MAX_STEPS, MAX_OUTPUT, MAX_RANGE):
        assert f"{limit:,}" in readme
    (example,) = [block for block in readme.split("```") if "subject:" in block]
    library = Library(plan, {**files, "welcome.email.en.mjml.j2": example.lstrip("\n")}, "cp-test12345-")
    message = render(library, plan, "welcome", "new", "en", first_name="Ada")
    assert message.subject() == "Welcome, Ada"
    assert "Good to have you here." in message.html()
    listed = [line.split()[0] for line in readme.split("```")[1].splitlines() if ".j2 " in line]
    assert len(listed) > 6
    assert all(list(TEMPLATES.glob(f"*/{name}")) for name in listed)
