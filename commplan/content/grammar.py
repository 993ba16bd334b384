"""What a template may say: which files it pulls in, and which constructs it must do without.

Looks at the parsed template only; nothing is rendered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError

from commplan.content.language import Language
from commplan.content.slots import SHORT, file_of, variable_of
from commplan.errors import Finding

#: What templates can say of ``contact``, ``plan`` and ``links``.
KNOWN = {
    "contact": ("id", "locale", "segment"),
    "plan": ("name", "title", "topic"),
    "links": ("unsubscribe", "preferences", "stranger", "survey", "rsvp"),
}
#: Which kinds of file a file of each kind may pull in: escaping goes by kind, and so must not change half-way.
_MAY_USE = {"mjml": ("mjml", "html"), "html": ("html",), "txt": ("txt",)}
_LANGUAGE = Language({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A file that a template extends, includes or imports."""

    name: str
    line: int
    optional: bool


def kind_of(name: str) -> str | None:
    """Return a file's kind (``mjml``, ``html`` or ``txt``) by its name, None for any other name."""
    stem, _, suffix = file_of(name).rpartition(".")
    kind = stem.rpartition(".")[2]
    return kind if suffix == "j2" and kind in _MAY_USE else None


def inspect(name: str, source: str, place: str) -> tuple[list[Reference], list[Finding]]:
    """Return what a template pulls in and what is wrong with it; `place` is its file as people know it."""
    try:
        tree = _LANGUAGE.parse(source, name)
    except TemplateSyntaxError as error:
        return [], [_syntax(error, place)]
    references: list[Reference] = []
    findings = [Finding(place=f"{place}:{line}", rule=rule, remedy=remedy) for line, rule, remedy in _refused(tree)]
    for node in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        for target in _targets(node):
            if target is None:
                findings.append(
                    Finding(
                        place=f"{place}:{node.lineno}",
                        rule="the file is named by a variable, so nobody could say beforehand which files a run needs",
                        remedy="write the file's name in quotes, inside {% if %} where it depends on something",
                    )
                )
            elif kind_of(target) not in _MAY_USE.get(kind_of(name) or "", ()):
                allowed = " or ".join(f".{kind}.j2" for kind in _MAY_USE.get(kind_of(name) or "", ()))
                findings.append(
                    Finding(
                        place=f"{place}:{node.lineno}",
                        rule=f"{target} is of another kind, in which other characters are escaped",
                        remedy=f"use a file that ends in {allowed}",
                    )
                )
            else:
                optional = isinstance(node, nodes.Include) and (node.ignore_missing or _is_choice(node))
                references.append(Reference(name=target, line=node.lineno, optional=optional))
    if not findings:
        try:
            _LANGUAGE.compile(tree, name)
        except TemplateSyntaxError as error:
            findings.append(_syntax(error, place))
    return references, findings


def prints_short(file: str, files: Mapping[str, str]) -> bool:
    """Tell whether a template, or one that it pulls in, prints a link that is counted; `files` are all, by name."""
    left, seen = [file], set[str]()
    while left:
        name = left.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        tree = _LANGUAGE.parse(files[name], name)
        if any(call.name == SHORT for call in tree.find_all(nodes.Filter)):
            return True
        parts = tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport))
        left += [part for node in parts for part in _targets(node) if part is not None]
    return False


def _syntax(error: TemplateSyntaxError, place: str) -> Finding:
    rule = (error.message or "this is not a template").rstrip(".")
    return Finding(place=f"{place}:{error.lineno}", rule=rule, remedy="correct the Jinja syntax")


def _is_choice(node: nodes.Include) -> bool:
    return not isinstance(node.template, nodes.Const)


def _targets(node: nodes.Node) -> Iterator[str | None]:
    template: nodes.Expr = node.template  # type: ignore[attr-defined]
    match template:
        case nodes.Const(value=str(target)):
            yield target
        case nodes.List(items=items) | nodes.Tuple(items=items):
            for item in items:
                yield item.value if isinstance(item, nodes.Const) and isinstance(item.value, str) else None
        case _:
            yield None


def _refused(tree: nodes.Template) -> Iterator[tuple[int, str, str]]:
    for scope in tree.find_all(nodes.ScopedEvalContextModifier):
        yield scope.lineno, "{% autoescape %} is not available", "escaping goes by the file's kind; take the tag out"
    for call in tree.find_all((nodes.Filter, nodes.Test)):
        what, known = ("filter", _LANGUAGE.filters) if isinstance(call, nodes.Filter) else ("test", _LANGUAGE.tests)
        if call.name not in known:
            yield call.lineno, f"there is no {what} {call.name!r}", f"known: {', '.join(sorted(known))}"
    for part in tree.find_all(nodes.Getattr):
        allowed = KNOWN.get(part.node.name) if isinstance(part.node, nodes.Name) else None
        if allowed is not None and part.attr not in allowed:
            yield part.lineno, f"{variable_of(part)} does not exist", f"known: {', '.join(allowed)}"
    for name in tree.find_all(nodes.Name):
        if name.name in KNOWN and name.ctx == "store":
            yield name.lineno, f"{name.name} is taken", "choose another name for the variable"
