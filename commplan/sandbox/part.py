"""SMS parts: how many messages of the air interface a text becomes (GSM 03.38 or UCS-2, with concatenation).

Counts on its own, as a provider does; never shares code with whoever sends.
"""

from __future__ import annotations

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("\f^{}\\[~]|€")


def parts(text: str) -> int:
    """Return the number of SMS parts of a text; 0 for none.

    GSM-7 has 160 units in one part and 153 in each of several, an extended character taking two; UCS-2 has 70 and
    67, a character outside the basic plane taking two. Nothing that takes two is cut in half.
    """
    is_gsm = all(character in _BASIC or character in _EXTENDED for character in text)
    if is_gsm:
        units = [2 if character in _EXTENDED else 1 for character in text]
        alone, joined = 160, 153
    else:
        units = [2 if ord(character) > 0xFFFF else 1 for character in text]
        alone, joined = 70, 67
    if not units:
        return 0
    if sum(units) <= alone:
        return 1
    count, room = 1, joined
    for unit in units:
        if unit > room:
            count, room = count + 1, joined
        room -= unit
    return count
