"""Language tags and what they shorten to."""

from __future__ import annotations

import pytest

from commplan.content.locale import fallbacks, normalise


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("zh-TW", ["zh-tw", "zh"]),
        ("zh_Hant_TW", ["zh-hant-tw", "zh-hant", "zh"]),
        ("EN", ["en"]),
        (" en-GB ", ["en-gb", "en"]),
        ("en-a-bbb", ["en-a-bbb", "en"]),
        (None, []),
        ("", []),
        ("../../etc", []),
        ("中文", []),
    ],
)
def test_a_tag_shortens_from_the_right(tag: str | None, expected: list[str]) -> None:
    assert list(fallbacks(tag)) == expected


def test_spellings_of_one_tag_are_one() -> None:
    assert normalise("ZH_tw") == normalise("zh-TW")
