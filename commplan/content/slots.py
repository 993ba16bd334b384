"""Printed expressions as slots: a rendered template falls apart into what everybody shares and what is one person's.

Changes what a template yields, never what it says: joined, the pieces are the ordinary render, character by character.
"""

from __future__ import annotations

from typing import Any, ClassVar

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment

from commplan.content.fault import Site

#: The filter that prints a link to be counted.
SHORT = "short"


class Slot(str):
    """What one expression printed for one person. Each place in a template has a subclass that knows its `site`.

    `link` names a link that is to be counted, None for everything else that is printed.
    """

    __slots__ = ()
    site: ClassVar[Site]
    link: ClassVar[str | None]


class SlotEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates yield a `Slot` for every expression that they print directly."""

    def __init__(self, **options: Any) -> None:
        #: The slot classes of all templates compiled here, by the number that their code calls them by.
        self.slots: list[type[Slot]] = []
        super().__init__(**options)

    def add_slot(self, site: Site, link: str | None) -> int:
        """Return the number of a new slot class."""
        self.slots.append(type("Slot", (Slot,), {"__slots__": (), "site": site, "link": link}))
        return len(self.slots) - 1


class SlotCodeGenerator(CodeGenerator):
    """Compiles templates so that what is yielded straight into the result is a `Slot`.

    What is captured (macros, ``set`` and ``filter`` blocks, ``super()``, recursive loops) renders as usual; what is
    then printed of it is one slot. Jinja's `finalize` will not do: it is called for constants while compiling, and
    inside macros, so one person's value would end up in what everybody shares.
    """

    environment: SlotEnvironment
    _in_slot = False

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        if frame.buffer is None:
            self._open_slot(node)
        super()._output_child_pre(node, frame, finalize)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        super()._output_child_post(node, frame, finalize)
        if frame.buffer is None:
            self.write(")")

    def start_write(self, frame: Frame, node: nodes.Node | None = None) -> None:
        """Begin an output that no expression stands for: a call block, a filter block, a recursive loop.

        Without a node it passes on what a block or an included template has yielded, slots and all.
        """
        super().start_write(frame, node)
        if frame.buffer is None and node is not None:
            self._open_slot(node)
            self._in_slot = True

    def end_write(self, frame: Frame) -> None:
        """End what `start_write` began."""
        if self._in_slot and frame.buffer is None:
            self.write(")")
            self._in_slot = False
        super().end_write(frame)

    def _open_slot(self, node: nodes.Node) -> None:
        site = Site(file=file_of(self.name or ""), line=node.lineno, variable=variable_of(node))
        self.write(f"environment.slots[{self.environment.add_slot(site, link_of(node))}](")


def link_of(node: nodes.Node) -> str | None:
    """Return what reports call a link that ``{{ … | short }}`` prints, None if the expression prints none.

    The address as far as the template spells it out, else the variable that holds it.
    """
    if not isinstance(node, nodes.Filter) or node.name != SHORT:
        return None
    spelt = (str(each.value) for each in node.find_all(nodes.Const) if str(each.value).startswith("http"))
    return next(spelt, None) or variable_of(node) or "link"


def file_of(template: str) -> str:
    """Return the file that a template is in; a subject or preheader is called ``file#subject``."""
    return template.partition("#")[0]


def variable_of(node: nodes.Node) -> str | None:
    """Return the variable that a piece of a template is about as its author would write it, None for a constant."""
    match node:
        case nodes.Name(name=name):
            return str(name)
        case nodes.Getattr(node=inner, attr=attribute) | nodes.Getitem(node=inner, arg=nodes.Const(value=attribute)):
            owner = variable_of(inner)
            return None if owner is None else f"{owner}.{attribute}"
        case nodes.Call(node=inner):
            owner = variable_of(inner)
            return None if owner is None else f"{owner}()"
        case nodes.CallBlock(call=call):
            return variable_of(call)
    for child in node.iter_child_nodes():
        found = variable_of(child)
        if found is not None:
            return found
    return None
