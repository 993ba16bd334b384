"""Feedback: what people wrote and how low they scored, listed for the owner, who is told that there is some.

Never told to Prefect or in a notification: there are only counts, and a link that expires.
"""

from commplan.feedback.item import Item, find, scores_low
from commplan.feedback.link import Link, link_to, open_link
from commplan.feedback.telling import PAUSE, tell_owners

__all__ = ["PAUSE", "Item", "Link", "find", "link_to", "open_link", "scores_low", "tell_owners"]
