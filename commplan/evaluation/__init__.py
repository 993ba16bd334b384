"""Goals against metrics: a verdict one can trust for each, and everything needed to believe it.

Never guesses: what is not known yet makes a verdict inconclusive unless it could not change it.
"""

from commplan.evaluation.assess import evaluate
from commplan.evaluation.model import (
    BreakdownRow,
    Cost,
    CostLine,
    Evaluation,
    GoalResult,
    Range,
    ReasonCount,
    SegmentRate,
    SegmentResult,
    Stage,
    StepResult,
    SurveyResult,
    json_schema,
)

__all__ = [
    "BreakdownRow",
    "Cost",
    "CostLine",
    "Evaluation",
    "GoalResult",
    "Range",
    "ReasonCount",
    "SegmentRate",
    "SegmentResult",
    "Stage",
    "StepResult",
    "SurveyResult",
    "evaluate",
    "json_schema",
]
