"""Abridged templates against the whole ones: the same values, and never one skeleton for people of two shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commplan.content import abridgement, read_templates
from commplan.content.abridgement import Abridgement, abridge
from commplan.content.language import Language
from commplan.content.library import _sources
from commplan.content.slots import Slot
from commplan.planfile import read_plan
from tests.content.test_slots import EXPRESSIONS, FILES, people

TEMPLATES = Path(abridgement.__file__).parents[2] / "templates"

_expressions = st.sampled_from([e for e in EXPRESSIONS if "card" not in e and "twice" not in e] + ["lang"])
_tests = st.sampled_from(["flag", "number > 0", "lang == 'en'", "lang == 'zh'", "missing is defined", "items"])


def _decide(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=3).map("".join)
    return st.tuples(_tests, _tests, several, several, several).map(
        lambda t: f"{{% if {t[0]} %}}{t[2]}{{% elif {t[1]} %}}{t[3]}{{% else %}}{t[4]}{{% endif %}}"
    )


bodies = st.lists(
    st.recursive(
        st.one_of(
            st.sampled_from(["text ", "<p>a &amp; b</p>", "\n", "中文", "{# note #}", "{% include 'part.html.j2' %}"]),
            _expressions.map(lambda e: f"{{{{ {e} }}}}"),
        ),
        _decide,
        max_leaves=10,
    ),
    min_size=1,
    max_size=4,
).map("".join)
shapes = st.sampled_from(
    [
        "{% set lang = 'en' %}BODY",
        "{% set lang = 'en' %}{% extends 'base.html.j2' %}{% block body %}BODY{% endblock %}",
        "{% extends 'base.html.j2' %}{% set lang = 'zh' %}{% block foot %}{% block b %}BODY{% endblock %}."
        "{% endblock %}",
        "{% set lang = 'en' %}{% extends 'frame.html.j2' %}{% block foot %}BODY{% endblock %}",
    ]
)
FRAME = "{% set lang = 'fr' %}{% extends 'base.html.j2' %}{% block body %}{{ lang }}{{ name }}{% endblock %}"


def whole(language: Language, name: str, person: Mapping[str, object]) -> tuple[list[object], list[str]]:
    """Return the shape that the whole template has for somebody, and the values."""
    template = language.get_template(name)
    chunks = list(template.root_render_func(template.new_context(dict(person))))
    shape = [chunk.__class__ if isinstance(chunk, Slot) else chunk for chunk in chunks]
    return shape, [str(chunk) for chunk in chunks if isinstance(chunk, Slot)]


@given(shape=shapes, body=bodies, crowd=st.lists(people, min_size=2, max_size=8), kind=st.sampled_from(["html", "txt"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_abridged_template_prints_what_the_whole_prints_and_tells_shapes_apart(
    shape: str, body: str, crowd: list[dict[str, object]], kind: str
) -> None:
    files = {**FILES, "frame.html.j2": FRAME, "main.html.j2": shape.replace("BODY", body)}
    sources = {name.replace("html", kind): text.replace(".html.", f".{kind}.") for name, text in files.items()}
    name = f"main.{kind}.j2"
    language = Language(sources)
    short = abridge(language, [name], sources)
    assert short is not None
    shapes_of: dict[tuple[int, ...], list[object]] = {}
    for person in crowd:
        known = {**language.globals, **person}
        found = short.follow(known)
        assert found is not None
        shape_of, values = whole(language, name, known)
        assert list(found.values) == values
        assert shapes_of.setdefault(found.branches, shape_of) == shape_of


def test_several_templates_are_abridged_as_one_each_escaped_in_its_own_way() -> None:
    sources = {"a.txt.j2": "{% if flag %}{{ name }}{% endif %}", "a.html.j2": "<b>{{ name }}</b>"}
    language = Language(sources)
    short = abridge(language, list(sources), sources)
    assert isinstance(short, Abridgement)
    assert short.follow({"flag": True, "name": "<A>"}) == ((1,), ("<A>", "&lt;A&gt;"))
    assert short.follow({"flag": False, "name": "<A>"}) == ((), ("&lt;A&gt;",))
    assert short.follow({"flag": True}) is None


@pytest.mark.parametrize(
    "text",
    [
        "{% for item in items %}{{ item }}{% endfor %}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(name) }}",
        "{% set v %}{{ name }}{% endset %}{{ v }}",
        "{{ name }}{% set v = 1 %}{{ v }}",
        "{% if flag %}{% set v = 1 %}{% endif %}{{ name }}",
        "{% set v = name %}{{ v }}",
        "{% filter upper %}{{ name }}{% endfilter %}",
        "{% with v = name %}{{ v }}{% endwith %}",
        "before {% extends 'base.txt.j2' %}",
        "{% extends 'base.txt.j2' %}{% block body %}{{ super() }}{% endblock %}",
        "{% extends 'base.txt.j2' %}{% if flag %}{% set v = 1 %}{% endif %}",
        "{% extends base %}",
        "{% include [base, 'part.txt.j2'] %}",
        "{% include 'main.txt.j2' %}",
        "{% block b %}{{ name }}{% endblock %}{{ self.b() }}",
        "{% include 'nothing.txt.j2' %}",
    ],
)
def test_what_does_more_than_print_and_decide_is_rendered_whole(text: str) -> None:
    sources = {name.replace("html", "txt"): part.replace(".html.", ".txt.") for name, part in FILES.items()}
    sources["main.txt.j2"] = text
    assert abridge(Language(sources), ["main.txt.j2"], sources) is None


def test_the_contents_of_the_scenario_are_abridged_but_for_the_one_with_a_loop() -> None:
    folder = TEMPLATES / "onboarding"
    files = read_templates(read_plan(folder / "plan.yaml"), folder, TEMPLATES / "shared")
    sources = _sources(files)
    language = Language(sources)
    names = [name for name in sources if not name.startswith("shared/")]
    assert len(names) > 10
    whole = [name for name in names if abridge(language, [name], sources) is None]
    assert whole == ["survey.email.en.mjml.j2", "survey.email.zh.mjml.j2"]


@pytest.mark.parametrize("name", ["A\x00d", "two\nlines", "cp-test12345-0-", "x" * 9_900, "<mj-text>"])
def test_awkward_values_get_what_the_whole_template_makes_of_them(press, name: str) -> None:
    plain = {"hello.email.en.mjml.j2": _mail("{{ name }}"), "note.sms.en.txt.j2": "Hello {{ name }}"}
    looped = {
        file: text.replace("{{ name }}", "{% for n in [name] %}{{ n }}{% endfor %}") for file, text in plain.items()
    }
    assert _outcome(press(plain), name) == _outcome(press(looped), name)


def _mail(printed: str) -> str:
    return (
        "---\nsubject: Hello\n---\n<mjml><mj-body><mj-section><mj-column>\n"
        f"<mj-text>{printed}</mj-text>\n</mj-column></mj-section></mj-body></mjml>\n"
    )


def _outcome(printed, name: str) -> list[str]:
    printed.mail(name="Ada")
    printed.sms(name="Ada")
    found = []
    for send in (printed.mail, printed.sms):
        try:
            message = send(name=name)
            found += [message.subject(), message.text(), message.html(), str(message.oversize)]
        except Exception as fault:
            found.append(type(fault).__name__)
    return found
