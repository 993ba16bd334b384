"""Counted links: what a text says in their place, where they lead, and where they may not stand."""

from __future__ import annotations

import pytest

from commplan.content import Link, TemplateFault, sms_parts
from commplan.errors import InputError

SHORT = "https://www.example.com/l/" + "x" * 16


def text(press, source: str, **columns: object):
    return press({"note.sms.en.txt.j2": source}).sms(**columns)


def test_a_short_link_takes_the_place_of_its_address_and_is_named_by_what_the_template_calls_it(press):
    found = text(press, "Hi {{ name }}: {{ setup_url | short }} or {{ 'https://shop.example/a?b=1' | short }}",
                 setup_url="https://shop.example/setup/17")  # fmt: skip
    assert found.text() == f"Hi Ada: {SHORT} or {SHORT}"
    assert found.links == (Link(1, "https://shop.example/setup/17"), Link(2, "https://shop.example/a?b=1"))
    assert found.skeleton.links == ("setup_url", "https://shop.example/a?b=1")


def test_all_who_get_the_same_text_share_a_skeleton_wherever_their_links_lead(press):
    library = press({"note.sms.en.txt.j2": "{{ url | short }}"})
    one, other = (library.sms(url=f"https://shop.example/{'long' * n}") for n in (1, 40))
    assert one.skeleton is other.skeleton
    assert one.parts == other.parts == 1


def test_parts_are_counted_with_the_short_link(press):
    source = "{{ url | short }} " + "a" * 110
    found = text(press, source, url="https://shop.example/" + "long" * 60)
    assert found.parts == 1 == sms_parts(found.text())[1]


def test_an_address_put_together_is_named_by_what_the_template_spells_out(press):
    found = text(press, "{{ ('https://shop.example/?u=' ~ contact.id) | short }}")
    assert (found.skeleton.links, found.links[0].target) == (
        ("https://shop.example/?u=",),
        "https://shop.example/?u=17",
    )


def test_links_of_one_name_are_told_apart(press):
    found = text(press, "{% for n in (1, 2, 3) %}{{ (url ~ n) | short }} {% endfor %}", url="https://shop.example/")
    assert found.skeleton.links == ("url", "url (2)", "url (3)")
    assert [link.target[-1] for link in found.links] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "source",
    [
        "{% set here = url | short %}{{ here }}",
        "{% macro where() %}{{ url | short }}{% endmacro %}{{ where() }}",
        "{% filter upper %}{{ url | short }}{% endfilter %}",
        "{{ (url | short) ~ '!' }}",
        "{{ url | short | upper }}",
        "{% if url | short %}yes{% endif %}",
    ],
)
def test_a_link_that_is_not_printed_at_once_is_refused(press, source):
    with pytest.raises(TemplateFault) as refused:
        text(press, "Hi. " + source, url="https://shop.example/")
    assert "makes a link short where it is not printed at once" in refused.value.rule


@pytest.mark.parametrize(
    "address",
    [
        "shop.example/a",
        "javascript:alert(1)",
        "ftp://shop.example",
        "https://",
        "https:///a",
        "https://a b",
        "//a",
        "",
        "https://shop.example/\nX: y",
        "https://shop.example/" + "a" * 2_000,
    ],
)
def test_what_is_no_web_address_is_refused_and_not_repeated(press, address):
    with pytest.raises(TemplateFault) as refused:
        text(press, "{{ url | short }}", url=address)
    assert refused.value.variable == "url"
    assert not address or address not in str(refused.value).replace("it must begin with https://", "")


def test_an_empty_column_is_told_as_anywhere(press):
    with pytest.raises(TemplateFault) as refused:
        text(press, "{{ url | short }}", url=None)
    assert refused.value.variable == "url"


def test_more_links_than_a_message_may_have_are_refused(press):
    with pytest.raises(TemplateFault, match="more than 16 links"):
        text(press, "{% for n in range(17) %}{{ url | short }} {% endfor %}", url="https://shop.example/")


def test_a_mail_has_no_short_links(press, mjml):
    with pytest.raises(TemplateFault, match="is for texts"):
        press({"hello.email.en.txt.j2": "{{ 'https://shop.example/' | short }}"}).mail()


def test_a_filter_that_does_not_exist_is_still_named(press):
    with pytest.raises(InputError, match="there is no filter 'shorten'"):
        text(press, "{{ url | shorten }}")


@pytest.mark.parametrize("printed", ["{{ (url | short) if vip else url }}", "{{ (vip and (url | short)) or url }}"])
def test_a_link_that_is_made_short_for_some_is_refused_for_them_whoever_comes_first(press, printed):
    printed = press({"note.sms.en.txt.j2": printed})
    url = "https://shop.example/setup/17"
    assert printed.sms(url=url, vip=False).text() == url
    for _ in range(2):
        with pytest.raises(TemplateFault, match="short"):
            printed.sms(url=url, vip=True)
        assert printed.sms(url=url, vip=False).text() == url
