"""One person's message: languages, escaping, what is shared, what is refused."""

from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commplan.content import MAX_VALUES, Library, TemplateFault, fill
from commplan.errors import InputError


def test_people_of_one_language_share_one_skeleton(press) -> None:
    printed = press()
    ada, bob = printed.mail(name="Ada"), printed.mail(name="Bob")
    assert ada.skeleton is bob.skeleton
    assert ada.skeleton.digest == bob.skeleton.digest
    assert (ada.subject(), bob.subject()) == ("Hello Ada", "Hello Bob")
    assert "Ada" not in ada.skeleton.subject + ada.skeleton.text + ada.skeleton.html


def test_an_sms_has_only_a_text_and_counts_its_parts(press) -> None:
    printed = press()
    message = printed.sms(name="王小明" * 30)
    assert message.parts == 2
    assert (message.skeleton.subject, message.skeleton.html) == ("", "")
    assert message.text() == "Hello " + "王小明" * 30


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("zh-TW", "zh"),
        ("zh_tw", "zh"),
        ("zh", "zh"),
        ("zh-HK", "zh-HK"),
        ("zh-Hant-HK", "zh"),
        ("en-GB", "en"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
        ("../../etc/passwd", "en"),
    ],
)
def test_the_nearest_language_is_chosen(press, locale: str | None, said: str) -> None:
    printed = press({f"note.sms.{tag}.txt.j2": tag for tag in ("zh", "zh-HK", "en")})
    message = printed.sms(locale=locale)
    assert message.text() == said
    assert message.skeleton.locale == said.lower()


def test_a_plan_in_a_regional_language_falls_back_to_the_language(press) -> None:
    assert press({}, locale="en-GB").sms(locale="fr").skeleton.locale == "en"


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
@settings(deadline=None)
def test_a_value_is_escaped_in_html_and_raw_in_text_and_subject(press, mjml, name: str) -> None:
    said = "<b>" + "".join(c for c in name if c.isprintable()) + "&\"'</b>"
    message = press({"hello.email.en.mjml.j2": mjml("<mj-text>({{ name }})</mj-text>")}).mail(name=said)
    assert message.subject() == f"Hello {said}"
    assert message.text() == f"Hello {said}"
    assert "<b>" not in message.html()
    assert f"({said})" in unescape(message.html())


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "王小明", "👩‍👩‍👧 Ada", "שלום עולם", "a&amp;b", "{{ 7*7 }}", "%s{0}"]
)
def test_awkward_names_arrive_as_they_are(press, name: str) -> None:
    message = press().mail(name=name)
    assert message.subject() == f"Hello {name}"
    assert f">{name}<" in unescape(message.html()) or name in unescape(message.html())
    assert "<script" not in message.html()


def test_control_characters_are_left_out(press) -> None:
    message = press().mail(name="A\x00d\x1ba\x85")
    assert message.subject() == "Hello Ada"
    assert "\x00" not in message.html() + message.text()


def test_a_line_break_in_a_subject_is_refused_with_its_variable(press) -> None:
    with pytest.raises(TemplateFault) as caught:
        press().mail(name="Ada\r\nBcc: all@person.example.com")
    assert (caught.value.file, caught.value.line, caught.value.variable) == ("hello.email.en.mjml.j2", 2, "name")
    assert "person.example.com" not in str(caught.value)


def test_oneline_makes_a_subject_of_several_lines(press, mjml) -> None:
    mail = mjml("<mj-text>x</mj-text>").replace("Hello {{ name }}", "Hello {{ name | oneline }}", 1)
    message = press({"hello.email.en.mjml.j2": mail}).mail(name=" Ada \r\n Lovelace ")
    assert message.subject() == "Hello Ada Lovelace"


def test_an_empty_subject_or_text_is_refused(press, mjml) -> None:
    mail = mjml("<mj-text>x</mj-text>").replace("Hello {{ name }}", "{{ name }}", 1)
    with pytest.raises(TemplateFault, match="subject is empty"):
        press({"hello.email.en.mjml.j2": mail}).mail(name=" ")
    with pytest.raises(TemplateFault, match="text is empty"):
        press({"note.sms.en.txt.j2": "{{ name }}"}).sms(name="")


@pytest.mark.parametrize("name", ["cp-test12345-0-", "cp-test\x0012345-0-"])
def test_a_value_with_the_placeholder_prefix_is_refused(press, name: str) -> None:
    with pytest.raises(TemplateFault, match="only this run's placeholders"):
        press().mail(name=name)


def test_a_file_with_the_placeholder_prefix_is_refused(press) -> None:
    with pytest.raises(TemplateFault, match="kept for placeholders"):
        press({"note.sms.en.txt.j2": "cp-test12345-0- {{ name }}"}).sms()


@pytest.mark.parametrize("prefix", ["", "cp", "cp_1-", "1-", "cp<-", "çp-"])
def test_a_prefix_that_a_mail_could_change_is_refused(plan, prefix: str) -> None:
    with pytest.raises(ValueError, match="cannot begin a placeholder"):
        Library(plan(), {}, prefix)


def test_ten_slots_and_more_are_not_mistaken_for_each_other(press) -> None:
    printed = press({"note.sms.en.txt.j2": "".join(f"{{{{ c{n} }}}}" for n in range(12))})
    message = printed.sms(**{f"c{n}": f"<{n}>" for n in range(12)})
    assert message.text() == "".join(f"<{n}>" for n in range(12))
    for one in message.skeleton.placeholders:
        assert [other for other in message.skeleton.placeholders if one in other] == [one]


def test_filling_is_one_pass_and_the_longest_placeholder_wins() -> None:
    assert fill("p1 p10 p1", ["p1", "p10"], ["p10", "p1"]) == "p10 p1 p10"
    with pytest.raises(ValueError, match="1 placeholders, 0 values"):
        fill("p1", ["p1"], [])


def test_values_over_the_limit_get_a_skeleton_of_their_own(press) -> None:
    printed = press()
    small, big = printed.mail(name="a"), printed.mail(name="é" * (MAX_VALUES // 2))
    assert big.oversize
    assert not small.oversize
    assert big.values == big.skeleton.placeholders == ()
    assert big.skeleton.digest != small.skeleton.digest
    assert big.html() == fill(small.skeleton.html, small.skeleton.placeholders, ["é" * (MAX_VALUES // 2)] * 4)


def test_a_null_column_is_false_and_replaceable(press) -> None:
    text = "{{ name or 'there' }} {{ name | default('you') }}{% if name %}x{% endif %} {{ name is none }}"
    assert press({"note.sms.en.txt.j2": text}).sms(name=None).text() == "there you True"


def test_a_null_column_is_a_fault_where_it_is_printed(press) -> None:
    with pytest.raises(TemplateFault) as caught:
        press({"note.sms.en.txt.j2": "one\n{{ name | upper }}"}).sms(name=None)
    assert (caught.value.line, caught.value.variable, caught.value.rule) == (2, "name", "has no value for this person")


def test_plan_contact_and_links_are_there(press) -> None:
    text = "{{ plan.name }} {{ plan.title }} {{ plan.topic }} {{ contact.id }} {{ links.survey }}"
    assert press({"note.sms.en.txt.j2": text}).sms().text() == "trial A trial news 17 https://example.com/s/token"


def test_a_column_cannot_take_the_place_of_the_links(press) -> None:
    assert press({"note.sms.en.txt.j2": "{{ links.survey }}"}).sms(links="x").text() == "https://example.com/s/token"


def test_marketing_mail_must_say_how_to_unsubscribe(press, mjml) -> None:
    with pytest.raises(TemplateFault, match="how to unsubscribe"):
        press({}, purpose="marketing").mail()
    files = {
        "hello.email.en.mjml.j2": mjml('<mj-text><a href="{{ links.unsubscribe }}">x</a></mj-text>'),
        "hello.email.en.txt.j2": "{{ links.unsubscribe }}",
    }
    assert press(files, purpose="marketing").mail().text() == "https://example.com/u/token"
    del files["hello.email.en.txt.j2"]
    with pytest.raises(TemplateFault) as caught:
        press(files, purpose="marketing").mail()
    assert caught.value.file == "hello.email.en.txt.j2"


def test_a_macro_may_make_mjml_that_is_the_same_for_many(press, mjml) -> None:
    macro = "{% macro button(label) %}<mj-button href='https://example.com/'>{{ label }}</mj-button>{% endmacro %}"
    printed = press({"hello.email.en.mjml.j2": mjml(macro + "{{ button('Go') }}<mj-text>{{ name }}</mj-text>")})
    ada, bob = printed.mail(name="Ada"), printed.mail(name="Bob")
    assert ada.skeleton is bob.skeleton
    assert "<mj-button" not in ada.html()
    assert ">Go</a>" in ada.html()


def test_a_macro_that_makes_mjml_of_every_person_is_refused(press, mjml) -> None:
    macro = "{% macro button(label) %}<mj-text>{{ label }}</mj-text>{% endmacro %}"
    printed = press({"hello.email.en.mjml.j2": mjml(macro + "{{ button(name) }}")})
    with pytest.raises(TemplateFault, match="more than 500 variants"):
        for number in range(501):
            printed.mail(name=f"person {number}")


def test_a_library_of_broken_files_says_everything_that_is_wrong(plan) -> None:
    with pytest.raises(InputError) as caught:
        Library(plan(), {"note.sms.en.txt.j2": "{{ x", "hello.email.en.mjml.j2": "<mjml>"}, "cp-a-")
    assert len(caught.value.findings) == 2


def test_a_content_that_the_run_does_not_have_is_named(plan) -> None:
    library = Library(plan(), {}, "cp-a-")
    with pytest.raises(TemplateFault, match=r"note\.sms\.en\.txt\.j2"):
        library.render(plan().touch(2, None), locale="zh", columns={}, contact={}, links={})


def test_reprs_show_no_person(press) -> None:
    message = press().mail(name="Ada")
    assert "Ada" not in repr(message)
    assert "Ada" not in repr(press().mail(name="Ada" * 2000))
