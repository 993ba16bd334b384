"""A plan as a tree of texts, read with tolerance, and the problems found in it.

Never judges and never raises: what is missing or malformed is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from commplan import condition as conditions
from commplan.errors import quoted, write_path
from commplan.plan.notation import parse_duration
from commplan.terms import Channel

#: A group of fields as its file spells it: keys and texts, lists and groups of them.
Tree = Mapping[str, object]
#: Where something is in a plan: keys and positions from the root.
KeyPath = tuple[str | int, ...]

#: Entries of a list or a group that are looked at; no plan may have more, and looking must end soon.
MAX_ENTRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Two parts of a plan that do not fit: where, by which rule, what to do."""

    path: KeyPath
    rule: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{write_path(self.path)}: {self.rule}" + (f"; {self.remedy}" if self.remedy else "")


def group(value: object) -> Tree:
    """Return a group of fields; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def groups(value: object) -> list[Tree]:
    """Return the items of a list as groups, each in its position; none after `MAX_ENTRIES`."""
    return [group(item) for item in value[:MAX_ENTRIES]] if isinstance(value, list | tuple) else []


def text(value: object) -> str | None:
    """Return a text, None for anything else."""
    return str(value) if isinstance(value, str) else None


def duration(value: object) -> timedelta | None:
    """Return a duration, None where none (or no readable one) was written."""
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None


def claims(step: Tree) -> list[conditions.Claim]:
    """Return the claims of a step's `when`; none where it cannot be read."""
    try:
        return list(conditions.claims(conditions.parse(text(step.get("when")) or "")))
    except ValueError:
        return []


def segment_changes(step: Tree) -> list[tuple[str, Tree]]:
    """Return what a step changes for each segment, by the segment's name; none after `MAX_ENTRIES`."""
    changes = group(step.get("by_segment")).items()
    return [(name, group(change)) for name, change in islice(changes, MAX_ENTRIES)]


def step_channels(step: Tree) -> set[str]:
    """Return every channel that some segment meets in a step; empty if one of them cannot be read."""
    found = {text(step.get("channel"))}
    found |= {text(change["channel"]) for _, change in segment_changes(step) if "channel" in change}
    return set(written(found)) if found <= set(Channel) else set()


def names(items: Iterable[Tree], key: str) -> list[str | None]:
    """Return the text that each item has under `key`."""
    return [text(item.get(key)) for item in items]


def written(names: Iterable[str | None]) -> list[str]:
    """Return the names that were written."""
    return [name for name in names if name is not None]


def repeated(what: str, path: tuple[str, ...], key: str, names: Sequence[str | None]) -> Iterator[Problem]:
    """Yield a problem for each name that an earlier item of the list at `path` has already."""
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name is not None and first.setdefault(name, position) != position:
            yield Problem(
                path=(*path, position, key),
                rule=f"{what} {quoted(name)} is already the name of {path[-1]}[{first[name]}]",
                remedy="give it another name",
            )
