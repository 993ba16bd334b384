"""The published JSON Schema of the plan file, for editors that complete and check while one writes.

Never stricter than the plan file, except that an editor wants quotes around text that looks like a number; less strict
where a schema cannot say it (how the parts fit each other).
"""

from __future__ import annotations

from typing import Any

from commplan.plan.model import Plan

#: The draft the schema is written in.
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) of a plan as an editor reads it.

    Editors read YAML 1.2, in which numbers, `true`, `false` and `null` are not text.
    """
    schema = Plan.model_json_schema(by_alias=True)
    definitions = {name: _group(part) for name, part in schema.pop("$defs").items()}
    return {
        "$schema": DRAFT,
        **_group(schema),
        "title": "commplan communication plan",
        "description": "Who is written to, when, on which channel, with what, and how it will be judged.",
        "$defs": definitions,
    }


def _group(definition: dict[str, Any]) -> dict[str, Any]:
    """Tidy a definition: no title that repeats its name, no nulls (an empty value is refused), closed sets of names."""
    if "enum" in definition:
        return {"type": "string", "enum": definition["enum"]}
    properties = {name: _field(field) for name, field in definition["properties"].items()}
    return {**{key: value for key, value in definition.items() if key != "title"}, "properties": properties}


def _field(field: dict[str, Any]) -> dict[str, Any]:
    if "patternProperties" in field:
        ((pattern, value),) = field.pop("patternProperties").items()
        field |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    field = {key: value for key, value in field.items() if key != "title" and not (key == "default" and value is None)}
    choices = [choice for choice in field.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del field["anyOf"]
        return {**choices[0], **field}
    return {**field, "anyOf": choices} if choices else field
