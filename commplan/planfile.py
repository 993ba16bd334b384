"""The plan file: YAML to a plan, with every error at its line and column.

Never sends, connects or looks at the environment unless it is handed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from commplan import yamlfile
from commplan.errors import Finding, InputError, write_path
from commplan.plan import Plan, Problem, advise, cross_check
from commplan.plan.wording import meant_field, sentence
from commplan.yamlfile import Document, KeyPath, Value


def read_plan(path: Path) -> Plan:
    """Return the plan in a file; InputError carries every finding, each with its line and column."""
    return parse_plan(yamlfile.read_text(path), str(path))


def parse_plan(text: str, place: str) -> Plan:
    """Return the plan in `text`, as `read_plan` does; `place` is what findings call the file."""
    return _validate(yamlfile.compose(text, place))


def lint(text: str, place: str) -> list[Finding]:
    """Return what a valid plan allows but its planner probably did not mean, by line; InputError as `parse_plan`."""
    document = yamlfile.compose(text, place)
    return yamlfile.in_order(_located(document, advise(_validate(document))))


def missing_environment(plan: Plan, environ: Mapping[str, str]) -> list[Finding]:
    """Return one finding for each variable that the plan refers to and `environ` does not have, or has empty."""
    references = {"audience.source.url": plan.audience.source.url}
    references |= {f"team.{role}.notify": member.notify for role, member in plan.team.items()}
    return [
        Finding(
            place=name,
            field=field,
            rule="this variable of the environment is not set",
            remedy="set it before the plan is checked or run",
        )
        for field, reference in references.items()
        if reference is not None and not environ.get(name := reference.removeprefix("env:"))
    ]


def locate(findings: Iterable[Finding], text: str, place: str) -> list[Finding]:
    """Return findings about fields of the plan in `text` at their line and column, those about no field as they are.

    A field that is left out in the file is placed where its group begins.
    """
    document = yamlfile.compose(text, place)
    written = {write_path(path): path for path in document.values}

    def located(finding: Finding) -> Finding:
        nearest = finding.field
        while nearest and nearest not in written:
            nearest = nearest[: max(nearest.rfind("."), nearest.rfind("["), 0)]
        if not nearest:
            return finding
        line, column = document.mark_of(finding.word if nearest == finding.field else "", written[nearest])
        return replace(finding, place=f"{place}:{line}:{column}")

    return [located(finding) for finding in findings]


def digest(files: Mapping[str, str]) -> str:
    """Return the SHA-256, in hex, of a plan and everything it uses, by file name.

    Independent of order; the names count, and no two different sets of files run into the same bytes.
    """
    sha = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name].encode()):
            sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()


def _validate(document: Document) -> Plan:
    findings, root = list(document.findings), document.root
    plan: Plan | None = None
    if not isinstance(root, dict):
        findings.append(document.finding((), "a plan is a group of fields", "begin with `plan: name`"))
    else:
        try:
            # By alias only: a field has one name in the file, whatever it is called in Python.
            plan = Plan.model_validate(root, by_alias=True, by_name=False)
        except ValidationError as error:
            findings.extend(_explained(document, root, error))
    if plan is None or findings:
        raise InputError(yamlfile.in_order(findings))
    return plan


def _explained(document: Document, root: Mapping[str, Value], error: ValidationError) -> Iterator[Finding]:
    """Yield what is wrong in single fields, and whatever else does not fit in the rest of the plan."""
    details = error.errors(include_url=False)
    problems: Iterable[Problem]
    if details[0]["type"] == "incoherent":
        problems = details[0]["ctx"]["problems"]
        details = []
    else:
        problems = cross_check(root)
    reported = {finding.field for finding in document.findings}
    details = sorted(details, key=lambda detail: detail["type"] == "missing")[: yamlfile.MAX_FINDINGS + 1]
    misspelt = {(*detail["loc"][:-1], field) for detail in details if (field := meant_field(detail)) is not None}
    for detail in details:
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts the entries that are right; what is wrong with the others is said
        if detail["type"] == "missing" and detail["loc"] in misspelt:
            continue  # it is there under a name close to its own
        rule, remedy = sentence(detail)
        at_key = detail["type"] == "extra_forbidden" or detail["loc"][-1:] == ("[key]",)
        finding = document.finding(_written_path(detail["loc"]), rule, remedy, at_key=at_key)
        if finding.field not in reported:
            yield finding
    reported |= {write_path(_written_path(detail["loc"])) for detail in details}
    yield from (finding for finding in _located(document, problems) if finding.field not in reported)


def _located(document: Document, problems: Iterable[Problem]) -> Iterator[Finding]:
    for problem in problems:
        yield document.finding(problem.path, problem.rule, problem.remedy)


def _written_path(location: tuple[str | int, ...]) -> KeyPath:
    return location[:-1] if location[-1:] == ("[key]",) else location
