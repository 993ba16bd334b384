"""Content: what a plan says, rendered for each person as a skeleton that many share and the values that differ.

Decides neither who is written to nor when; sends nothing.
"""

from commplan.content.fault import Site, TemplateFault
from commplan.content.library import Library
from commplan.content.skeleton import MAX_VALUES, Link, Rendered, Skeleton, fill
from commplan.content.sms import sms_parts
from commplan.content.source import counts_clicks, needed, read_templates

__all__ = [
    "MAX_VALUES",
    "Library",
    "Link",
    "Rendered",
    "Site",
    "Skeleton",
    "TemplateFault",
    "counts_clicks",
    "fill",
    "needed",
    "read_templates",
    "sms_parts",
]
