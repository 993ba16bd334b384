"""One message's templates abridged to what differs between people: the branches they take, and what is printed there.

Whoever takes the same branches shares a skeleton, so the text around them need not be put together again for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from jinja2 import Template, nodes
from jinja2.compiler import Frame
from jinja2.runtime import Context

from commplan.content.language import Language, MeasuringCodeGenerator, is_markup

#: Names that mean something only in the whole template.
_OF_THE_WHOLE = frozenset({"super", "self", "caller", "loop", "varargs", "kwargs"})
#: Most files inside one another.
_DEPTH = 20


class Path(NamedTuple):
    """What a person's data makes of templates: the numbers of the branches taken, and every value printed, in order."""

    branches: tuple[int, ...]
    values: tuple[str, ...]


class Abridgement:
    """The templates of one content, abridged together; made by `abridge`."""

    def __init__(self, language: Language, template: Template) -> None:
        self._language = language
        self._render = template.root_render_func

    def follow(self, known: dict[str, object]) -> Path | None:
        """Return the path of the person of whom this is known; None if anything fails: the whole says where."""
        branches: list[int] = []
        values: list[str] = []
        chunk: Any
        try:
            for chunk in self._render(Context(self._language, known, None, {})):
                # A branch says its number, which Jinja itself never would.
                (branches if chunk.__class__ is int else values).append(chunk)
        except Exception:  # a template may fail in any way
            return None
        return Path(tuple(branches), tuple(map(str, values)))


def abridge(language: Language, templates: Sequence[str], sources: Mapping[str, str]) -> Abridgement | None:
    """Return the abridgement of some templates in this order, None if they do more than print and decide.

    Loops, macros, captured text and variables that are set on the way are rendered whole.
    """
    body: list[nodes.Node] = []
    try:
        for name in templates:
            escapes = nodes.Keyword("autoescape", nodes.Const(is_markup(name)))
            statements = _Abridger(language, sources, name).statements()
            body.append(nodes.ScopedEvalContextModifier([escapes], statements))
    except _WholeError:
        return None
    short = language.overlay()
    short.code_generator_class = _CodeGenerator
    tree = nodes.Template(body, lineno=1)
    tree.set_environment(short)
    return Abridgement(short, short.from_string(tree))


class _WholeError(Exception):
    """These templates need to be rendered whole."""


class _CodeGenerator(MeasuringCodeGenerator):
    """Compiles a branch so that it yields its number before anything else."""

    _branches = 0

    def visit_If(self, node: nodes.If, frame: Frame) -> None:  # noqa: N802 — Jinja's name
        inner = frame.soft()
        self._branches += 1
        self.writeline("if ", node)
        self.visit(node.test, inner)
        self.write(":")
        self.indent()
        self.writeline(f"yield {self._branches}")
        self.blockvisit(node.body, inner)
        self.outdent()
        if node.else_:
            self.writeline("else:")
            self.indent()
            self.blockvisit(node.else_, inner)
            self.outdent()


class _Abridger:
    """Puts one template, what it extends and what it includes into one list of statements, without constant text."""

    def __init__(self, language: Language, sources: Mapping[str, str], name: str) -> None:
        self._language = language
        self._sources = sources
        self._name = name
        self._constants: dict[str, nodes.Const] = {}
        self._blocks: dict[str, nodes.Block] = {}

    def statements(self) -> list[nodes.Node]:
        """Return the statements; _WholeError if they would not say all."""
        return self._template(self._name, 0)

    def _template(self, name: str, depth: int) -> list[nodes.Node]:
        tree = self._parsed(name, depth)
        parent: str | None = None
        rest: list[nodes.Node] = []
        for node in tree.body:
            match node:
                case nodes.Assign(target=nodes.Name(name=variable), node=nodes.Const() as value) if not rest:
                    self._constants[variable] = value
                case nodes.Extends(template=nodes.Const(value=str(wanted))) if parent is None and not rest:
                    parent = wanted
                case _:
                    rest.append(node)
        if parent is None:
            return self._all(rest, depth)
        for node in rest:
            if not isinstance(node, (nodes.Block, nodes.Output)):
                raise _WholeError
        for block in tree.find_all(nodes.Block):
            self._blocks.setdefault(block.name, block)
        return self._template(parent, depth + 1)

    def _parsed(self, name: str, depth: int) -> nodes.Template:
        if depth > _DEPTH or name not in self._sources or is_markup(name) != is_markup(self._name):
            raise _WholeError
        return self._language.parse(self._sources[name], name)

    def _all(self, statements: Iterable[nodes.Node], depth: int) -> list[nodes.Node]:
        return [short for statement in statements for short in self._one(statement, depth)]

    def _one(self, node: nodes.Node, depth: int) -> list[nodes.Node]:
        match node:
            case nodes.Output(nodes=printed):
                # Each alone: Jinja would join constants that stand beside each other.
                varying = [child for child in printed if not self._is_constant(child)]
                return [nodes.Output([self._expression(child)]) for child in varying]
            case nodes.If():
                return self._if([node, *node.elif_], node.else_, depth)
            case nodes.Block():
                block = self._blocks.get(node.name, node)
                if block.required and not block.body:
                    raise _WholeError
                return self._all(block.body, depth)
            case nodes.Include(template=nodes.Const(value=str(name)), with_context=True, ignore_missing=False):
                included = self._parsed(name, depth)
                if any(included.find_all((nodes.Block, nodes.Extends))):
                    raise _WholeError
                return self._all(included.body, depth + 1)
        raise _WholeError

    def _if(self, branches: Sequence[nodes.If], otherwise: Sequence[nodes.Node], depth: int) -> list[nodes.Node]:
        """Return a decision as branches of two; what constants decide, as what comes of it."""
        if not branches:
            return self._all(otherwise, depth)
        first, *others = branches
        body, rest = self._all(first.body, depth), self._if(others, otherwise, depth)
        test = self._expression(cast(nodes.Expr, first.test))
        try:
            is_so = test.as_const(nodes.EvalContext(self._language, self._name))
        except nodes.Impossible:
            return [nodes.If(test, body, [], rest)]
        return body if is_so else rest

    def _is_constant(self, printed: nodes.Expr) -> bool:
        """Tell whether Jinja takes this for a part of the text: what can be computed without a person."""
        try:
            printed.as_const(nodes.EvalContext(self._language, self._name))
        except nodes.Impossible:
            return False
        return True

    def _expression(self, node: nodes.Expr) -> nodes.Expr:
        """Return an expression with the constants that its variables stand for."""
        if isinstance(node, nodes.Name):
            if node.name in _OF_THE_WHOLE:
                raise _WholeError
            return self._constants.get(node.name, node)
        for field, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, field, self._expression(cast(nodes.Expr, value)))
            elif isinstance(value, list):
                found = [self._expression(cast(nodes.Expr, v)) if isinstance(v, nodes.Node) else v for v in value]
                setattr(node, field, found)
        return node
