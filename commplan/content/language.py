"""The template language: Jinja in a sandbox, with limits, strict variables, and escaping by the kind in a file's name.

Reads nothing but the files it is given, and its errors repeat nothing that a person's data could be in.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from jinja2 import DictLoader, StrictUndefined, Undefined, UndefinedError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Context
from jinja2.utils import pass_context

from commplan.content.slots import SHORT, SlotCodeGenerator, SlotEnvironment

#: Most characters that one part of a message (subject, text, HTML) may have, and any string on the way to it.
MAX_OUTPUT = 500_000
#: Most numbers in one ``range()``.
MAX_RANGE = 1_000
#: Most blocks entered (loop rounds, macro calls, branches) for one person.
MAX_STEPS = 100_000
#: CPU seconds that one person's message may take once it has entered 64 blocks.
MAX_SECONDS = 2.0

#: Filters that would print raw values as markup, differ from run to run, or show more than the template asks for.
_NO_FILTERS = ("attr", "pprint", "random", "safe", "tojson")
#: Methods of a string whose result may be of any size, whatever the size of the string.
_UNBOUNDED_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")
_HUGE_WIDTH = re.compile(r"%[^A-Za-z%]*(?:\d{4}|\*)")


class LimitError(TemplateRuntimeError):
    """A template went over one of the limits; the message names the limit."""


class EmptyError(UndefinedError):
    """A template needs a value that this person does not have."""


class Unknown(StrictUndefined):
    """A variable that does not exist. Its errors carry its name alone."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)


class Empty(Undefined):
    """A column that is null for this person: false, equal to none, replaced by ``default``, and an error if printed."""

    __slots__ = ()
    __str__ = __iter__ = __len__ = Undefined._fail_with_undefined_error

    def __init__(self, name: str) -> None:
        super().__init__(name=name, exc=EmptyError)

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Empty)

    def __hash__(self) -> int:
        return hash(None)

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)


class MeasuringCodeGenerator(CodeGenerator):
    """Measures strings that are put together."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 — Jinja's name
        """Begin and end the measuring."""
        self.write("environment.measured(")
        super().visit_Concat(node, frame)
        self.write(")")


class _CodeGenerator(SlotCodeGenerator, MeasuringCodeGenerator):
    """Counts the blocks that are entered."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.count_step()")
        super().blockvisit(nodes, frame)


class Language(SlotEnvironment):
    """The environment that all templates of one run are compiled in; `sources` maps names to template texts.

    Used by one thread at a time: the counts of a render are kept here.
    """

    code_generator_class: type[CodeGenerator] = _CodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, sources: Mapping[str, str]) -> None:
        super().__init__(
            loader=DictLoader(sources),
            autoescape=is_markup,
            undefined=Unknown,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self._steps = 0
        self._started = 0.0
        #: Links to be counted that were printed for this person, wherever they ended up.
        self.links = 0
        for name in _NO_FILTERS:
            del self.filters[name]
        self.filters["oneline"] = _oneline
        self.filters[SHORT] = self._short
        self.filters["center"] = _bounded(self.filters["center"], default=80)
        self.filters["indent"] = _bounded(self.filters["indent"], default=4)
        self.filters["format"] = _narrow(self.filters["format"])
        self.tests["none"] = lambda value: value is None or isinstance(value, Empty)
        del self.globals["lipsum"]
        self.globals["range"] = _short_range

    def begin(self) -> None:
        """Start counting for one person."""
        self._steps = 0
        self.links = 0

    def count_step(self) -> None:
        """Count one block entered; LimitError if this person's message takes too many, or too long."""
        self._steps += 1
        if self._steps & 63:
            return
        if self._steps > MAX_STEPS:
            raise LimitError(f"more than {MAX_STEPS:,} loop rounds and macro calls")
        # The clock is asked of long messages only: asking it costs as much as rendering a short one.
        if self._steps == 64:
            self._started = time.thread_time()
        elif time.thread_time() - self._started > MAX_SECONDS:
            raise LimitError(f"more than {MAX_SECONDS:g} seconds")

    @pass_context
    def _short(self, context: Context, value: object) -> str:
        """Filter: the address, to be counted. Takes the context so that a constant is not printed once for all."""
        self.links += 1
        return str(value)

    def measured(self, value: Any) -> Any:
        """Return a value; LimitError if it is a text, or a list, that is too long."""
        if isinstance(value, (str, list, tuple)) and len(value) > MAX_OUTPUT:
            raise LimitError(f"more than {MAX_OUTPUT:,} characters")
        return value

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join captured output; LimitError if it is too long."""
        pieces = list(parts)
        if sum(map(len, pieces)) > MAX_OUTPUT:
            raise LimitError(f"more than {MAX_OUTPUT:,} characters")
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result could be of any size."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and isinstance(times, int) and len(many) * times > MAX_OUTPUT:
                    raise LimitError(f"more than {MAX_OUTPUT:,} characters")
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > MAX_RANGE:
                raise LimitError("a number of more than 300 digits")
        elif operator == "%" and isinstance(left, str) and _HUGE_WIDTH.search(left):
            raise LimitError("a field of more than 999 characters")
        return self.measured(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return ``obj.attribute``: of a mapping its value rather than a method, of a null value an `Empty`."""
        if type(obj) is dict and attribute in obj:
            value = obj[attribute]
            return Empty(attribute) if value is None else value
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return ``obj[argument]``, of a null value an `Empty`."""
        value = super().getitem(obj, argument)
        return Empty(str(argument)) if value is None else value

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether templates may use an attribute."""
        if isinstance(obj, str) and attr in _UNBOUNDED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Leave `str.format` to `is_safe_attribute`, which refuses it."""


@cache
def is_markup(name: str | None) -> bool:
    """Tell whether what a template prints is escaped: the kind in the file's name decides, subjects are plain text."""
    if name is None:
        return True
    file, _, part = name.partition("#")
    return part != "subject" and not file.endswith(".txt.j2")


def _short_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise LimitError(f"a range() of more than {MAX_RANGE:,} numbers")
    return numbers


def _oneline(value: object) -> str:
    """Filter: the text with every run of white space, line breaks included, as one space."""
    return " ".join(str(value).split())


def _bounded(function: Callable[..., str], *, default: int) -> Callable[..., str]:
    def limited(value: str, width: int | str = default, *args: Any, **options: Any) -> str:
        if (width if isinstance(width, int) else len(width)) > MAX_RANGE:
            raise LimitError(f"a width of more than {MAX_RANGE:,}")
        return function(value, width, *args, **options)

    return limited


def _narrow(function: Callable[..., str]) -> Callable[..., str]:
    def limited(value: str, *args: Any, **options: Any) -> str:
        if _HUGE_WIDTH.search(str(value)):
            raise LimitError("a field of more than 999 characters")
        return function(value, *args, **options)

    return limited
