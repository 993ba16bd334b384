"""The types of a plan's fields: a notation, its JSON Schema, and how it is written again.

Never judges more than one field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

from commplan.plan.notation import (
    DATE,
    DURATION,
    ENV,
    LOCALE,
    NAME,
    NUMBER,
    TARGET,
    Target,
    parse_count,
    parse_date,
    parse_duration,
    parse_enroll,
    parse_env,
    parse_flag,
    parse_line,
    parse_locale,
    parse_localized,
    parse_metric,
    parse_name,
    parse_positive,
    parse_share,
    parse_text,
    parse_when,
    parse_window,
    parse_zone,
    write_duration,
)
from commplan.terms import Metric
from commplan.window import Window


class Part(BaseModel):
    """Base of everything in a plan: frozen, with no unknown fields, silent about its input in errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True, arbitrary_types_allowed=True
    )


def one_value(parse: Callable[[object], object]) -> Callable[[object], object]:
    """Refuse groups and lists in one sentence, before `parse` sees the value."""

    def check(value: object) -> object:
        if isinstance(value, dict | list | tuple):
            found = "a group" if isinstance(value, dict) else "a list"
            raise ValueError(f"is {found} where one value belongs; write a single value")
        return parse(value)

    return check


def _text_only(parse: Callable[[object], object]) -> BeforeValidator:
    return BeforeValidator(one_value(parse))


def _schema(pattern: re.Pattern[str] | None = None, *examples: str) -> WithJsonSchema:
    schema: dict[str, object] = {"type": "string"}
    # JSON Schema's patterns are those of ECMA 262: the same as ours, which use ASCII only.
    schema |= {"minLength": 1} if pattern is None else {"pattern": f"^(?:{pattern.pattern})$"}
    if examples:
        schema["examples"] = list(examples)
    return WithJsonSchema(schema)


Name = Annotated[str, _text_only(parse_name), _schema(NAME)]
Locale = Annotated[str, _text_only(parse_locale), _schema(LOCALE, "en", "zh-CN")]
EnvRef = Annotated[str, _text_only(parse_env), _schema(ENV, "env:NAME_OF_A_VARIABLE")]
parse_column = parse_line(128)
#: The name of a column in the source.
ColumnName = Annotated[str, _text_only(parse_column), _schema()]
Line = Annotated[str, _text_only(parse_line(200)), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200})]
Text = Annotated[str, _text_only(parse_text), _schema()]
Duration = Annotated[
    timedelta,
    _text_only(parse_duration),
    PlainSerializer(write_duration, return_type=str),
    _schema(DURATION, "P2D", "PT4H"),
]
PositiveDuration = Annotated[
    timedelta,
    _text_only(parse_positive),
    PlainSerializer(write_duration, return_type=str),
    _schema(DURATION, "P7D", "PT1H"),
]
Zone = Annotated[
    ZoneInfo, _text_only(parse_zone), PlainSerializer(str, return_type=str), _schema(None, "Asia/Shanghai")
]
Hours = Annotated[
    Window,
    _text_only(parse_window),
    PlainSerializer(str, return_type=str),
    _schema(None, "09:00-20:00", "20:00-02:00", "00:00-24:00"),
]
Date = Annotated[
    date,
    _text_only(parse_date),
    PlainSerializer(date.isoformat, return_type=str),
    _schema(DATE, "2026-12-01"),
]
Flag = Annotated[bool, _text_only(parse_flag), WithJsonSchema({"type": "boolean"})]
Count = Annotated[int, _text_only(parse_count), WithJsonSchema({"type": "integer", "minimum": 1})]
Share = Annotated[
    Decimal,
    _text_only(parse_share),
    PlainSerializer(lambda value: f"{value.normalize():f}", return_type=str),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{NUMBER}$"}], "examples": ["31%", "4.2"]}
    ),
]
MetricName = Annotated[
    str,
    _text_only(parse_metric),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [str(metric) for metric in Metric]},
                {"type": "string", "pattern": rf"^conversion\.{NAME.pattern}$"},
            ],
            "examples": ["delivered_rate", "conversion.activated"],
        }
    ),
]
When = Annotated[str, _text_only(parse_when), _schema(None, "not responded(welcome)", "not responded(welcome, open)")]
Enrolment = Annotated[
    Literal["once", "every_run"] | timedelta,
    _text_only(parse_enroll),
    PlainSerializer(lambda value: value if isinstance(value, str) else write_duration(value), return_type=str),
    _schema(re.compile(f"once|every_run|{DURATION.pattern}"), "once", "every_run", "P90D"),
]
#: One text for everybody, or one per locale.
Localized = Annotated[
    str | dict[str, str],
    BeforeValidator(parse_localized),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": {"pattern": f"^(?:{LOCALE.pattern})$"},
                    "additionalProperties": {"type": "string", "minLength": 1},
                },
            ]
        }
    ),
]


TargetText = Annotated[
    Target,
    _text_only(Target.parse),
    PlainSerializer(str, return_type=str),
    _schema(TARGET, "at least 40%", "at most 2%"),
]
