"""A query of a plan: checked to be one SELECT, and put into the SELECT that reads it.

Never passes on anything that could change data, nor a parameter other than ``:since``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token

from commplan.errors import InputError

_WRITES = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Pragma, exp.Set)
#: What an ordered query needs at its end to keep its order, or to be allowed one, inside another query.
_KEEPS_ORDER = {"mysql": "LIMIT 18446744073709551615", "tsql": "OFFSET 0 ROWS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A query that has been checked: one SELECT, with no parameter but ``:since``.

    `head` is the part of it that must stand in front of whatever it is put into.
    """

    sql: str
    uses_since: bool
    head: str = ""

    @classmethod
    def check(cls, sql: str, *, dialect: str, place: str, field: str = "") -> Statement:
        """Return the statement written in `sql`, without what follows it; InputError unless it is one SELECT."""
        try:
            grammar = Dialect.get_or_raise(dialect)
            tokens = grammar.tokenize(sql)
            trees = [tree for tree in grammar.parse(sql) if tree is not None and not isinstance(tree, exp.Semicolon)]
        except (SqlglotError, RecursionError):
            raise InputError.one(
                place,
                "the query cannot be read as SQL",
                "try it in the database's own console, then paste it here",
                field,
            ) from None
        if len(trees) != 1 or not isinstance(trees[0], exp.Query) or trees[0].find(*_WRITES):
            raise InputError.one(
                place,
                "the query is not one SELECT",
                "write a single statement that only reads; commplan changes nothing",
                field,
            )
        if dialect == "mysql" and any(comment.startswith(("!", "M!")) for one in tokens for comment in one.comments):
            raise InputError.one(
                place, "the query has a comment that the server would run", "write what it says without /*! */", field
            )
        since = {
            colon.start
            for colon, name in pairwise(tokens)
            if colon.token_type.name == "COLON" and name.text == "since" and name.start == colon.end + 1
        }
        holders = {f":{node.name}" for node in trees[0].find_all(exp.Placeholder)}
        holders |= {node.name for node in trees[0].find_all(exp.Parameter, exp.SessionParameter)}
        if holders - {":since"}:
            raise InputError.one(
                place,
                "the query has a parameter other than :since",
                "write the value itself",
                field,
                word=min(holders - {":since"}).removeprefix(":"),
            )
        while tokens and tokens[-1].token_type.name == "SEMICOLON":
            tokens.pop()

        def escaped(start: int, end: int) -> str:
            # SQLAlchemy would take any :word, even inside a string, for a parameter: every other colon is escaped.
            return "".join(
                "\\:" if sql[at] == ":" and at not in since else sql[at] for at in range(start, min(end, len(sql)))
            )

        begin = _after_ctes(tokens) if dialect == "tsql" else 0
        end = "\n" + _KEEPS_ORDER.get(dialect, "") if _is_ordered(trees[0]) else ""
        return cls(
            sql=escaped(begin, tokens[-1].end + 1) + end.rstrip(),
            uses_since=":since" in holders,
            head=escaped(0, begin),
        )

    def within(self, select: str, *, where: str = "") -> str:
        """Return the SQL that takes `select` from this query, which is called ``s``; both are of our own making."""
        # No AS before the name: Oracle knows none.
        return f"{self.head}SELECT {select} FROM (\n{self.sql}\n) s{where and f' WHERE {where}'}"


def _is_ordered(tree: exp.Expr) -> bool:
    return bool(tree.args.get("order")) and not any(tree.args.get(part) for part in ("limit", "offset", "fetch"))


def _after_ctes(tokens: Sequence[Token]) -> int:
    """Return where the query begins that follows ``WITH x AS (…), …``, which SQL Server allows in front only."""
    if tokens[0].token_type.name != "WITH":
        return 0
    depth = 0
    for token, following in pairwise(tokens):
        depth += {"L_PAREN": 1, "R_PAREN": -1}.get(token.token_type.name, 0)
        ends = depth == 0 and token.token_type.name == "R_PAREN"
        if ends and following.token_type.name not in ("ALIAS", "COMMA"):
            return int(following.start)
    return 0
