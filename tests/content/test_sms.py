"""SMS parts against the rules of GSM 03.38, and against a reference that walks every unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.content import sms_parts

BASIC = set(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = set("\f^{}\\[~]|€")


def walk(text: str) -> tuple[str, int]:
    gsm = all(c in BASIC or c in EXTENSION for c in text)
    units = [2 if (c in EXTENSION if gsm else ord(c) > 0xFFFF) else 1 for c in text]
    whole, part = (160, 153) if gsm else (70, 67)
    encoding = "GSM-7" if gsm else "UCS-2"
    if sum(units) <= whole:
        return encoding, 1 if text else 0
    parts, room = 1, part
    for need in units:
        if need > room:
            parts, room = parts + 1, part
        room -= need
    return encoding, parts


@pytest.mark.parametrize(
    ("text", "encoding", "parts"),
    [
        ("", "GSM-7", 0),
        ("a" * 160, "GSM-7", 1),
        ("a" * 161, "GSM-7", 2),
        ("a" * 306, "GSM-7", 2),
        ("a" * 307, "GSM-7", 3),
        ("€" * 80, "GSM-7", 1),
        ("a" + "€" * 80, "GSM-7", 2),
        ("a" * 152 + "€" * 77, "GSM-7", 3),
        ("汉" * 70, "UCS-2", 1),
        ("汉" * 71, "UCS-2", 2),
        ("汉" * 134, "UCS-2", 2),
        ("汉" * 135, "UCS-2", 3),
        ("😀" * 35, "UCS-2", 1),
        ("😀" * 36, "UCS-2", 2),
        ("😀" * 67, "UCS-2", 3),
        ("don’t", "UCS-2", 1),
        ("façade", "UCS-2", 1),
        ("Zoë", "UCS-2", 1),
        ("tab\there", "UCS-2", 1),
    ],
)
def test_a_text_takes_the_parts_that_a_network_bills(text: str, encoding: str, parts: int) -> None:
    assert sms_parts(text) == (encoding, parts)


@given(st.text(st.sampled_from("a€{汉😀ç\n"), max_size=400))
def test_counting_agrees_with_walking_every_unit(text: str) -> None:
    assert sms_parts(text) == walk(text)
