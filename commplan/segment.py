"""Segments: named conditions of a plan, compiled to one CASE expression that the audience's own database evaluates.

Never passes on a condition as it was typed: what is embedded is a fresh rendering of the parsed tree, in which every
name is a known column and every function a listed one.
"""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

from commplan.errors import Finding, InputError
from commplan.plan import Audience

#: Column that the compiled expression is selected as.
SEGMENT_COLUMN = "cp_segment"

_PREDICATES: tuple[type[exp.Expr], ...] = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.NullSafeEQ,
    exp.NullSafeNEQ,
    exp.Is,
    exp.Between,
    exp.In,
    exp.Like,
    exp.ILike,
)
_CONNECTORS: tuple[type[exp.Expr], ...] = (exp.And, exp.Or, exp.Not)
#: Functions a condition may use, by the name a planner writes. None of them reads a clock, a file or a setting, so a
#: condition says the same thing on every day and on every server.
FUNCTIONS: dict[str, type[exp.Expr]] = {
    "abs": exp.Abs,
    "cast": exp.Cast,
    "coalesce": exp.Coalesce,
    "length": exp.Length,
    "lower": exp.Lower,
    "nullif": exp.Nullif,
    "round": exp.Round,
    "substr": exp.Substring,
    "trim": exp.Trim,
    "upper": exp.Upper,
}
_VALUES: tuple[type[exp.Expr], ...] = (
    exp.Column,
    exp.Identifier,
    exp.Literal,
    exp.Boolean,
    exp.Null,
    exp.Paren,
    exp.Add,
    exp.Sub,
    exp.Mul,
    exp.Div,
    exp.Mod,
    exp.Neg,
    exp.DPipe,
    exp.DataType,
)
_ALLOWED: tuple[type[exp.Expr], ...] = (*_PREDICATES, *_CONNECTORS, *_VALUES, *FUNCTIONS.values())
_MAX_LENGTH = 2_000


def compile(audience: Audience, *, columns: Collection[str], dialect: str) -> str | None:
    """Return the CASE expression that names each row's segment, or None when the audience has no segments.

    `columns` are the names the source's query returns; `dialect` is sqlglot's name of the source's database. The
    expression reads them from a table called ``s``. Raises InputError with one finding per bad segment.
    """
    findings: list[Finding] = []
    arms: list[tuple[exp.Expr, str]] = []
    remainder: str | None = None
    for number, segment in enumerate(audience.segments):
        field = f"audience.segments[{number}].if"
        place = f"segment {segment.name!r}"
        if remainder is not None:
            findings.append(
                Finding(
                    place=place,
                    field=field,
                    rule=f"nobody can be in it: {remainder!r} before it has no `if` and takes everybody",
                    remedy=f"move {remainder!r} to the end",
                )
            )
            continue
        if segment.condition is None:
            remainder = segment.name
            continue
        try:
            arms.append((_Checker(columns, dialect).check(segment.condition), segment.name))
        except _ConditionError as error:
            rule, _, remedy = str(error).partition("; ")
            findings.append(Finding(place=place, field=field, rule=rule, remedy=remedy, word=error.word))
    if findings:
        raise InputError(findings)
    if not arms:
        return None if remainder is None else exp.Literal.string(remainder).sql(dialect)
    case = exp.Case()
    for tree, name in arms:
        case = case.when(exp.Paren(this=tree), exp.Literal.string(name), copy=False)
    if remainder is not None:
        case = case.else_(exp.Literal.string(remainder), copy=False)
    return case.sql(dialect, comments=False)


class _ConditionError(ValueError):
    """A condition cannot be used: ``rule; remedy``, and the word of it that is at fault if it is one."""

    def __init__(self, text: str, word: str = "") -> None:
        super().__init__(text)
        self.word = word


class _Checker:
    """One condition: parsed, held against the lists above, its columns resolved."""

    def __init__(self, columns: Collection[str], dialect: str) -> None:
        self._columns = {column: column for column in columns}
        self._folded: dict[str, list[str]] = {}
        for column in columns:
            self._folded.setdefault(column.casefold(), []).append(column)
        self._dialect = dialect

    def check(self, text: str) -> exp.Expr:
        tree = self._parse(text)
        for node in tree.walk():
            self._check_node(node)
        self._check_boolean(tree)
        for column in list(tree.find_all(exp.Column)):
            name = self._resolve(column)
            column.set("this", exp.to_identifier(name, quoted=True))
            column.set("table", exp.to_identifier("s"))
        return tree

    def _parse(self, text: str) -> exp.Expr:
        if len(text) > _MAX_LENGTH:
            raise _ConditionError(
                f"it is longer than {_MAX_LENGTH} characters; make a column of it in the audience's query"
            )
        try:
            found = Dialect.get_or_raise(self._dialect).parse_into(exp.Condition, text)
        except SqlglotError:
            raise _ConditionError(
                "it is not one boolean SQL expression; write a condition such as lifetime_value >= 1000"
            ) from None
        except RecursionError:
            raise _ConditionError("it is nested too deeply; make it simpler") from None
        if len(found) != 1 or found[0] is None:
            raise _ConditionError("it is not one boolean SQL expression; write a single condition, without a semicolon")
        return found[0]

    def _check_node(self, node: exp.Expr) -> None:
        if isinstance(node, (exp.Query, exp.Exists, exp.Subquery)) or node.args.get("query") is not None:
            raise _ConditionError(
                "it contains a subquery; join what it needs in the audience's query and use the column"
            )
        if isinstance(node, (exp.Placeholder, exp.Parameter)):
            raise _ConditionError("it contains a parameter; only columns and constants are allowed")
        if isinstance(node, exp.Func) and not isinstance(node, (*_CONNECTORS, *_ALLOWED)):
            name = (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()
            raise _ConditionError(
                f"the function {name} is not on the list; use one of {', '.join(sorted(FUNCTIONS))}", name
            )
        if not isinstance(node, _ALLOWED):
            raise _ConditionError(
                f"{type(node).__name__.lower()} is not allowed in a condition; "
                "use comparisons, in, between, like, is null, and, or, not"
            )
        if isinstance(node, (*_PREDICATES, exp.Binary)) and not isinstance(node, (exp.And, exp.Or)):
            for side in (node.this, node.args.get("expression")):
                if isinstance(side, _PREDICATES):
                    raise _ConditionError(
                        "it compares the result of a comparison; write x > 1 and x < 5 instead of 1 < x < 5"
                    )

    def _check_boolean(self, tree: exp.Expr) -> None:
        while isinstance(tree, (exp.Paren, exp.Not)):
            tree = tree.this
        if isinstance(tree, (exp.And, exp.Or)):
            for part in tree.flatten():
                self._check_boolean(part)
        elif not isinstance(tree, (*_PREDICATES, exp.Boolean)):
            raise _ConditionError("it is not a condition but a value; compare it with something, such as vip = 1")

    def _resolve(self, column: exp.Column) -> str:
        if any(column.args.get(part) is not None for part in ("table", "db", "catalog")):
            raise _ConditionError(f"{column.name!r} has a table in front; write the column alone", column.name)
        name = column.name
        if name in self._columns:
            return name
        same = self._folded.get(name.casefold(), [])
        if len(same) == 1:
            return same[0]
        if column.this.quoted and not same:
            hint = f"text is written in single quotes: '{name}'"
        else:
            hint = next(iter(get_close_matches(name, self._columns, 1, 0.5)), None) or ", ".join(self._columns)
            hint = f"did you mean {hint}?" if "," not in hint else f"the query returns {hint}"
        raise _ConditionError(f"the audience's query returns no column {name!r}; {hint}", name)
