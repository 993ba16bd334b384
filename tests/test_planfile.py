"""The plan file: every error at its place, in a sentence, all of them at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from commplan import planfile, yamlfile
from commplan.errors import Finding, InputError
from commplan.plan import Plan
from commplan.plan.field import Part
from commplan.plan.wording import SENTENCES, UNBUILT, field_names

ONBOARDING = Path(__file__).parent.parent / "templates" / "onboarding" / "plan.yaml"

HELLO = """\
plan: hello
title: Hello
purpose: service
topic: news
owner: crm
team: {crm: {}}
goals:
  - {id: arrive, metric: delivered_rate, target: at least 95%}
audience:
  people: customers
  source: {url: env:CRM, sql: select * from c}
  contact: {id: id, email: mail, phone: tel}
  segments:
    - {name: vip, if: value > 9}
    - {name: rest}
conversions:
  bought: {sql: select 1, contact: id, at: at}
sequence:
  - {step: one, channel: email, content: one}
  - {step: two, channel: sms, content: two, wait: P1D, when: not responded(one)}
"""


def edited(*edits: tuple[str, str]) -> str:
    """Return the small plan with each of the texts, which must be in it, replaced."""
    text = HELLO
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def refusal(text: str) -> list[str]:
    with pytest.raises(InputError) as refused:
        planfile.parse_plan(text, "p")
    return [str(finding) for finding in refused.value.findings]


def by_line(text: str, findings: Sequence[Finding]) -> list[str]:
    """Return findings without file and column, once the column is seen to be that of field, value or group."""
    lines = text.splitlines()
    for finding in findings:
        line, column = (int(number) for number in finding.place.split(":")[1:])
        before, after = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
        name = finding.field.rpartition(".")[2]
        assert (
            before.endswith(f"{name}: ")
            or after.startswith(f"{name}:")
            or (name.endswith("]") and before.endswith("- "))
            or (not name and (line, column) == (1, 1))
            or "is missing" in finding.rule
        ), finding
    return [str(finding).partition(":")[2].replace(":" + finding.place.split(":")[2], "", 1) for finding in findings]


def placed(text: str) -> list[str]:
    with pytest.raises(InputError) as refused:
        planfile.parse_plan(text, "p")
    return by_line(text, refused.value.findings)


def test_a_plan_is_what_its_file_says() -> None:
    plan = planfile.read_plan(ONBOARDING)
    assert plan.plan == "onboarding"
    assert [step.step for step in plan.sequence] == ["welcome", "nudge", "survey"]
    assert plan.sequence[1].wait == timedelta(days=2)
    assert str(plan.goals[1].target) == "at least 40%"


def test_comments_order_style_and_line_ends_do_not_matter() -> None:
    text = ONBOARDING.read_text(encoding="utf-8")
    same = planfile.parse_plan(text, "p")
    assert planfile.parse_plan("\ufeff" + text.replace("\n", "\r\n"), "p") == same
    assert planfile.parse_plan("\n".join(line.split(" # ")[0] for line in text.splitlines()), "p") == same


def test_all_findings_come_at_once_by_line() -> None:
    text = ONBOARDING.read_text(encoding="utf-8")
    for old, new in (
        ("\ntitle:", "\ntitel:"),
        ("owner: crm", "owner: cmr"),
        ("url: env:CRM_DATABASE_URL", "url: postgresql://crm:secret@db/crm"),
        ("    email: email", "    email:"),
        ("vip: {content", "vpi: {content"),
        ("channel: sms", "channel: telegraph"),
        ("wait: P2D", "wait: 2 days"),
        ("not responded(welcome)", "not responded(welcom)"),
        ("evaluation:", "budget: 500 USD\nevaluation:"),
        ("scale: csat", "scale: csat\n      scale: nps"),
    ):
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(InputError) as refused:
        planfile.parse_plan(text, "templates/onboarding/plan.yaml")
    assert str(refused.value).replace("templates/onboarding/plan.yaml:", "") == "\n".join([
        "3:1: titel: is not a field of the plan file; did you mean title?",
        '7:8: owner: "cmr" is not in team; did you mean crm?',
        "38:10: audience.source.url: must come from the environment; write env:NAME_OF_A_VARIABLE in capitals",
        "44:11: audience.contact.email: has no value; write one, or leave the line out",
        '63:12: sequence[0].by_segment.vpi: "vpi" is not a segment; did you mean vip?',
        '65:14: sequence[1].channel: "telegraph" is not known here; write one of email, sms',
        '67:11: sequence[1].wait: "2 days" is not an ISO 8601 duration; write P2D',
        "68:11: sequence[1].when: responded(welcom): there is no earlier step of that name; did you mean welcome?",
        "80:7: sequence[2].ask.scale: appears twice, first in line 79; keep one of them",
        "84:1: budget: is not available in this version; leave it out",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "findings"),
    [
        # single values
        ("plan: hello", "plan: Hello World", [
            '1: plan: "Hello World" is not a name; use small letters, digits and hyphens, at most 60, '
            "such as hello-world"
        ]),
        ("title: Hello", "title: ''", ["2: title: is empty; write some text, or leave the line out"]),
        ("title: Hello", "title: [Hello]", [
            "2: title: is a list where one value belongs; write a single value"
        ]),
        ("title: Hello\n", "", ["1: title: is missing; write `title:` here"]),
        ("purpose: service", "purpose: servise", [
            '3: purpose: "servise" is not known here; did you mean service?'
        ]),
        ("topic: news", "topic: all", [
            '4: topic: "all" is no topic: opting out of it would be opting out of more than this plan; '
            "name what this plan is about, such as getting-started"
        ]),
        ("purpose: service", "purpose: emergency\ncare: true", [
            "4: care: has no meaning with `purpose: emergency`; leave it out, or write `purpose: service`"
        ]),
        ("topic: news", "topic: marketing", [
            '4: topic: "marketing" is no topic: opting out of it would be opting out of more than this plan; '
            "name what this plan is about, such as getting-started"
        ]),
        ("topic: news", "topic: news\nlive: on", [
            '5: live: "on" is neither yes nor no; write true or false'
        ]),
        ("topic: news", "topic: news\nlocale: english!", [
            '5: locale: "english!" is not a language; write one such as en or zh-CN'
        ]),
        ("team: {crm: {}}", "team: [crm]", [
            "6: team: is a list where a group belongs; write `name: value` lines below it"
        ]),
        ("team: {crm: {}}", "team: {crm: boss}", [
            "6: team.crm: is text where a group belongs; write `name: value` lines below it"
        ]),
        ("team: {crm: {}}", "team: {crm: {}, Boss: {}}", [
            '6: team.Boss: "Boss" is not a name; use small letters, digits and hyphens, at most 60, such as boss'
        ]),
        ("team: {crm: {}}", "team: {crm: {notify: 'mailto://crm:pass@example.com'}}", [
            "6: team.crm.notify: must come from the environment; write env:NAME_OF_A_VARIABLE in capitals"
        ]),
        ("metric: delivered_rate", "metric: deliverd_rate", [
            '8: goals[0].metric: "deliverd_rate" is not a metric; did you mean delivered_rate?'
        ]),
        ("target: at least 95%", "target: 95%", [
            '8: goals[0].target: "95%" is not a target; write `at least 40%` or `at most 2%`'
        ]),
        ("target: at least 95%", "target: at least 95%, baseline: high", [
            '8: goals[0].baseline: "high" is not a number; write 31% or 4.2'
        ]),
        ("sql: select * from c}", "sql: select * from c, row_limit: 2_000}", [
            '11: audience.source.row_limit: "2_000" is not a whole number; write digits only, such as 1000'
        ]),
        ("sql: select * from c}", "sql: select * from c, row_limit: 0}", [
            '11: audience.source.row_limit: "0" is too small; write 1 or more'
        ]),
        ("sql: select * from c}", "sql: select * from c, timeout: PT0S}", [
            '11: audience.source.timeout: "PT0S" is no time at all; write a duration above zero'
        ]),
        ("sql: select * from c}", "sql: select * from c, zone: Asia/Shangai}", [
            '11: audience.source.zone: "Asia/Shangai" is not a time zone; '
            "write an IANA name such as Asia/Shanghai"
        ]),
        ("people: customers", "people: customers\n  start: 20261201", [
            '11: audience.start: "20261201" is not a date; write it like 2026-12-01'
        ]),
        ("people: customers", "people: customers\n  start: 2026-02-30", [
            '11: audience.start: "2026-02-30" is not a date; write it like 2026-12-01'
        ]),
        ("people: customers", "people: customers\n  enroll: twice", [
            '11: audience.enroll: "twice" is not a rule of enrolment; write once, every_run or P90D'
        ]),
        ("wait: P1D", "wait: P1M", ['20: sequence[1].wait: "P1M" is not an ISO 8601 duration; '
                                    "write P2D, P1W or PT4H"]),
        ("wait: P1D", "wait: 3 hours", ['20: sequence[1].wait: "3 hours" is not an ISO 8601 duration; write PT3H']),
        ("wait: P1D", "wait: P9999W", ['20: sequence[1].wait: "P9999W" is longer than ten years; '
                                       "write P3650D or less"]),
        ("wait: P1D", "window: 9-20", [
            '20: sequence[1].window: "9-20" is not a window of hours; write it like 09:00-20:00'
        ]),
        ("content: one}", "content: one, ask: {scale: stars, question: Well?}}", [
            '19: sequence[0].ask.scale: "stars" is not known here; write one of csat, nps'
        ]),
        ("content: one}", "content: one, ask: {scale: csat, question: [Well]}}", [
            "19: sequence[0].ask.question: is a list where text belongs; write one text, or one for each language"
        ]),
        ("content: one}", "content: one, ask: {scale: csat, question: {en: Well?, x_y_: Gut?}}}", [
            '19: sequence[0].ask.question: "x_y_" is not a language; write one such as en or zh-CN'
        ]),
        ("content: one}", "content: one, ask: {scale: csat, question: {en: [a]}}}", [
            "19: sequence[0].ask.question: has no text for en; write one"
        ]),
        ("content: one}", "content: one, ask: {scale: csat, question: {}}}", [
            "19: sequence[0].ask.question: has no language; write one text, or one for each language"
        ]),
        ("not responded(one)", "not responed(one)", [
            '20: sequence[1].when: "responed" is not a claim; did you mean responded?'
        ]),
        # groups and lists
        ("goals:\n  - {id: arrive, metric: delivered_rate, target: at least 95%}", "goals: []", [
            "7: goals: is empty; write at least 1"
        ]),
        ("goals:\n  - {id: arrive, metric: delivered_rate, target: at least 95%}", "goals: arrive", [
            "7: goals: is text where a list belongs; begin each entry with `- `"
        ]),
        ("  - {id: arrive,", "  - reach\n  - {id: arrive,", [
            "8: goals[0]: is text where a group belongs; write `name: value` lines below it"
        ]),
        (HELLO, "- plan: hello\n", ["1: a plan is a group of fields; begin with `plan: name`"]),
        (HELLO, "hello\n", ["1: a plan is a group of fields; begin with `plan: name`"]),
        # fields
        ("content: two", "contnet: two", [
            "20: sequence[1].contnet: is not a field of the plan file; did you mean content?"
        ]),
        ("{name: vip, if:", "{name: vip, condition:", [
            "14: audience.segments[0].condition: is not a field of the plan file; known here are name, if"
        ]),
        ("{crm: {}}", "{crm: {phone: x}}", [
            "6: team.crm.phone: is not a field of the plan file; known here are notify"
        ]),
        ("wait: P1D", "on_unknown: ask", [
            '20: sequence[1].on_unknown: "ask" is not known here; write one of hold, assume_sent, resend'
        ]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_rule_and_remedy(old: str, new: str, findings: list[str]) -> None:
    assert placed(edited((old, new))) == findings


@pytest.mark.parametrize(
    ("edits", "findings"),
    [
        ([("owner: crm", "owner: crn")], ['5: owner: "crn" is not in team; did you mean crm?']),
        ([("team: {crm: {}}", "team: {}")], ['5: owner: "crm" is not in team; there is none to choose from']),
        ([("step: two", "step: one")], [
            '20: sequence[1].step: step "one" is already the name of sequence[0]; give it another name'
        ]),
        ([("name: rest", "name: vip, if: x")], [
            '15: audience.segments[1].name: segment "vip" is already the name of segments[0]; give it another name'
        ]),
        ([(", if: value > 9", "")], [
            "14: audience.segments[0]: takes everybody, so that no segment after it is ever reached; "
            "write `if:`, or move it to the end"
        ]),
        ([("wait: P1D", "after: two")], [
            '20: sequence[1].after: "two" is not an earlier step; write one'
        ]),
        ([("content: one}", "content: one, wait: P1D, when: delivered(one), by_segment: {vip: {wait: P1D}}}")], [
            "19: sequence[0].wait: has no meaning in the first step, which follows nothing; leave it out",
            "19: sequence[0].when: has no meaning in the first step, which follows nothing; "
            "leave it out; choose the people in `audience`",
            "19: sequence[0].by_segment.vip.wait: has no meaning in the first step, which follows nothing; "
            "leave it out",
        ]),
        ([("content: one}", "content: one, after: zero}")], [
            '19: sequence[0].after: "zero" is not an earlier step; the first step follows nothing; leave it out'
        ]),
        ([("not responded(one)", "delivered(two) or converted(bougth)")], [
            "20: sequence[1].when: delivered(two): there is no earlier step of that name; write one",
            "20: sequence[1].when: converted(bougth): `conversions` does not define it; did you mean bought?",
        ]),
        ([("step: one, channel: email", "step: one, channel: sms"), ("not responded(one)", "opened(one)")], [
            "20: sequence[1].when: opened(one): opens of an SMS cannot be known; "
            "ask for delivered, clicked, replied or responded"
        ]),
        ([("step: one, channel: email", "step: one, channel: sms"), ("not responded(one)", '"responded(one, open)"')], [
            "20: sequence[1].when: responded(one, open): opens of an SMS cannot be known; "
            "ask for delivered, clicked, replied or responded"
        ]),
        ([("not responded(one)", '"not responded(one, opened)"')], [
            '20: sequence[1].when: "opened" is no grade of a response; did you mean open?'
        ]),
        ([("not responded(one)", "replied(one) or answered(one)")], [
            "20: sequence[1].when: answered(one): that step asks nothing; "
            "write `ask:` or `rsvp:` in that step",
        ]),
        ([("content: two", "content: two, rsvp: launhc"), ("sequence:", "events: {launch: {title: x}}\nsequence:")], [
            "18: events.launch: no step invites to it; write `rsvp: launch` in a step, or leave it out",
            '21: sequence[1].rsvp: `events` does not define "launhc"; did you mean launch?',
        ]),
        ([("content: two", "content: two, rsvp: x, ask: {scale: nps, question: x}"),
          ("sequence:", "events: {x: {title: {zh: 好}}}\nsequence:")], [
            "18: events.x.title: has no text for en, the language of people whose own is unknown; add `en:`",
            "21: sequence[1].rsvp: cannot stand beside `ask`: nobody could tell which of them was answered; "
            "ask in a step of its own",
        ]),
        ([("content: two", "content: two, rsvp: party")], [
            '20: sequence[1].rsvp: `events` does not define "party"; define it there'
        ]),
        ([("metric: delivered_rate", "metric: rsvp_yes")], [
            "8: goals[0].metric: rsvp_yes needs a step that invites; write `rsvp:` in that step"
        ]),
        ([("topic: ", "topic_title: {zh: 好}\ntopic: ")], [
            "4: topic_title: has no text for en, the language of people whose own is unknown; add `en:`"
        ]),
        ([("content: two", "content: two, by_segment: {vpi: {skip: true}}")], [
            '20: sequence[1].by_segment.vpi: "vpi" is not a segment; did you mean vip?'
        ]),
        ([("metric: delivered_rate", "metric: conversion.sold, step: one")], [
            "8: goals[0].within: is missing: a conversion is counted for a time; write `within: P7D`",
            '8: goals[0].metric: `conversions` does not define "sold"; write bought',
            "8: goals[0].step: cannot narrow conversion.sold, which is about everybody; leave it out",
        ]),
        ([("target: at least 95%", "target: at least 95%, within: P1D, step: three")], [
            "8: goals[0].within: belongs to conversions only; leave it out",
            '8: goals[0].step: "three" is not a step; write one of one, two',
        ]),
        ([("target: at least 95%", "target: at least 95")], [
            "8: goals[0].target: delivered_rate is a rate; write the target in per cent"
        ]),
        ([("target: at least 95%", "target: at least 195%, baseline: 120%")], [
            "8: goals[0].target: is not between 0% and 100%; correct it",
            "8: goals[0].baseline: is not between 0% and 100%; correct it",
        ]),
        ([("metric: delivered_rate", "metric: csat")], [
            "8: goals[0].metric: csat needs a step that asks; write `ask:` in the survey's step",
            "8: goals[0].target: csat is not a rate; write a number without %",
        ]),
        ([("delivered_rate, target: at least 95%", "csat, target: at least 7"),
          ("content: one}", "content: one, ask: {scale: nps, question: Well?}}")], [
            "8: goals[0].metric: no step asks on the csat scale; correct `ask.scale`",
            "8: goals[0].target: is not between 1 and 5, as csat is; correct it",
        ]),
        ([("metric: delivered_rate", "metric: open_rate, step: two")], [
            "8: goals[0].metric: open_rate is known of email only; measure an email step"
        ]),
        ([("metric: delivered_rate", "metric: reply_rate, step: one")], [
            "8: goals[0].metric: reply_rate counts answers to texts alone; "
            "measure an SMS step, or response_rate"
        ]),
        ([("email: mail, phone: tel", "locale: lang")], [
            "12: audience.contact.email: is missing, but a step sends email; write `email:` and the column's name",
            "12: audience.contact.phone: is missing, but a step sends SMS; write `phone:` and the column's name",
        ]),
        ([("purpose: service", "purpose: marketing")], [
            "12: audience.contact.consent.sms: is missing, but marketing SMS needs a recorded consent; "
            "name the column that records it",
            "12: audience.contact.consent.email: is missing, but marketing email needs a recorded consent or "
            "another basis; name the column that records it, or write `basis:` with the reason",
        ]),
        ([("phone: tel", "phone: tel, consent: {sms: {source: form}}")], [
            "12: audience.contact.consent.sms.given: is missing; write `given:` here"
        ]),
        ([("phone: tel", "phone: tel, consent: {sms: {given: may_text, when: agreed}}")], [
            "12: audience.contact.consent.sms.when: is not a field of the plan file; "
            "known here are given, source, text, at"
        ]),
        ([("phone: tel", "phone: tel, consent: {sms: [may_text]}")], [
            "12: audience.contact.consent.sms: is a list where one value belongs; write a single value"
        ]),
        ([("{url: env:CRM, sql: select * from c}", "{contacts: people, sql: select 1}")], [
            "11: audience.source.sql: cannot stand beside `contacts`; keep one source of people"
        ]),
        ([("{url: env:CRM, sql: select * from c}", "{sql: select 1}")], [
            "11: audience.source.url: is missing beside `sql`; write both"
        ]),
        ([("{url: env:CRM, sql: select * from c}", "{}")], [
            "11: audience.source: names no people; write `url` and `sql`, or `contacts`"
        ]),
        ([("select * from c", "'select * from c where at >= :since'")], [
            "10: audience.start: is missing, but the query uses :since; write `start: YYYY-MM-DD` for the first run"
        ]),
        ([("content: one}", "content: one, ask: {scale: csat, question: {zh: 好吗？}}}")], [
            '19: sequence[0].ask.question: has no text for en, the language of people whose own is unknown; '
            "add `en:`"
        ]),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_named_where_they_stand(edits: list[tuple[str, str]], findings: list[str]) -> None:
    assert placed(edited(*edits)) == findings


@pytest.mark.parametrize(
    "edits",
    [
        [("purpose: service", "purpose: marketing\nbasis: existing customers"),
         ("phone: tel", "phone: tel, consent: {sms: may_text}")],
        [("purpose: service", "purpose: marketing\nbasis: existing customers"),
         ("phone: tel", "phone: tel, consent: {sms: {given: may_text, source: form, text: words, at: agreed}}")],
        [("purpose: service", "purpose: emergency")],
        [("{url: env:CRM, sql: select * from c}", "{contacts: people}")],
        [("select * from c", "select x::since from c")],
        [("target: at least 95%", "target: at least 99.5%, baseline: 0.31, step: one")],
        [("wait: P1D", "wait: PT36H, window: 20:00-02:00, after: one")],
        [("topic: news", "topic: news\nlive: True\nlocale: zh-Hant-TW")],
        [("content: two,", "content: two, by_segment: {vip: {channel: email, skip: false}},"),
         ("not responded(one)", "not (opened(one) or undelivered(one)) and not converted(bought)")],
        [("content: one}", "content: one, ask: {scale: csat, question: {en: Well?, zh: 好吗？}}}"),
         ("delivered_rate, target: at least 95%", "csat, target: at least 4.2")],
    ],
)  # fmt: skip
def test_what_the_plan_file_allows_is_accepted(edits: list[tuple[str, str]]) -> None:
    assert planfile.parse_plan(edited(*edits), "p").plan == "hello"


def _paths(value: yamlfile.Value, path: yamlfile.KeyPath = ()) -> Iterator[yamlfile.KeyPath]:
    yield path
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _paths(inside, (*path, key))
    elif isinstance(value, list):
        for position, inside in enumerate(value):
            yield from _paths(inside, (*path, position))


def _replaced(value: yamlfile.Value, path: yamlfile.KeyPath, new: yamlfile.Value | None) -> yamlfile.Value:
    if not path:
        assert new is not None
        return new
    if isinstance(value, list):
        assert isinstance(path[0], int)
        inside = [] if new is None and not path[1:] else [_replaced(value[path[0]], path[1:], new)]
        return [*value[: path[0]], *inside, *value[path[0] + 1 :]]
    assert isinstance(value, dict)
    assert isinstance(path[0], str)
    rest = {key: item for key, item in value.items() if key != path[0]}
    if new is None and not path[1:]:
        return rest
    return {**rest, path[0]: _replaced(value[path[0]], path[1:], new)}


def test_every_error_that_a_wrong_value_anywhere_can_cause_has_its_sentence() -> None:
    root = yamlfile.parse(ONBOARDING.read_text(encoding="utf-8"), "p").root
    assert isinstance(root, dict)
    goals, wrong = root["goals"], [None, "", "x y", "é@", "999999999999999", [], ["a"], {}, {"A": "b"}]
    changed = [_replaced(root, ("goals",), [*goals] * 30)]
    changed += [_replaced(root, path, value) for path in _paths(root) for value in (wrong if path else [{}])]
    seen = set()
    for tree in changed:
        try:
            Plan.model_validate(tree, by_alias=True, by_name=False)
        except ValidationError as error:
            seen |= {detail["type"] for detail in error.errors()}
    assert seen == {*SENTENCES, "extra_forbidden", "incoherent"}


def test_no_message_speaks_of_types_or_of_the_library() -> None:
    document = yamlfile.parse(ONBOARDING.read_text(encoding="utf-8"), "p")
    someone = ["+12025550123", "a@person.example.com"]
    wrong: list[yamlfile.Value | None] = [None, "", "x y", *someone, [], {}, {someone[0]: {someone[1]: someone}}]
    for path in _paths(document.root):
        for value in wrong if path else wrong[5:]:
            try:
                planfile.parse_plan(_dump(_replaced(document.root, path, value)), "p")
            except InputError as error:
                for finding in error.findings:
                    assert finding.rule
                    assert finding.remedy
                    assert not {"string", "input", "pydantic", "dict", "None", "valid", "str"} & set(
                        str(finding).replace(".", " ").replace(":", " ").split()
                    )
                    assert "person.example.com" not in str(finding)
                    assert "+12025550123" not in str(finding)


def _dump(value: yamlfile.Value) -> str:
    """Return YAML in flow style, every text in double quotes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return "{" + ", ".join(f"{_dump(key)}: {_dump(inside)}" for key, inside in value.items()) + "}"


def test_what_is_not_built_is_refused_by_name_and_is_no_field() -> None:
    for model, names in UNBUILT.items():
        assert issubclass(model, Part)
        assert not set(names) & set(field_names(model))
    for name in UNBUILT[Plan]:
        assert refusal(f"{HELLO}{name}: x\n") == [f"p:21:1: {name}: is not available in this version; leave it out"]


def test_a_misspelt_field_is_not_missing_as_well() -> None:
    assert refusal(edited(("sequence:", "sequnce:"))) == [
        "p:18:1: sequnce: is not a field of the plan file; did you mean sequence?"
    ]


_GROUPS = ", ".join(f"a{n}: {{}}" for n in range(80_000))
_CLAIMS = " or ".join(f"delivered(x{n})" for n in range(50))


@pytest.mark.parametrize(
    "text",
    [
        HELLO + "".join(f"{n:x}field: x\n" for n in range(60_000)),
        HELLO + "".join(f"  - {{step: a{n}, channel: sms, content: c, after: b{n}}}\n" for n in range(16_000)),
        HELLO + "".join(f"  - {{step: a{n}, channel: sms, content: c, when: {_CLAIMS}}}\n" for n in range(900)),
        HELLO.replace("content: two", f"content: two, by_segment: {{{_GROUPS}}}"),
        HELLO.replace("{crm: {}}", f"{{{_GROUPS}}}"),
    ],
    ids=["fields", "steps", "claims", "segments", "team"],
)
def test_a_megabyte_of_mistakes_is_answered_in_seconds_with_a_hundred(text: str) -> None:
    began = time.process_time()
    assert 0 < len(refusal(text)) <= 101
    assert time.process_time() - began < 10


_LINES = HELLO.splitlines(keepends=True)
_PIECES = [
    *"\t\x00:-[]{}'\"&*!%@`#|>~,",
    *("\ufeff", "\u2028", "值", "  ", "- ", ": ", "\n", "---\n", "null", "*a", "P", "env:", "a@person.example.com"),
]
_changes = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, len(HELLO)), st.sampled_from(_PIECES)),
        st.tuples(st.just("delete"), st.integers(0, len(HELLO) - 1), st.integers(1, 40)),
        st.tuples(st.just("drop line"), st.integers(0, len(_LINES) - 1), st.just(0)),
        st.tuples(st.just("indent"), st.integers(0, len(_LINES) - 1), st.integers(-4, 4)),
        st.tuples(st.just("repeat"), st.integers(0, len(_LINES) - 1), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=6,
)


def _mutate(text: str, changes: list[tuple[str, int, str | int]]) -> str:
    for kind, at, what in changes:
        lines = text.splitlines(keepends=True) or [""]
        if kind == "insert":
            text = text[:at] + str(what) + text[at:]
        elif kind == "delete":
            text = text[:at] + text[at + int(what) :]
        else:
            line = lines[at % len(lines)]
            if kind == "drop line":
                line = ""
            elif kind == "repeat":
                line *= int(what)
            else:
                line = " " * int(what) + line if int(what) >= 0 else line[-int(what) :]
            lines[at % len(lines)] = line
            text = "".join(lines)
    return text


@given(_changes)
@settings(max_examples=600, deadline=None)
def test_a_damaged_plan_is_a_plan_or_an_input_error_with_places(changes: list[tuple[str, int, str | int]]) -> None:
    text, began = _mutate(HELLO, changes), time.process_time()
    try:
        plan = planfile.parse_plan(text, "p")
    except InputError as error:
        for finding in error.findings:
            assert finding.rule
            assert finding.place == "p" or finding.place.startswith("p:")
            assert "person.example.com" not in str(finding)
    else:
        assert Plan.model_validate(plan.model_dump(mode="json", by_alias=True, exclude_defaults=True)) == plan
    assert time.process_time() - began < 2


@given(st.binary(max_size=300), st.integers(0, len(HELLO)))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_plan_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(HELLO[:at].encode() + data + HELLO[at:].encode())
    refusal, began = str(file), time.process_time()
    try:
        planfile.read_plan(file)
    except InputError as error:
        refusal = str(error)
    assert refusal.startswith(str(file))
    assert time.process_time() - began < 2


def test_a_plan_says_which_variables_it_needs() -> None:
    plan = planfile.parse_plan(edited(("team: {crm: {}}", "team: {crm: {notify: env:CRM_NOTIFY}}")), "p")
    findings = planfile.missing_environment(plan, {"CRM": ""})
    assert [str(finding) for finding in findings] == [
        "CRM: audience.source.url: this variable of the environment is not set; "
        "set it before the plan is checked or run",
        "CRM_NOTIFY: team.crm.notify: this variable of the environment is not set; "
        "set it before the plan is checked or run",
    ]
    assert planfile.missing_environment(plan, {"CRM": "sqlite://", "CRM_NOTIFY": "json://x"}) == []


@pytest.mark.parametrize(
    ("edits", "advice"),
    [
        ([("wait: P1D", "wait: P1D, window: 09:00-09:30")], [
            "20: sequence[1].window: is open for less than 1 hour a day; "
            "after a short disturbance the messages wait for the next day"
        ]),
        ([("wait: P1D", "wait: P1D, not_after: PT24H")], [
            "20: sequence[1].not_after: is shorter than the 25 hours after which silence is proven again once the "
            "receiver was down, so that this step then goes to nobody; write PT25H or more, or leave it out: P2D"
        ]),
        ([("wait: P1D", "wait: PT0S")], [
            "20: sequence[1].when: asks about one, which is sent no earlier than this step, so that nothing is "
            "known of it; wait longer here, or let this step come `after` it"
        ]),
        ([("content: two", "content: two, by_segment: {vip: {skip: true, wait: P2D}}")], [
            "20: sequence[1].by_segment.vip: skips the step and changes it; keep one of both"
        ]),
        ([("people: customers", "people: customers\n  start: 2026-12-01\n  min_gap: P3D")], [
            "11: audience.start: has no effect without :since in the query; leave it out",
            "12: audience.min_gap: has no effect without `enroll: every_run`; leave it out",
        ]),
        ([("target: at least 95%}", "target: at least 95%}\n  - {id: buy, metric: conversion.bought, within: P30D, "
                                    "target: at least 1%}")], [
            "9: goals[1].within: is longer than the plan waits before it is judged, so that the verdict stays "
            "open; lengthen `evaluation.after`"
        ]),
    ],
)  # fmt: skip
def test_advice_names_what_was_probably_not_meant(edits: list[tuple[str, str]], advice: list[str]) -> None:
    unused = "conversions.bought: is used by no goal and no step; leave it out"
    text = edited(*edits)
    found = by_line(text, planfile.lint(text, "p"))
    assert [line for line in found if unused not in line] == advice


def test_a_conversion_that_nothing_uses_is_worth_a_word() -> None:
    assert by_line(HELLO, planfile.lint(HELLO, "p")) == [
        "17: conversions.bought: is used by no goal and no step; leave it out"
    ]
    assert planfile.lint(ONBOARDING.read_text(encoding="utf-8"), "p") == []


def test_the_digest_changes_with_every_name_and_every_character() -> None:
    digests = [
        planfile.digest(files)
        for files in ({"a": "x", "b": "y"}, {"a": "x", "c": "y"}, {"a": "xb", "": "y"}, {"a": "x"}, {"ab": "xy"}, {})
    ]
    assert len(set(digests)) == len(digests)
    assert planfile.digest({"b": "y", "a": "x"}) == digests[0]
