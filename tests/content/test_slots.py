"""Skeleton and values against an ordinary render by Jinja itself, over generated templates and people."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import DictLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from commplan.content import fill
from commplan.content.language import Language, is_markup
from commplan.content.slots import Slot

MACROS = (
    "{% macro card(x) %}[{{ x }}|{{ number }}]{% endmacro %}"
    "{% macro wrap(x) %}<i>{{ x }}{{ caller() }}</i>{% endmacro %}"
    "{% macro twice(x) %}{% call wrap(x) %}{{ x }}{% endcall %}{% endmacro %}"
)
FILES = {
    "part.html.j2": "<p>{{ name }}{% if flag %}{{ number }}{% endif %}</p>",
    "macros.html.j2": MACROS,
    "base.html.j2": "<b>{% block body %}base {{ name }}{% endblock %}</b>{% block foot %}{{ number }}{% endblock %}",
}
EXPRESSIONS = [
    "name",
    "number",
    "'const'",
    "'a<b'",
    "number + 1",
    "name | upper",
    "name | e",
    "name ~ '<' ~ number",
    "name[:2]",
    "name | default('x')",
    "missing | default('<x>')",
    "items | join(', ')",
    "items | length",
    "name if flag else number",
    "record.key",
    "card(name)",
    "twice(name)",
    "name | replace('a', 'b')",
    "items | map('upper') | join('&')",
    "'%s!' | format(name)",
]
TREE = (
    "{% for node in tree recursive %}<li>{{ node.label }}"
    "{% if node.children %}<ul>{{ loop(node.children) }}</ul>{% endif %}</li>{% endfor %}"
)
_numbers = count()


def _enclose(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, min_size=1, max_size=3).map("".join)
    expressions = st.sampled_from(EXPRESSIONS)
    return st.one_of(
        st.tuples(several, several).map(lambda t: f"{{% if flag %}}{t[0]}{{% else %}}{t[1]}{{% endif %}}"),
        several.map(lambda t: f"{{% for item in items %}}{{{{ item }}}}{t}{{% else %}}none{{% endfor %}}"),
        several.map(lambda t: f"{{% for item in items if item %}}{{{{ loop.index }}}}{t}{{% endfor %}}"),
        several.map(lambda t: f"{{% set v %}}{t}{{% endset %}}{{{{ v }}}}-{{{{ v | length }}}}"),
        several.map(lambda t: f"{{% filter upper %}}{t}{{% endfilter %}}"),
        several.map(lambda t: f"{{% call wrap(name) %}}{t}{{% endcall %}}"),
        several.map(lambda t: f"{{% block b{next(_numbers)} scoped %}}{t}{{% endblock %}}"),
        st.tuples(expressions, several).map(lambda t: f"{{% with v = {t[0]} %}}{{{{ v }}}}{t[1]}{{% endwith %}}"),
        expressions.map(lambda e: f"{{% set v = {e} %}}{{{{ v }}}}"),
    )


snippets = st.recursive(
    st.one_of(
        st.sampled_from(["text ", "<p>a &amp; b</p>", "\n", "中文", "{% raw %}{{ name }}{% endraw %}", "{# note #}"]),
        st.sampled_from(EXPRESSIONS).map(lambda e: f"{{{{ {e} }}}}"),
        st.just("{% include 'part.html.j2' %}"),
        st.just(TREE),
    ),
    _enclose,
    max_leaves=12,
)
templates = st.lists(snippets, min_size=1, max_size=4).map("".join)
shapes = st.sampled_from(
    [
        MACROS + "BODY",
        "{% from 'macros.html.j2' import card, wrap, twice with context %}BODY",
        "{% extends 'base.html.j2' %}" + MACROS + "{% block body %}{{ super() }}BODY{% endblock %}",
    ]
)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"]), max_size=12)
people = st.fixed_dictionaries(
    {
        "name": texts,
        "number": st.integers(-5, 5),
        "flag": st.booleans(),
        "items": st.lists(texts, max_size=3),
        "record": st.fixed_dictionaries({"key": texts}),
        "tree": st.just(
            [{"label": "<a>", "children": [{"label": "b", "children": []}]}, {"label": "c", "children": []}]
        ),
    }
)


def ordinary(sources: Mapping[str, str], name: str, person: Mapping[str, object]) -> str:
    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader(sources),
        undefined=StrictUndefined,
        autoescape=is_markup,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(person)


def slotted(sources: Mapping[str, str], name: str, person: Mapping[str, object]) -> tuple[str, list[str], list[str]]:
    template = Language(sources).get_template(name)
    placeholders: list[str] = []
    values: list[str] = []
    skeleton: list[str] = []
    for chunk in template.root_render_func(template.new_context(dict(person))):
        if isinstance(chunk, Slot):
            placeholders.append(f"cp-x-{len(values)}-")
            values.append(chunk)
        skeleton.append(placeholders[-1] if isinstance(chunk, Slot) else chunk)
    return "".join(skeleton), placeholders, values


@given(shape=shapes, body=templates, person=people, kind=st.sampled_from(["html", "txt"]))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_filled_skeleton_is_the_ordinary_render(shape: str, body: str, person: dict[str, object], kind: str) -> None:
    sources = {name.replace("html", kind): text.replace(".html.", f".{kind}.") for name, text in FILES.items()}
    sources[f"main.{kind}.j2"] = shape.replace("BODY", body).replace(".html.", f".{kind}.")
    expected = ordinary(sources, f"main.{kind}.j2", person)
    skeleton, placeholders, values = slotted(sources, f"main.{kind}.j2", person)
    assert fill(skeleton, placeholders, values) == expected


@given(shape=shapes, body=templates, crowd=st.lists(people, min_size=2, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nobody_gets_what_is_another_persons(press, shape: str, body: str, crowd: list[dict[str, object]]) -> None:
    sources = {name.replace("html", "txt"): text.replace(".html.", ".txt.") for name, text in FILES.items()}
    sources["note.sms.en.txt.j2"] = "." + shape.replace("BODY", body).replace(".html.", ".txt.")
    printed = press(sources)
    for person in [*crowd, *crowd]:
        assert printed.sms(**person).text() == ordinary(sources, "note.sms.en.txt.j2", person)


@given(first=people, second=people)
@settings(max_examples=50, deadline=None)
def test_two_people_of_the_same_shape_share_a_skeleton(first: dict[str, object], second: dict[str, object]) -> None:
    second = {**second, "flag": first["flag"], "items": first["items"]}
    main = (
        MACROS + "{{ name }}{% if flag %}{{ card(name) }}{% endif %}{% for i in items %}{{ name }}{% endfor %}"
        "{% set v %}{{ name }}{% endset %}{{ v }}{% filter upper %}{{ name }}{% endfilter %}"
        "{% call wrap(name) %}{{ number }}{% endcall %}" + TREE
    )
    sources = {"main.html.j2": main}
    assert slotted(sources, "main.html.j2", first)[0] == slotted(sources, "main.html.j2", second)[0]


def test_a_constant_is_shared_and_a_value_is_not() -> None:
    skeleton, _, values = slotted({"main.html.j2": "{{ 'a' ~ 1 }} {{ name }}"}, "main.html.j2", {"name": "Ada"})
    assert (skeleton, values) == ("a1 cp-x-0-", ["Ada"])


def test_a_slot_knows_its_file_line_and_variable() -> None:
    template = Language({"main.html.j2": "\n\n{{ contact.locale | upper }}"}).get_template("main.html.j2")
    context = template.new_context({"contact": {"locale": "en"}})
    (slot,) = [chunk for chunk in template.root_render_func(context) if isinstance(chunk, Slot)]
    assert (slot.site.file, slot.site.line, slot.site.variable) == ("main.html.j2", 3, "contact.locale")
