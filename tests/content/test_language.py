"""What a template may do, how much of it, and what its author hears when it fails."""

from __future__ import annotations

import pytest

from commplan.content import TemplateFault
from commplan.errors import InputError


def fault(press, text: str, **columns: object) -> TemplateFault:
    with pytest.raises(TemplateFault) as caught:
        press({"note.sms.en.txt.j2": text}).sms(**columns)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return caught.value


def test_an_undefined_variable_is_named_with_file_and_line(press) -> None:
    found = fault(press, "one\ntwo\n{{ nmae }}")
    assert (found.file, found.line, found.variable) == ("note.sms.en.txt.j2", 3, "nmae")
    assert str(found).startswith("note.sms.en.txt.j2:3: nmae: does not exist")


def test_an_undefined_variable_in_the_body_of_a_mail_has_the_line_of_the_file(press, mjml) -> None:
    printed = press({"hello.email.en.mjml.j2": mjml("<mj-text>\n{{ nmae }}</mj-text>")})
    with pytest.raises(TemplateFault) as caught:
        printed.mail()
    assert (caught.value.line, caught.value.variable) == (7, "nmae")


def test_an_undefined_variable_in_a_preheader_has_the_line_of_the_file(press, mjml) -> None:
    mail = mjml("<mj-text>x</mj-text>").replace("For {{ name }}", "For {{ nmae }}")
    with pytest.raises(TemplateFault) as caught:
        press({"hello.email.en.mjml.j2": mail}).mail()
    assert (caught.value.file, caught.value.line, caught.value.variable) == ("hello.email.en.mjml.j2", 3, "nmae")


def test_a_fault_in_an_included_file_names_that_file(press) -> None:
    files = {"note.sms.en.txt.j2": "{% include 'shared/sign.txt.j2' %}", "shared/sign.txt.j2": "\n{{ nmae }}"}
    with pytest.raises(TemplateFault) as caught:
        press(files).sms()
    assert (caught.value.file, caught.value.line) == ("shared/sign.txt.j2", 2)


def test_a_fault_is_the_same_for_everybody_whom_it_hits(press) -> None:
    printed = press({"note.sms.en.txt.j2": "{{ name }}"})
    found = []
    for _ in range(2):
        with pytest.raises(TemplateFault) as caught:
            printed.sms(name=None)
        found.append(caught.value.finding)
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{{ links[name] }}",
        "{{ name + 1 }}",
        "{{ '%d' | format(name) }}",
        "{{ {}[name] }}",
        "{{ name.foo }}",
        "{{ 'x'.encode(name) }}",
        "{{ name() }}",
        "{{ name | sum }}",
        "{{ name | groupby(name) }}",
        "{% include [name] %}",
    ],
)
def test_no_fault_repeats_a_value(press, text: str) -> None:
    with pytest.raises(InputError) as caught:
        press({"note.sms.en.txt.j2": text}).sms(name="Wilhelmina")
    assert "Wilhelmina" not in str(caught.value)
    assert "Wilhelmina" not in repr(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ name.__class__ }}",
        "{{ name['__class__'] }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ name | map(attribute='__class__') | join }}",
        "{{ range.__globals__ }}",
        "{{ namespace.__init__ }}",
        "{{ self._context }}",
        "{{ plan.__class__ }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ contact.update({'id': 1}) }}",
        "{{ contact.clear() }}",
    ],
)
def test_the_inside_of_python_is_closed(press, text: str) -> None:
    with pytest.raises(InputError):
        press({"note.sms.en.txt.j2": text}).sms()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{% for i in range(100000) %}x{% endfor %}", "range"),
        ("{% for a in range(999) %}{% for b in range(999) %}{% endfor %}{% endfor %}", "100,000 loop rounds"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "without end"),
        ("{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}", "100,000"),
        ("{% include 'note.sms.en.txt.j2' %}", "without end"),
        ("{{ 'x' * 1000000000 }}", "500,000"),
        ("{{ [0] * 1000000000 }}", "500,000"),
        ("{{ 10 ** 100000000 }}", "digits"),
        ("{{ '%1000000000d' % 1 }}", "999"),
        ("{{ '%*d' | format(1000000000, 1) }}", "999"),
        ("{{ 'x' | center(1000000000) }}", "width"),
        ("{{ 'x\ny' | indent(1000000000) }}", "width"),
        ("{% set ns = namespace(s='xy') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "500,000"),
        ("{% set ns = namespace(s='xy') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "500,000"),
        ("{% set v %}{% for i in range(999) %}{{ 'x' * 999 }}{% endfor %}{% endset %}", "500,000"),
        ("{% for i in range(999) %}{{ name * 999 }}{% endfor %}", "500,000"),
        ("{{ 'x'.ljust(1000000000) }}", "not open"),
        ("{{ '{:1000000000d}'.format(1) }}", "not open"),
    ],
)
def test_a_template_that_would_never_end_or_fill_the_memory_is_stopped(press, text: str, rule: str) -> None:
    assert rule in fault(press, text).rule


@pytest.mark.parametrize("name", ["safe", "pprint", "random", "tojson", "attr"])
def test_filters_that_leak_are_not_there(press, name: str) -> None:
    with pytest.raises(InputError, match=f"there is no filter '{name}'"):
        press({"note.sms.en.txt.j2": f"{{{{ name | {name} }}}}"})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{% if %}", "Expected an expression"),
        ("\n{% for x in y %}", "Unexpected end of template"),
        ("{{ x", "unexpected end of template"),
        ("{% autoescape false %}{{ name }}{% endautoescape %}", "autoescape"),
        ("{% include name %}", "named by a variable"),
        ("{% extends name %}", "named by a variable"),
        ("{% include 'layout.mjml.j2' %}", "another kind"),
        ("{% include 'secret.yaml' %}", "another kind"),
        ("{{ links.unsubscibe }}", "links.unsubscibe does not exist"),
        ("{{ plan.digest }}", "plan.digest does not exist"),
        ("{% set links = 1 %}", "links is taken"),
        ("{{ name is nice }}", "there is no test"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "defined twice"),
    ],
)
def test_what_can_be_seen_without_a_person_is_seen_at_once(press, text: str, rule: str) -> None:
    with pytest.raises(InputError) as caught:
        press({"note.sms.en.txt.j2": text})
    assert rule in str(caught.value)
    assert str(caught.value).startswith("note.sms.en.txt.j2:")


def test_plain_text_cannot_get_into_html_by_the_back_door(press, mjml) -> None:
    files = {
        "hello.email.en.mjml.j2": mjml("<mj-text>{% include 'raw.txt.j2' %}</mj-text>"),
        "raw.txt.j2": "{{ name }}",
    }
    with pytest.raises(InputError, match="other characters are escaped"):
        press(files)
