"""Documentation that fails the build when it lies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from commplan import cli, errors
from commplan.consent import BLOCKS, Blocks
from commplan.explain import RULES
from commplan.ledger.state import diagram
from commplan.plan import json_schema
from commplan.settings import Settings
from commplan.terms import Purpose

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = sorted(
    path for path in _ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(_ROOT).parts)
)


def _read(name: str) -> str:
    return (_ROOT / name).read_text(encoding="utf-8")


def _block(page: str, name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)
    assert found is not None, f"the page has no block {name}"
    return found[1]


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{variable}__")
            continue
        default = "" if field.default in (None, PydanticUndefined, ()) else str(field.default)
        if isinstance(field.default, Path) and field.default.is_absolute():
            default = str(field.default.relative_to(_ROOT))
        yield variable, default, field.description or ""


def settings_table() -> str:
    """The table of settings as README shows it."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for variable, default, meaning in _settings(Settings, "COMMPLAN_"):
        lines.append(f"| `{variable}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


def test_readme_lists_every_setting_as_it_is() -> None:
    assert _block(_read("README.md"), "settings") == settings_table()


def _commands(app: typer.Typer, prefix: str = "commplan") -> Iterator[tuple[str, list[str]]]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            for inner, found in command.commands.items():
                yield f"{prefix} {name} {inner}", _options(found)
        else:
            yield f"{prefix} {name}", _options(command)


def _options(command: object) -> list[str]:
    return [
        option
        for parameter in command.params  # type: ignore[attr-defined]
        for option in parameter.opts
        if option.startswith("--") and option != "--help" and not getattr(parameter, "hidden", False)
    ]


def suppressions_table() -> str:
    """The table of what the suppression list keeps back, as the package's README shows it."""
    words = {
        Blocks.ALWAYS: ("yes", "yes"),
        Blocks.SAME_TOPIC: ("of that topic", "of that topic"),
        Blocks.CARE: ("no", "yes"),
        Blocks.NEVER: ("no", "no"),
    }
    lines = ["| Reason | marketing | service | service, `care: true` | emergency | Why |", "|---|---|---|---|---|---|"]
    for reason, row in BLOCKS.items():
        service, care = words[row[Purpose.SERVICE]]
        others = [words[row[purpose]][0] for purpose in (Purpose.MARKETING, Purpose.EMERGENCY)]
        lines.append(f"| `{reason}` | {others[0]} | {service} | {care} | {others[1]} | {RULES[reason]} |")
    return "\n".join(lines)


def test_the_table_of_what_is_kept_back_is_that_of_the_code() -> None:
    assert _block(_read("commplan/README.md"), "suppressions") == suppressions_table()


@pytest.mark.parametrize(("command", "options"), list(_commands(cli.app)))
def test_readme_tells_every_command_and_option(command: str, options: list[str]) -> None:
    rows = [line for line in _read("README.md").splitlines() if line.startswith(f"| `{command}")]
    assert rows, f"{command} is not in the table of commands"
    for option in options:
        assert any(option in row or option.replace("--", "--no-") in row for row in rows), f"{command} {option}"


def plan_reference() -> str:
    """The fields of the plan file as templates/README.md shows them."""
    schema = json_schema()
    lines = ["| Part | Field | Meaning |", "|---|---|---|"]
    for part, description in {"the plan": schema, **schema["$defs"]}.items():
        needed = description.get("required", [])
        for field, about in description.get("properties", {}).items():
            name = f"`{field}`" + ("" if field in needed else " (optional)")
            lines.append(f"| {part} | {name} | {about.get('description', '')} |")
    return "\n".join(lines)


def test_the_plan_reference_has_every_field_as_it_is() -> None:
    assert _block(_read("templates/README.md"), "plan") == plan_reference()


def test_the_state_diagram_is_that_of_the_transition_table() -> None:
    assert _block(_read("commplan/README.md"), "states") == f"```mermaid\n{diagram()}\n```"


def test_the_error_tree_is_that_of_the_classes() -> None:
    def tree(kind: type[BaseException]) -> set[str]:
        return {kind.__name__}.union(*(tree(sub) for sub in kind.__subclasses__() if sub.__module__ == errors.__name__))

    drawn = set(re.findall(r"\b([A-Z]\w+Error)\b(?=\s{2,}|$)", errors.__doc__ or "", re.MULTILINE))
    assert drawn | {"CommplanError"} == tree(errors.CommplanError)


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_folder_of_code_has_its_sign() -> None:
    folders = {path.parent for path in (_ROOT / "commplan").rglob("__init__.py")} | {_ROOT / "flows", _ROOT / "tests"}
    listed = _read("commplan/README.md")
    for folder in folders:
        assert (folder / "README.md").exists() or f"`{folder.name}/`" in listed, f"{folder.name} has no README"
