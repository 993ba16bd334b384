"""Two copies of a campaign in a storm of faults and kills: nobody twice, nobody unaccounted for, on both databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commplan import campaign

pytestmark = pytest.mark.xdist_group("chaos")

ROOT = Path(campaign.__file__).parents[2]


def weather(
    folder: Path, store_url: str, *, people: int, kills: int, seed: int, factor: int = 60, silent: bool = False
) -> dict[str, Any]:
    """Send a campaign through a storm; if anything is wrong, all of it is kept in the folder that is named."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.storm", str(folder), store_url]
        + [str(number) for number in (people, kills, seed, factor)]
        + ["silent"] * silent,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}, kept in {folder}:\n{done.stderr}"
    return dict(json.loads(done.stdout))


def test_a_small_storm_leaves_nobody_twice_and_everybody_accounted_for(tmp_path: Path, store_url: str) -> None:
    found = weather(tmp_path / "storm", store_url, people=60, kills=4, seed=24, factor=480)
    assert found["lost"] > 0
    assert found["arrived"] > 100


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_campaign_in_a_storm_writes_to_nobody_twice_and_accounts_for_everybody(
    tmp_path: Path, store_url: str
) -> None:
    found = weather(tmp_path / "storm", store_url, people=500, kills=8, seed=11)
    # The storm was one, and all of it was settled: whatever was lost went out again.
    assert found["lost"] > 0
    assert found["arrived"] > 950


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_after_a_storm_without_evidence_emails_are_held_and_nobody_guesses(tmp_path: Path, store_url: str) -> None:
    found = weather(tmp_path / "storm", store_url, people=100, kills=3, seed=12, silent=True)
    assert found["states"]["unknown"] > 0
    assert found["states"]["not_due"] >= found["states"]["unknown"]


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_long_storm_changes_nothing_about_that(tmp_path: Path, store_url: str, seed: int) -> None:
    found = weather(tmp_path / "storm", store_url, people=2_000, kills=20, seed=seed)
    assert found["arrived"] > 3_200
