"""The plan as a model: how values are written, what a step is for a segment, and the published schema."""

from __future__ import annotations

import copy
import json
import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commplan import planfile
from commplan.plan import Plan, Step, Target, cross_check, json_schema, parse_duration, write_duration
from commplan.plan.field import Part
from commplan.plan.notation import MAX_DURATION, parse_share
from commplan.terms import Channel
from commplan.window import SMS_HOURS, Window

TEMPLATES = Path(__file__).parent.parent / "templates"
ONBOARDING = TEMPLATES / "onboarding" / "plan.yaml"


@pytest.fixture
def onboarding() -> Plan:
    return planfile.read_plan(ONBOARDING)


def tree(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def test_a_step_may_be_a_day_late_and_two_if_it_rests_on_silence(onboarding: Plan) -> None:
    welcome, nudge, _ = onboarding.sequence
    assert (welcome.lateness, nudge.lateness) == (timedelta(days=1), timedelta(days=3))
    unsaid = {"not_after": None}
    assert nudge.model_copy(update=unsaid).lateness == timedelta(days=2)
    assert Step(step="a", channel="sms", content="a", when="clicked(welcome)").lateness == timedelta(days=1)


# durations, shares, targets


@given(st.timedeltas(min_value=timedelta(0), max_value=MAX_DURATION).map(lambda d: d - timedelta(0, 0, d.microseconds)))
def test_a_duration_reads_what_it_writes(duration: timedelta) -> None:
    assert parse_duration(write_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("P2D", timedelta(days=2)),
        ("P1W", timedelta(weeks=1)),
        ("P1W2DT3H4M5S", timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5)),
        ("PT36H", timedelta(hours=36)),
        ("PT0S", timedelta(0)),
        ("P3650D", MAX_DURATION),
    ],
)
def test_durations_are_read_as_iso_8601_says(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("2 days", "write P2D"),
        ("1 week", "write P1W"),
        ("90min", "write PT90M"),
        ("4h", "write PT4H"),
        ("1 month", "write P2D, P1W or PT4H"),
        ("P", "write P2D, P1W or PT4H"),
        ("P1DT", "write P2D, P1W or PT4H"),
        ("P1Y", "write P2D, P1W or PT4H"),
        ("P1.5D", "write P2D, P1W or PT4H"),
        ("-P1D", "write P2D, P1W or PT4H"),
        ("P1D\n", "write P2D, P1W or PT4H"),
        ("P٢D", "write P2D, P1W or PT4H"),
        ("P3651D", "write P3650D or less"),
        ("P" + "9" * 5000 + "D", "write P2D, P1W or PT4H"),
    ],
)
def test_what_is_not_a_duration_is_refused_with_what_to_write(text: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"; {remedy}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "bound", "value", "is_share"),
    [
        ("at least 40%", "at least", "0.4", True),
        ("at most 2.5%", "at most", "0.025", True),
        ("at least 4.2", "at least", "4.2", False),
        ("at least -10", "at least", "-10", False),
        ("at least 100%", "at least", "1", True),
    ],
)
def test_a_target_is_a_bound_and_a_number(text: str, bound: str, value: str, is_share: bool) -> None:
    target = Target.parse(text)
    assert (target.bound, target.value, target.is_share) == (bound, Decimal(value), is_share)
    assert str(target) == text


@pytest.mark.parametrize("text", ["40%", "at least", "at least 40 %", "over 40%", "at least 1e9%", "at least 40%\n"])
def test_what_is_not_a_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a target; write `at least 40%` or `at most 2%`"):
        Target.parse(text)


def test_a_share_is_a_fraction_of_one() -> None:
    assert parse_share("31%") == Decimal("0.31")
    assert parse_share("4.2") == Decimal("4.2")


# the model


def test_a_step_follows_the_one_before_unless_it_says_otherwise(onboarding: Plan) -> None:
    assert [onboarding.follows(number) for number in (1, 2, 3)] == [None, 1, 1]
    nudge = onboarding.sequence[1].model_copy(update={"after": None})
    survey = onboarding.sequence[2].model_copy(update={"after": None})
    chain = onboarding.model_copy(update={"sequence": (onboarding.sequence[0], nudge, survey)})
    assert [chain.follows(number) for number in (1, 2, 3)] == [None, 1, 2]


def test_a_step_has_a_number_and_an_unknown_one_has_none(onboarding: Plan) -> None:
    assert onboarding.step_number("survey") == 3
    with pytest.raises(KeyError):
        onboarding.step_number("farewell")


def test_a_segment_changes_what_it_names_and_nothing_else(onboarding: Plan) -> None:
    vip, others = onboarding.touch(1, "vip"), onboarding.touch(1, "new")
    assert (vip.content, others.content) == ("welcome-vip", "welcome")
    assert onboarding.touch(1, None) == others
    assert (vip.channel, vip.wait, vip.window, vip.skip) == (others.channel, others.wait, others.window, others.skip)


def test_an_sms_without_hours_gets_the_decent_ones_also_where_a_segment_makes_it_one() -> None:
    changes = {"vip": {"channel": "sms", "wait": "P1D"}, "new": {"skip": "true"}, "all": {"window": "00:00-24:00"}}
    step = Step.model_validate({"step": "hi", "channel": "email", "content": "hi", "by_segment": changes})
    plan = Plan.model_construct(sequence=(step,))
    assert plan.touch(1, None).window is None
    assert plan.touch(1, "vip").window == SMS_HOURS
    assert plan.touch(1, "vip").wait == timedelta(days=1)
    assert plan.touch(1, "new").skip
    assert plan.channels == {Channel.EMAIL, Channel.SMS}


def test_a_window_of_the_whole_day_lifts_the_decent_hours() -> None:
    step = Step.model_validate({"step": "hi", "channel": "sms", "content": "hi", "window": "00:00-24:00"})
    assert step.window == Window.parse("00:00-24:00")
    assert Plan.model_construct(sequence=(step,)).touch(1, None).window is None


def test_the_plans_own_zone_is_that_of_its_source(onboarding: Plan) -> None:
    assert onboarding.zone == ZoneInfo("Asia/Shanghai")
    source = onboarding.audience.source.model_copy(update={"zone": None})
    elsewhere = onboarding.model_copy(update={"audience": onboarding.audience.model_copy(update={"source": source})})
    assert elsewhere.zone == ZoneInfo("UTC")


def test_a_plan_survives_being_written_and_read(onboarding: Plan) -> None:
    assert Plan.model_validate(json.loads(json.dumps(tree(onboarding)))) == onboarding


def test_a_plan_whose_parts_do_not_fit_does_not_exist(onboarding: Plan) -> None:
    data = tree(onboarding)
    data["owner"] = "nobody"
    with pytest.raises(ValidationError, match='owner: "nobody" is not in team; write crm'):
        Plan.model_validate(data)


def test_cross_checks_pass_over_what_is_malformed_elsewhere(onboarding: Plan) -> None:
    whole = tree(onboarding)
    assert cross_check(whole) == []
    for name in whole:
        for wrong in ("x", [], {}, [[]], {"x": []}, None):
            cross_check({**whole, name: wrong})  # must not raise
    for name in whole["sequence"][2]:
        for wrong in ("x", [], {}, [[]], {"x": []}, None):
            cross_check({**whole, "sequence": [*whole["sequence"][:2], {**whole["sequence"][2], name: wrong}]})


# the schema


def editor_reads(text: str) -> Any:
    """Return YAML 1.2 as editors read it: only null, booleans and numbers are not text."""

    class Core(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own way to say it

    for tag, pattern in (
        ("null", r"^(?:null|Null|NULL|~|)$"),
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$"),
        ("int", r"^[-+]?[0-9]+$"),
        ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    ):
        Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), None)
    return yaml.load(text, Core)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    published = json_schema()
    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema.Draft202012Validator(published)


def test_the_published_file_is_the_schema_of_this_version() -> None:
    published = json.loads((TEMPLATES / "plan.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "run `commplan schema > templates/plan.schema.json`"


@pytest.mark.parametrize("plan_file", sorted(TEMPLATES.glob("*/plan.yaml")), ids=lambda file: file.parent.name)
def test_every_scenario_is_valid_for_an_editor_and_names_the_schema(
    schema: jsonschema.Draft202012Validator, plan_file: Path
) -> None:
    text = plan_file.read_text(encoding="utf-8")
    schema.validate(editor_reads(text))
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named
    assert (plan_file.parent / named[1]).resolve() == (TEMPLATES / "plan.schema.json").resolve()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan",), "On Boarding"),
        (("title",), ""),
        (("title",), None),
        (("purpose",), "spam"),
        (("live",), "yes"),
        (("team",), {"Not A Name": {}}),
        (("team", "crm"), {"notify": "https://hooks.example.com/secret"}),
        (("owner",), ["crm"]),
        (("goals",), []),
        (("goals", 0, "metric"), "happiness"),
        (("goals", 0, "target"), "95%"),
        (("goals", 0, "target"), 0.95),
        (("goals", 1, "within"), "1 week"),
        (("audience", "source", "url"), "postgresql://crm:secret@db/crm"),
        (("audience", "source", "row_limit"), 0),
        (("audience", "start"), 20261101),
        (("audience", "enroll"), "twice"),
        (("audience", "segments", 0), {"name": "vip", "condition": "x > 1"}),
        (("audience", "contact", "consent", "sms"), {"source": "form"}),
        (("audience", "contact", "consent", "sms"), {"given": "may_text", "when": "agreed"}),
        (("conversions", "activated"), {"sql": "select 1"}),
        (("sequence",), {"welcome": {}}),
        (("sequence", 0, "channel"), "telegraph"),
        (("sequence", 0, "contnet"), "welcome"),
        (("sequence", 1, "wait"), 2),
        (("sequence", 2, "ask", "scale"), "stars"),
        (("sequence", 2, "ask", "question"), {}),
        (("budget",), "500 USD"),
    ],
)
def test_an_editor_marks_what_the_plan_file_refuses(
    schema: jsonschema.Draft202012Validator, path: tuple[str | int, ...], value: object
) -> None:
    plan = editor_reads(ONBOARDING.read_text(encoding="utf-8"))
    schema.validate(plan)
    wrong = copy.deepcopy(plan)
    inside = wrong
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = value
    assert not schema.is_valid(wrong)


@pytest.mark.parametrize(
    "name", ["plan", "title", "purpose", "topic", "owner", "team", "goals", "audience", "sequence"]
)
def test_an_editor_misses_what_the_plan_file_requires(schema: jsonschema.Draft202012Validator, name: str) -> None:
    plan = editor_reads(ONBOARDING.read_text(encoding="utf-8"))
    del plan[name]
    assert not schema.is_valid(plan)


def test_every_field_of_the_plan_file_is_described() -> None:
    def parts(model: type[Part]) -> set[type[Part]]:
        return {model}.union(*(parts(inside) for inside in model.__subclasses__()))

    published = json_schema()
    groups = {"Plan": published, **published["$defs"]}
    described = {name for name, group in groups.items() if "properties" in group}
    assert described == {part.__name__ for part in parts(Part)} - {"Part"}
    for group in groups.values():
        for name, field in group.get("properties", {}).items():
            assert len(field["description"]) > 8, name
            assert "title" not in field
            assert {"type": "null"} not in field.get("anyOf", [])
