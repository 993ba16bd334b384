"""What pydantic finds wrong in a plan, in sentences for people.

Never repeats pydantic's own words, and never a value that may be an address or a secret.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic_core import ErrorDetails

from commplan.errors import quoted
from commplan.plan.field import Part
from commplan.plan.model import Audience, EvaluationTime, Goal, Plan, SegmentChange, Source, Step
from commplan.plan.notation import nearest

#: Fields that other versions of the plan file have; here nothing would follow from them.
UNBUILT: Mapping[type[Part], tuple[str, ...]] = {
    Plan: (
        *("approval", "budget", "cap", "caps", "experiment", "experiments", "frequency_cap", "guardrails", "holdout"),
        *("holidays", "pace", "quiet_hours", "schedule", "strategy", "timetable", "waves"),
    ),
    Goal: ("compare", "weight"),
    Audience: ("exclude", "frequency_cap", "groups", "holdout"),
    Source: ("file",),
    Step: (
        *("approval", "attachments", "cap", "escalate", "evidence", "experiment", "frequency_cap", "holdout"),
        *("holidays", "pace", "variants", "waves"),
    ),
    SegmentChange: ("experiment", "pace", "variants"),
    EvaluationTime: ("compare", "holdout"),
}

Sentence = tuple[str, str]


def _missing(error: ErrorDetails) -> Sentence:
    return "is missing", f"write `{error['loc'][-1]}:` here"


def _choice(error: ErrorDetails) -> Sentence:
    context = error.get("ctx", {})
    known = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
    found = error["input"]
    if not isinstance(found, str):
        return f"is {_kind(found)} where one word belongs", f"write one of {', '.join(known)}"
    near = nearest(found, known)
    return f"{quoted(found)} is not known here", f"did you mean {near}?" if near else f"write one of {', '.join(known)}"


def _own(error: ErrorDetails) -> Sentence:
    rule, semicolon, remedy = str(error["ctx"]["error"]).rpartition("; ")
    return (rule, remedy) if semicolon else (remedy, "")


def _too_few(error: ErrorDetails) -> Sentence:
    return "is empty", f"write at least {error['ctx']['min_length']}"


def _too_many(error: ErrorDetails) -> Sentence:
    return f"has more than {error['ctx']['max_length']} entries", "shorten it"


def _expected(what: str, remedy: str) -> Callable[[ErrorDetails], Sentence]:
    return lambda error: (f"is {_kind(error['input'])} where {what} belongs", remedy)


def _kind(value: object) -> str:
    return "a group" if isinstance(value, dict) else "a list" if isinstance(value, list) else "text"


_GROUP = _expected("a group", "write `name: value` lines below it")

#: Every type of error that a plan read from a file can cause, besides unknown fields.
SENTENCES: Mapping[str, Callable[[ErrorDetails], Sentence]] = {
    "missing": _missing,
    "value_error": _own,
    "enum": _choice,
    "literal_error": _choice,
    "model_type": _GROUP,
    "dict_type": _GROUP,
    "tuple_type": _expected("a list", "begin each entry with `- `"),
    "too_short": _too_few,
    "too_long": _too_many,
}


def sentence(error: ErrorDetails) -> Sentence:
    """Return rule and remedy for one of pydantic's errors (which must come with their input)."""
    if error["type"] == "extra_forbidden":
        return _unknown(error)
    return SENTENCES[error["type"]](error)


def _unknown(error: ErrorDetails) -> Sentence:
    model = model_at(error["loc"])
    if error["loc"][-1] in UNBUILT.get(model, ()):
        return "is not available in this version", "leave it out"
    if (field := meant_field(error)) is not None:
        return "is not a field of the plan file", f"did you mean {field}?"
    return "is not a field of the plan file", f"known here are {', '.join(field_names(model))}"


def meant_field(error: ErrorDetails) -> str | None:
    """Return the field that an unknown one was probably meant to be; None for other errors, or if none is close."""
    model = model_at(error["loc"])
    if error["type"] != "extra_forbidden" or error["loc"][-1] in UNBUILT.get(model, ()):
        return None
    return nearest(str(error["loc"][-1]), field_names(model))


def field_names(model: type[Part]) -> list[str]:
    """Return the names of a group's fields, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]


def model_at(path: tuple[str | int, ...]) -> type[Part]:
    """Return the group in which the field at `path` is, or would be."""
    model: type[Part] = Plan
    is_name = False
    for part in path[:-1]:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        annotation = next(
            field.annotation for name, field in model.model_fields.items() if (field.alias or name) == part
        )
        model = _part_in(annotation) or model
        is_name = get_origin(annotation) is dict
    return model


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    if get_origin(annotation) in (dict, tuple, Union, types.UnionType):
        return next((found for inner in get_args(annotation) if (found := _part_in(inner)) is not None), None)
    return None
