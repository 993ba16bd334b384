"""The plan: its model, how its values are written, and whether its parts fit each other.

Never reads a file or the environment.
"""

from commplan.plan.advice import advise
from commplan.plan.coherence import cross_check
from commplan.plan.field import Localized
from commplan.plan.model import (
    Ask,
    Audience,
    ConsentColumns,
    ConsentRecord,
    ContactColumns,
    Conversion,
    EvaluationTime,
    Event,
    Goal,
    Member,
    Plan,
    Segment,
    SegmentChange,
    Source,
    Step,
    Touch,
)
from commplan.plan.notation import Target, nearest, parse_duration, parse_name, suggestion, write_duration
from commplan.plan.schema import json_schema
from commplan.plan.tree import Problem

__all__ = [
    "Ask",
    "Audience",
    "ConsentColumns",
    "ConsentRecord",
    "ContactColumns",
    "Conversion",
    "EvaluationTime",
    "Event",
    "Goal",
    "Localized",
    "Member",
    "Plan",
    "Problem",
    "Segment",
    "SegmentChange",
    "Source",
    "Step",
    "Target",
    "Touch",
    "advise",
    "cross_check",
    "json_schema",
    "nearest",
    "parse_duration",
    "parse_name",
    "suggestion",
    "write_duration",
]
