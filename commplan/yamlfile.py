"""YAML as people write it: every scalar is the text that stands there, and everything has a line and a column.

Never guesses a type (`on`, `no`, `20:00` and `500.00` stay text) and never resolves aliases, tags or merge keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from commplan.errors import Finding, InputError, write_path

#: Where a value is in its document: keys and positions from the root.
KeyPath = tuple[str | int, ...]
#: What a document is made of; a value that was left empty is not there at all.
Value = str | dict[str, "Value"] | list["Value"]

#: Longest document, in bytes of UTF-8.
MAX_BYTES = 1_000_000
#: Deepest nesting of groups and lists.
MAX_DEPTH = 50
#: Most findings that one document is answered with.
MAX_FINDINGS = 100

#: Characters that no editor shows, that YAML forbids, or that YAML but no editor takes for a line break.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_EMPTY = frozenset({"", "~", "null", "Null", "NULL"})
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: What the parser stumbles over, for people: words in its message, the rule, the remedy; the first match counts.
_SYNTAX = (
    ("escape", "this is not an escape that double quotes know", "use single quotes, or write \\\\ for a backslash"),
    ("quoted scalar", "the quotation mark is never closed", "close it"),
    ("cannot start any token", "a value cannot begin with {character}", "put the value in quotes"),
    ("values are not allowed", "a colon has no place here", "put the value in quotes, or correct the indentation"),
    ("keys are not allowed", "a question mark has no place here", "put the value in quotes"),
    ("entries are not allowed", "a list cannot begin here", "begin it on a line of its own"),
    ("flow", "a bracket is not closed, or a comma is missing", "close it, or put the value in quotes"),
    ("simple key", "a colon is missing after this name", "write `name: value`"),
    ("could not find expected ':'", "a colon is missing after this name", "write `name: value`"),
    ("block", "this line is not indented like the lines it belongs to", "indent them by the same number of spaces"),
    ("document start", "this line is not indented like the lines above", "indent them by the same number of spaces"),
)


class Mark(NamedTuple):
    """A position in a file, both from 1."""

    line: int
    column: int


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings of one document by line, without repetitions; what exceeds `MAX_FINDINGS` is only counted."""
    found = sorted(dict.fromkeys(findings), key=lambda finding: [int(n) for n in finding.place.rsplit(":", 2)[1:]])
    if len(found) <= MAX_FINDINGS:
        return found
    rest = len(found) - MAX_FINDINGS
    return [
        *found[:MAX_FINDINGS],
        Finding(place=found[MAX_FINDINGS].place, rule=f"and {rest:,} more from here", remedy="correct these first"),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document with the place of everything in it.

    `findings` are breaches that leave the rest readable (duplicate keys, anchors, tags, empty values); whoever uses
    `root` answers for them: `parse` refuses them, `compose` hands them over.
    """

    place: str
    text: str = field(repr=False)
    root: Value = field(repr=False)
    findings: tuple[Finding, ...] = ()
    keys: dict[KeyPath, Mark] = field(repr=False)
    values: dict[KeyPath, tuple[Mark, Mark]] = field(repr=False)

    def holds(self, path: KeyPath) -> bool:
        """Tell whether something was written at `path`."""
        return path in self.values

    def mark(self, path: KeyPath, *, at_key: bool = False) -> Mark:
        """Return where the value at `path` (or its key) begins; where nothing stands, where its nearest group does."""
        if at_key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values[path][0]

    def mark_of(self, word: str, path: KeyPath) -> Mark:
        """Return where a word first stands in the text at `path`; where it does not, where that text begins."""
        if word and path in self.values:
            (first, begin), (last, end) = self.values[path]
            whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
            for number, line in enumerate(self.text.split("\n")[first - 1 : last], first):
                start, stop = begin if number == first else 1, end if number == last else len(line) + 1
                if (match := whole.search(line, start - 1, stop - 1)) is not None:
                    return Mark(number, match.start() + 1)
        return self.mark(path)

    def finding(self, path: KeyPath, rule: str, remedy: str = "", *, at_key: bool = False) -> Finding:
        """Return a finding about the value at `path`, or about its key."""
        line, column = self.mark(path, at_key=at_key)
        return Finding(place=f"{self.place}:{line}:{column}", rule=rule, remedy=remedy, field=write_path(path))


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without byte order mark; InputError if it cannot be had."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 4)
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise InputError.one(str(path), f"cannot be read: {reason}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(data) > MAX_BYTES:
            return data[: error.start].decode("utf-8-sig") + " " * 4
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8-sig")) + 1
        raise InputError.one(f"{path}:{line}:{column}", "is not UTF-8", "save the file as UTF-8") from None


def parse(text: str, place: str) -> Document:
    """Return the document in `text`; InputError names every breach at ``place:line:column``.

    One document of groups, lists and text; refused are duplicate keys, keys that are not text, empty values, anchors,
    aliases, tags, directives, invisible characters, more than `MAX_BYTES` or `MAX_DEPTH`.
    """
    document = compose(text, place)
    if document.findings:
        raise InputError(in_order(document.findings))
    return document


def compose(text: str, place: str) -> Document:
    """Return the document as `parse` does, with breaches that leave the rest readable in its `findings`.

    An empty value is left out of `root`, a repeated key counts as first written. InputError for a text that cannot
    be read to its end.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InputError.one(place, f"is longer than {MAX_BYTES:,} bytes", "shorten it")
    if invisible := list(_INVISIBLE.finditer(text)):
        raise InputError(
            in_order(
                Finding(
                    place="{}:{}:{}".format(place, *_position(text, match.start())),
                    rule=f"the invisible character U+{ord(match[0]):04X} has no place in text",
                    remedy="delete it",
                )
                for match in invisible[: MAX_FINDINGS + 1]
            )
        )
    try:
        return _Composer(text, place).compose()
    except yaml.MarkedYAMLError as error:
        raise InputError([_explain(error, text, place)]) from None


def _position(text: str, index: int) -> Mark:
    return Mark(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _explain(error: yaml.MarkedYAMLError, text: str, place: str) -> Finding:
    said = f"{error.context or ''} {error.problem or ''}"
    rule, remedy = "this is not YAML", "check indentation, colons and quotes"
    mark = error.problem_mark or error.context_mark
    for words, *answer in _SYNTAX:
        if words in said:
            rule, remedy = answer
            if words in ("quoted scalar", "flow", "simple key") and error.context_mark is not None:
                mark = error.context_mark
            break
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    lines = text.splitlines()
    character = lines[line - 1][column - 1 : column] if line <= len(lines) else ""
    if character == "\t":
        rule, remedy = "a tab in the indentation", "indent with spaces"
    return Finding(place=f"{place}:{line}:{column}", rule=rule.format(character=character), remedy=remedy)


class _Composer:
    """Builds values from the parser's events, without recursion; the depth is checked as it grows."""

    def __init__(self, text: str, place: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._place = place
        self._whole = text
        self._findings: list[Finding] = []
        self._keys: dict[KeyPath, Mark] = {}
        self._values: dict[KeyPath, tuple[Mark, Mark]] = {}

    def compose(self) -> Document:
        root: Value | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, (), "a second document begins here", "keep one document in a file")
                    break
                if event.version or event.tags:
                    self._refuse(event, (), "directives are not allowed", "delete the lines that begin with %")
            elif isinstance(event, yaml.NodeEvent):
                root = self._value(event, (), 1)
        if root is None:
            if not self._findings:
                raise InputError.one(self._place, "is empty", "write `name: value` lines")
            raise InputError(in_order(self._findings))
        return Document(
            place=self._place,
            text=self._whole,
            root=root,
            findings=tuple(self._findings),
            keys=self._keys,
            values=self._values,
        )

    def _refuse(self, event: yaml.Event, path: KeyPath, rule: str, remedy: str) -> None:
        line, column = _mark(event.start_mark)
        self._findings.append(
            Finding(place=f"{self._place}:{line}:{column}", rule=rule, remedy=remedy, field=write_path(path))
        )

    def _value(self, event: yaml.Event, path: KeyPath, depth: int) -> Value | None:
        """Return the value that begins with `event`, None if nothing was written there."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, path, "aliases are not allowed", "write the value itself")
            return None
        if getattr(event, "anchor", None):
            self._refuse(event, path, "anchors are not allowed", "delete the word that begins with &")
        if getattr(event, "tag", None):
            self._refuse(event, path, "tags are not allowed", "delete the word that begins with !")
        begin = _mark(event.start_mark)
        value: Value | None
        if isinstance(event, yaml.ScalarEvent):
            value = self._text(event, path)
            end = _mark(event.end_mark)
        else:
            if depth > MAX_DEPTH:
                self._refuse(event, (), f"more than {MAX_DEPTH} levels of nesting", "make it simpler")
                raise InputError(in_order(self._findings))
            is_group = isinstance(event, yaml.MappingStartEvent)
            value = self._group(path, depth) if is_group else self._list(path, depth)
            end = begin
        if value is not None:
            self._values.setdefault(path, (begin, end))
        return value

    def _text(self, event: yaml.ScalarEvent, path: KeyPath) -> str | None:
        if not event.style and event.value in _EMPTY:
            self._refuse(event, path, "has no value", "write one, or leave the line out")
            return None
        return str(event.value)

    def _list(self, path: KeyPath, depth: int) -> list[Value]:
        items: list[Value] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            item = self._value(event, (*path, len(items)), depth + 1)
            items.append("" if item is None else item)
        return items

    def _group(self, path: KeyPath, depth: int) -> dict[str, Value]:
        group: dict[str, Value] = {}
        first: dict[str, Mark] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, path, "a key must be text", "put the key in quotes")
                self._value(event, (*path, "?"), depth + 1)
                self._value(next(self._events), (*path, "?"), depth + 1)
                continue
            if event.anchor or event.tag:
                self._refuse(event, path, "a key takes no anchor and no tag", "write the key alone")
            key = str(event.value)
            inside = (*path, key)
            if key in first:
                self._refuse(event, inside, f"appears twice, first in line {first[key].line}", "keep one of them")
            self._keys.setdefault(inside, first.setdefault(key, _mark(event.start_mark)))
            value = self._value(next(self._events), inside, depth + 1)
            if value is not None:
                group.setdefault(key, value)
        return group


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)
