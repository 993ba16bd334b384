"""YAML as people write it: text with marks, and what is refused."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from commplan import yamlfile
from commplan.errors import InputError


def refusal(text: str) -> list[str]:
    with pytest.raises(InputError) as refused:
        yamlfile.parse(text, "f")
    return [str(finding) for finding in refused.value.findings]


def test_every_scalar_is_the_text_that_was_written() -> None:
    text = "{on: off, no: NO, at: 20:00, to: +4712345678, sum: 500.00, day: 2026-12-01, oct: 010, y: 1_000, e: 1e3}"
    assert yamlfile.parse(text, "f").root == {
        "on": "off",
        "no": "NO",
        "at": "20:00",
        "to": "+4712345678",
        "sum": "500.00",
        "day": "2026-12-01",
        "oct": "010",
        "y": "1_000",
        "e": "1e3",
    }


def test_quoted_text_is_never_taken_for_nothing() -> None:
    assert yamlfile.parse("{a: '', b: \"null\", c: '~'}", "f").root == {"a": "", "b": "null", "c": "~"}


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert yamlfile.parse("{<<: {a: 1}, b: 2}", "f").root == {"<<": {"a": "1"}, "b": "2"}


def test_marks_count_characters_from_one_and_fall_back_to_the_group() -> None:
    document = yamlfile.parse("名: 值\nlist:\n  - {名: x, b: 值得}\n", "f")
    assert document.mark(("名",)) == (1, 4)
    assert document.mark(("list", 0, "b")) == (3, 15)
    assert document.mark(("list", 0, "b"), at_key=True) == (3, 12)
    assert document.mark(("list", 0, "missing", "below")) == (3, 5)
    assert str(document.finding(("list", 0, "b"), "is wrong", "mend it")) == "f:3:15: list[0].b: is wrong; mend it"


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("", ["f: is empty; write `name: value` lines"]),
        ("# nothing\n", ["f: is empty; write `name: value` lines"]),
        ("a:\nb: ~\nc: [1, null]\n", [
            "f:1:3: a: has no value; write one, or leave the line out",
            "f:2:4: b: has no value; write one, or leave the line out",
            "f:3:8: c[1]: has no value; write one, or leave the line out",
        ]),
        ("a: 1\nb: {c: 1, c: 2}\na: 3\n", [
            "f:2:11: b.c: appears twice, first in line 2; keep one of them",
            "f:3:1: a: appears twice, first in line 1; keep one of them",
        ]),
        ("a: {x: 1}\na: {x: 2}\n", ["f:2:1: a: appears twice, first in line 1; keep one of them"]),
        ("a: &x 1\nb: *x\n", [
            "f:1:4: a: anchors are not allowed; delete the word that begins with &",
            "f:2:4: b: aliases are not allowed; write the value itself",
        ]),
        ("a: !!python/object:os.system x\n", ["f:1:4: a: tags are not allowed; delete the word that begins with !"]),
        ("&a b: 1\n", ["f:1:1: a key takes no anchor and no tag; write the key alone"]),
        ("? [a]\n: b\nc: 1\n", ["f:1:3: a key must be text; put the key in quotes"]),
        ("%YAML 1.1\n---\na: 1\n", ["f:1:1: directives are not allowed; delete the lines that begin with %"]),
        ("a: 1\n---\nb: 2\n", ["f:2:1: a second document begins here; keep one document in a file"]),
        ("a:\n\tb: 1\n", ["f:2:1: a tab in the indentation; indent with spaces"]),
        ("a: b: c\n", ["f:1:5: a colon has no place here; put the value in quotes, or correct the indentation"]),
        ("a: @x\n", ["f:1:4: a value cannot begin with @; put the value in quotes"]),
        ("a: 'x\nb: 1\n", ["f:1:4: the quotation mark is never closed; close it"]),
        ("a: [1,\nb: 2\n", [
            "f:1:4: a bracket is not closed, or a comma is missing; close it, or put the value in quotes"
        ]),
        ("a:\n  b: 1\n c: 2\n", [
            "f:3:2: this line is not indented like the lines it belongs to; indent them by the same number of spaces"
        ]),
        ("a: 1\nb\nc: 2\n", ["f:2:1: a colon is missing after this name; write `name: value`"]),
        ('a: "\\q"\n', [
            "f:1:5: this is not an escape that double quotes know; use single quotes, or write \\\\ for a backslash"
        ]),
        ("a: x\u200b\u2028y\x07\n", [
            "f:1:6: the invisible character U+2028 has no place in text; delete it",
            "f:1:8: the invisible character U+0007 has no place in text; delete it",
        ]),
        ("a: \ud800\n", ["f:1:4: the invisible character U+D800 has no place in text; delete it"]),
        ("[" * 51 + "]" * 51, ["f:1:51: more than 50 levels of nesting; make it simpler"]),
        ("a: " + "x" * 1_000_000, ["f: is longer than 1,000,000 bytes; shorten it"]),
        ("a: " + "值" * 400_000, ["f: is longer than 1,000,000 bytes; shorten it"]),
    ],
)  # fmt: skip
def test_what_is_refused_has_a_place_a_rule_and_a_remedy(text: str, findings: list[str]) -> None:
    assert refusal(text) == findings


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")
def test_the_fast_parser_places_everything_where_the_slow_one_does() -> None:
    text = (Path(__file__).parent.parent / "templates/onboarding/plan.yaml").read_text(encoding="utf-8")
    seen = [
        [(type(e), e.start_mark.line, e.start_mark.column, getattr(e, "value", None)) for e in yaml.parse(text, loader)]
        for loader in (yaml.CSafeLoader, yaml.SafeLoader)
    ]
    assert seen[0] == seen[1]


def test_fifty_levels_are_enough_for_anybody() -> None:
    assert yamlfile.parse("[" * 49 + "x" + "]" * 49, "f").root


def test_a_hundred_findings_are_told_and_the_rest_counted() -> None:
    findings = refusal("".join(f"a{n}:\n" for n in range(150)))
    assert len(findings) == 101
    assert findings[-1] == "f:101:6: and 50 more from here; correct these first"


@pytest.mark.parametrize(
    "text",
    [
        "- {a: b, c: d}\n" * 66_000,
        "[" * 900_000,
        "a: " + "{a: " * 49 + "b" + "}" * 49,
        "a: |\n" + "  x\n" * 200_000,
        "".join(f"k{n}: v\n" for n in range(90_000)),
        "a: " + "'" * 999_000,
    ],
    ids=["items", "brackets", "groups", "lines", "keys", "quotes"],
)
def test_a_megabyte_of_anything_is_answered_in_seconds(text: str) -> None:
    began = time.process_time()
    with suppress(InputError):
        yamlfile.parse(text, "f")
    assert time.process_time() - began < 10


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yamlfile.parse(yamlfile.read_text(file), "f").mark(("a",)) == (1, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: 1\n\xe5\x80\xbc: \xff\n", "2:4: is not UTF-8; save the file as UTF-8"),
        ("a: 欢迎\n".encode("gb18030"), "1:4: is not UTF-8; save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "1:1: is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_where_it_stops_being_it(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(data)
    with pytest.raises(InputError) as refused:
        yamlfile.read_text(file)
    assert str(refused.value) == f"{file}:{message}"


def test_a_long_file_is_refused_for_its_length_even_where_a_character_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    for offset in range(4):
        file.write_text("a" * offset + "𝄞" * 300_000, encoding="utf-8")
        with pytest.raises(InputError, match="is longer than 1,000,000 bytes"):
            yamlfile.parse(yamlfile.read_text(file), "f")


@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "no such file or directory"), (".", "is a directory")])
def test_a_file_that_cannot_be_read_is_said_plainly(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"cannot be read: {reason}"):
        yamlfile.read_text(tmp_path / name)
