"""A long wait holds no process: the run goes back to the scheduler, and the same run comes back on time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from flows.waits import LONGEST_SLEEP

pytestmark = [pytest.mark.story, pytest.mark.long, pytest.mark.xdist_group("story")]
_ROOT = Path(__file__).resolve().parents[2]


def test_a_long_wait_is_scheduled_and_the_same_run_wakes_on_time(demo: Any, tmp_path: Path) -> None:
    flow_id = demo.ask_prefect("/flows/", {"name": "waiting"})["id"]
    deployment = demo.ask_prefect(
        "/deployments/",
        {
            "name": "waiting",
            "flow_id": flow_id,
            "work_pool_name": "campaigns",
            "entrypoint": "tests/story/waiting.py:waiting",
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(_ROOT)}}],
        },
    )["id"]
    diary, until = tmp_path / "diary", time.time() + LONGEST_SLEEP + 25
    run = demo.ask_prefect(
        f"/deployments/{deployment}/create_flow_run", {"parameters": {"until": until, "diary": str(diary)}}
    )
    seen, state = set(), run["state"]
    while time.time() < until + 90:
        found = demo.ask_prefect("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]
        state = found["state"]
        seen.add((state["type"], state["name"]))
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED"):
            break
        time.sleep(0.5)
    assert state["type"] == "COMPLETED", state
    assert ("SCHEDULED", "Waiting") in seen
    assert found["run_count"] == 2
    lines = [line.split() for line in diary.read_text(encoding="ascii").splitlines()]
    assert [word for word, _ in lines] == ["awake", "awake", "done"]
    assert float(lines[0][1]) < until - LONGEST_SLEEP
    assert float(lines[2][1]) >= until, "it must never wake early"
