"""`commplan new`: a copy under a new name, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commplan import planfile, scaffold
from commplan.errors import InputError

TEMPLATES = Path(__file__).parent.parent / "templates"


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """A templates folder of one's own."""
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    return folder


def test_a_copy_differs_from_its_scenario_in_the_name_alone(templates: Path) -> None:
    made = scaffold.new("onboarding", "welcome-partners", templates=templates, into=templates)
    assert made == templates / "welcome-partners" / "plan.yaml"
    assert planfile.read_plan(made).plan == "welcome-partners"
    original = (templates / "onboarding" / "plan.yaml").read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == original.replace("plan: onboarding\n", "plan: welcome-partners\n")
    for file in (templates / "onboarding").iterdir():
        if file.name != "plan.yaml":
            assert (made.parent / file.name).read_bytes() == file.read_bytes()
    assert {file.name for file in made.parent.iterdir()} == {file.name for file in (templates / "onboarding").iterdir()}


def test_what_an_editor_or_a_system_leaves_lying_about_is_not_copied(templates: Path) -> None:
    for name in (".DS_Store", ".welcome.swp", "plan.yaml~", "__pycache__"):
        (templates / "onboarding" / name).touch()
    made = scaffold.new("onboarding", "partners", templates=templates, into=templates)
    assert not [file.name for file in made.parent.iterdir() if file.name.startswith((".", "_")) or "~" in file.name]


@pytest.mark.parametrize(
    ("written", "renamed"),
    [
        ("plan: onboarding\n", "plan: partners\n"),
        ('plan:   "onboarding"   # its name: onboarding\n', "plan:   partners   # its name: onboarding\n"),
        ("# 计划 onboarding\nplan: 'onboarding'\r\n", "# 计划 onboarding\nplan: partners\r\n"),
        ("plan:\n  onboarding\n", "plan:\n  partners\n"),
    ],
)
def test_the_name_is_replaced_where_it_stands_whatever_its_style(templates: Path, written: str, renamed: str) -> None:
    file = templates / "onboarding" / "plan.yaml"
    text = file.read_bytes().decode().replace("plan: onboarding\n", written)
    file.write_bytes(text.encode())
    made = scaffold.new("onboarding", "partners", templates=templates, into=templates)
    assert made.read_bytes().decode() == text.replace(written, renamed)


def test_it_can_be_copied_to_a_folder_that_does_not_exist_yet(templates: Path, tmp_path: Path) -> None:
    made = scaffold.new("onboarding", "partners", templates=templates, into=tmp_path / "plans" / "mine")
    assert planfile.read_plan(made).plan == "partners"


def test_the_copy_of_a_copy_is_a_plan(templates: Path) -> None:
    scaffold.new("onboarding", "partners", templates=templates, into=templates)
    made = scaffold.new("partners", "suppliers", templates=templates, into=templates)
    assert planfile.read_plan(made).plan == "suppliers"


def test_what_to_edit_next_is_named_by_line(templates: Path) -> None:
    made = scaffold.new("onboarding", "partners", templates=templates, into=templates)
    (made.parent / "welcome.email.en.txt.j2").touch()
    told = scaffold.to_edit(made)
    assert told[0] == f"{made}:3: title: what people call this plan"
    assert any(line.startswith(f"{made}:37: audience.source: ") for line in told)
    assert "welcome.email.en.txt.j2" in told[-1]


@pytest.mark.parametrize(
    ("scenario", "name", "message"),
    [
        ("onbording", "partners", "has no scenario of that name; did you mean onboarding?"),
        ("../templates/onboarding", "partners", "has no scenario of that name"),
        ("shared", "partners", "has no scenario of that name"),
        ("onboarding", "Partner Plan", "such as partner-plan"),
        ("onboarding", "../partners", "is not a name"),
        ("onboarding", "", "is not a name"),
        ("onboarding", "shared", "shared is the folder that all plans share"),
        ("onboarding", "onboarding", "is already there; choose another name, or edit that plan"),
        ("onboarding", "empty", "is already there"),
        ("onboarding", "dangling", "is already there"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_written(
    templates: Path, scenario: str, name: str, message: str
) -> None:
    (templates / "empty").mkdir()
    (templates / "dangling").symlink_to(templates / "nowhere")
    before = sorted(templates.rglob("*"))
    with pytest.raises(InputError) as refused:
        scaffold.new(scenario, name, templates=templates, into=templates)
    assert message in str(refused.value)
    assert sorted(templates.rglob("*")) == before


def test_a_scenario_that_does_not_check_is_not_copied(templates: Path) -> None:
    file = templates / "onboarding" / "plan.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("wait: P2D", "wait: 2 days"), encoding="utf-8")
    with pytest.raises(InputError, match="2 days"):
        scaffold.new("onboarding", "partners", templates=templates, into=templates)
    assert not (templates / "partners").exists()


def test_a_copy_that_fails_half_way_leaves_nothing_behind(templates: Path) -> None:
    (templates / "onboarding" / "gone.sms.en.txt.j2").symlink_to(templates / "nowhere")
    before = sorted(templates.rglob("*"))
    with pytest.raises(InputError, match="cannot be written: a file of the scenario cannot be copied"):
        scaffold.new("onboarding", "partners", templates=templates, into=templates)
    assert sorted(templates.rglob("*")) == before


def test_a_place_that_cannot_be_written_to_is_said_plainly(templates: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written: (not a directory|file exists)"):
        scaffold.new("onboarding", "partners", templates=templates, into=tmp_path / "file")


def test_scenarios_are_folders_with_a_plan(templates: Path, tmp_path: Path) -> None:
    (templates / "notes").mkdir()
    assert "onboarding" in scaffold.scenarios(templates)
    assert not {"shared", "notes"} & set(scaffold.scenarios(templates))
    assert scaffold.scenarios(tmp_path / "nowhere") == []
