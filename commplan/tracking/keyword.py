"""Keywords inside longer texts: what may ask us to stop, and what a person has to read.

Never takes such a text for an opt-out: "please stop calling me at noon" may mean anything.
"""

from __future__ import annotations

import re
import unicodedata

from commplan.receipts.twilio import STOP_WORDS

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
#: T alone opts out in Chinese texts; inside a text it is a letter.
_WORDS = frozenset(word for word in STOP_WORDS if word.isascii()) - {"t"}
#: Chinese is written without spaces, so these are looked for inside words.
_SIGNS = frozenset(word for word in STOP_WORDS if not word.isascii())


def mentions_stop(text: str) -> bool:
    """Tell whether one of the words that opt out stands in a text, whatever its width and case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = f" {' '.join(_WORD.findall(folded))} "
    return any(f" {word} " in words for word in _WORDS) or any(sign in folded for sign in _SIGNS)
