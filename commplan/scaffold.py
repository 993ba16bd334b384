"""A first plan of one's own: a copy of a scenario under a new name, ready to edit.

Never overwrites anything and never leaves half a folder behind.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from commplan import planfile, yamlfile
from commplan.errors import InputError, write_path
from commplan.plan import parse_name, suggestion
from commplan.yamlfile import Document

#: Name of the plan in its folder.
PLAN_FILE = "plan.yaml"
#: Folders beside the scenarios that are none.
_RESERVED = frozenset({"shared"})
#: What a copy still says of the scenario it was copied from, and why it matters.
_TO_EDIT = {
    ("title",): "what people call this plan",
    ("topic",): "what a recipient opts out of",
    ("team",): "who answers for it, and where they are told things",
    ("goals",): "the numbers it will be judged by",
    ("audience", "source"): "where the people come from",
    ("conversions",): "what counts as success in your own systems",
    ("sequence",): "steps, waits and conditions",
}


def scenarios(templates: Path) -> list[str]:
    """Return the names of the scenarios that can be copied."""
    if not templates.is_dir():
        return []
    return sorted(f.parent.name for f in templates.glob(f"*/{PLAN_FILE}") if f.parent.name not in _RESERVED)


def new(scenario: str, name: str, *, templates: Path, into: Path) -> Path:
    """Copy ``templates/<scenario>`` to ``into/<name>`` under its new name; return the new plan file, to edit next.

    The folder appears complete or not at all. InputError for a scenario that does not exist or does not check, a name
    that cannot be a plan's, and a folder that is already there.
    """
    known = scenarios(templates)
    if scenario not in known:
        raise InputError.one(str(templates), "has no scenario of that name", suggestion(scenario, known))
    try:
        parse_name(name)
    except ValueError as error:
        rule, _, remedy = str(error).rpartition("; ")
        raise InputError.one("NAME", rule, remedy) from None
    target = into / name
    if name in _RESERVED:
        raise InputError.one("NAME", f"{name} is the folder that all plans share", "choose another name")
    if target.exists() or target.is_symlink():
        raise InputError.one(str(target), "is already there", "choose another name, or edit that plan")
    text = _renamed(templates / scenario / PLAN_FILE, name)
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=into) as folder:
            copy = Path(folder) / name
            shutil.copytree(templates / scenario, copy, copy_function=shutil.copyfile, ignore=_hidden)
            (copy / PLAN_FILE).write_text(text, encoding="utf-8", newline="")
            copy.rename(target)
    except OSError as error:
        reason = (error.strerror or "a file of the scenario cannot be copied").lower()
        raise InputError.one(str(target), f"cannot be written: {reason}") from None
    return target / PLAN_FILE


def to_edit(plan_file: Path) -> list[str]:
    """Return where a new plan speaks for its scenario and not yet for its owner: ``file:line: field: why``."""
    document = yamlfile.parse(yamlfile.read_text(plan_file), str(plan_file))
    places = [
        f"{plan_file}:{document.mark(path, at_key=True).line}: {write_path(path)}: {why}"
        for path, why in _TO_EDIT.items()
        if document.holds(path)
    ]
    content = sorted(file.name for file in plan_file.parent.iterdir() if file.name != PLAN_FILE)
    return [*places, *([f"{plan_file.parent}: {', '.join(content)}: the texts"] if content else [])]


def _renamed(plan_file: Path, name: str) -> str:
    """Return the text of a plan with its name replaced and every other character as it was."""
    text = yamlfile.read_text(plan_file)
    planfile.parse_plan(text, str(plan_file))
    begin, end = _extent(yamlfile.parse(text, str(plan_file)), text)
    renamed = text[:begin] + name + text[end:]
    planfile.parse_plan(renamed, str(plan_file))
    return renamed


def _extent(document: Document, text: str) -> tuple[int, int]:
    lines = text.splitlines(keepends=True)
    begin, end = (sum(map(len, lines[: mark.line - 1])) + mark.column - 1 for mark in document.values[("plan",)])
    return begin, end


def _hidden(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith((".", "__")) or name.endswith("~")}
