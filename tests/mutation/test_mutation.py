"""Whoever takes away the line that keeps an invariant is told by a test: each is taken away, in a copy, and told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commplan import campaign
from tests.mutation.breaks import BREAKS, Break, table

ROOT = Path(campaign.__file__).parents[2]
EVERY = [pytest.param(one, id=re.sub(r"\W+", "-", one.rule)) for one in BREAKS]


def copy(folder: Path) -> Path:
    """Return a copy of everything that is under test."""
    for name in ("commplan", "flows", "templates", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", test],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("one", EVERY)
def test_the_line_that_keeps_an_invariant_is_where_the_list_of_breaks_says(one: Break) -> None:
    assert (ROOT / one.file).read_text(encoding="utf-8").count(one.line) == 1, f"{one.file} has moved on: {one.line!r}"


def test_the_readme_shows_each_invariant_with_what_keeps_it_and_who_notices() -> None:
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    assert f"<!-- breaks -->\n{table()}\n<!-- /breaks -->" in page


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("one", EVERY)
def test_a_test_fails_when_an_invariant_is_broken_on_purpose(tmp_path: Path, one: Break) -> None:
    folder = copy(tmp_path / "copy")
    whole = run(folder, one.test)
    assert whole.returncode == 0, f"it fails with nothing broken:\n{whole.stdout[-2000:]}"
    file = folder / one.file
    file.write_text(file.read_text(encoding="utf-8").replace(one.line, one.instead), encoding="utf-8")
    broken = run(folder, one.test)
    assert broken.returncode == 1, f"nobody noticed:\n{broken.stdout[-2000:]}"
    # It failed or, where a fixture is what notices, ended in an error; it did not fail to be there.
    assert re.search(r"\d+ (failed|error)", broken.stdout), broken.stdout[-2000:]
