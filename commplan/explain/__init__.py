"""Explaining one person: every decision the ledger holds about them, with its rule and its time.

Shows addresses and texts to whoever asks at a terminal, and to nobody else: nothing here is logged or raised.
"""

from commplan.explain.explanation import RULES, Decision, Explanation, Message, Part
from commplan.explain.person import explain

__all__ = ["RULES", "Decision", "Explanation", "Message", "Part", "explain"]
