"""How many parts an SMS is sent, and billed, as: the rules of GSM 03.38 and 03.40.

Never changes a text: replacing a curly quote to save a part is the author's decision.
"""

from __future__ import annotations

import re
from typing import Literal

Encoding = Literal["GSM-7", "UCS-2"]

#: The default alphabet of GSM 03.38: one septet each.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
#: Its extension table: an escape and one septet more.
_EXTENSION = "\f^{}\\[~]|€"
_GSM = re.compile(f"[{re.escape(_BASIC + _EXTENSION)}]*")
_DOUBLE = {"GSM-7": re.compile(f"[{re.escape(_EXTENSION)}]"), "UCS-2": re.compile("[\U00010000-\U0010ffff]")}
#: Units in a message of one part, and in each part of a longer one, whose header takes six bytes.
_ROOM = {"GSM-7": (160, 153), "UCS-2": (70, 67)}


def sms_parts(text: str) -> tuple[Encoding, int]:
    """Return the encoding a text needs and the number of parts it takes; an empty text takes none.

    A character of two units (an escaped one in GSM-7, a surrogate pair in UCS-2) is never split over two parts.
    """
    encoding: Encoding = "GSM-7" if _GSM.fullmatch(text) else "UCS-2"
    double = _DOUBLE[encoding]
    whole, part = _ROOM[encoding]
    units = len(text) + sum(1 for _ in double.finditer(text))
    if units <= whole:
        return encoding, 1 if text else 0
    if units == len(text):
        return encoding, -(-units // part)
    parts, room = 1, part
    for character in text:
        need = 2 if double.match(character) else 1
        if need > room:
            parts, room = parts + 1, part
        room -= need
    return encoding, parts
