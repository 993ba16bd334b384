"""An installation as `commplan up` keeps it, for tests that kill its parts: what they need to see and to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from commplan.supervisor import free_port
from tests.conftest import PLAIN

ROOT = Path(__file__).resolve().parents[2]
#: A message in one of these is still to be sent, or nobody knows whether it was.
OPEN = {"not_due", "queued", "claimed", "sending", "unknown"}

#: Two emails to everybody; the process sleeps between them.
PLAN = """
plan: {name}
title: Two letters
purpose: service
topic: letters
owner: crm
team: {{crm: {{}}}}
goals: [{{id: reach, metric: reach, target: at least 50%}}]
audience:
  people: customers
  source: {{url: env:CRM_DATABASE_URL, zone: Asia/Shanghai, sql: select * from customers order by customer_id}}
  start: 2026-01-01
  contact: {{id: customer_id, email: email, phone: mobile, locale: lang, timezone: tz, consent: {{sms: sms_opt_in}}}}
sequence:
  - {{step: first, channel: email, content: welcome}}
  - {{step: second, channel: email, content: welcome, after: first, wait: {wait}}}
evaluation: {{after: PT1S}}
"""


@dataclass(frozen=True)
class Installation:
    """What `commplan up` keeps up."""

    process: subprocess.Popen[bytes]
    home: Path
    prefect: str
    receiver: str
    sandbox: str
    deployments: Mapping[str, str]
    environment: Mapping[str, str]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask the Prefect API, again while it is busy or down, and return its answer."""
        until = time.monotonic() + 180
        while True:
            try:
                answer = httpx.request(method, f"{self.prefect}/api{path}", json=body, timeout=30, **PLAIN)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, f"the Prefect API did not answer {path}"
            time.sleep(0.5)

    def deploy(self, name: str, entrypoint: str, **parameters: object) -> str:
        """Make a deployment in the pool of the campaigns; return its id."""
        deployment = {
            "name": name,
            "flow_id": self.ask("POST", "/flows/", {"name": entrypoint.split(":")[1]})["id"],
            "work_pool_name": "campaigns",
            "entrypoint": entrypoint,
            "parameters": parameters,
            "enforce_parameter_schema": False,
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        }
        return str(self.ask("POST", "/deployments/", deployment)["id"])

    def write_plan(self, name: str, *, wait: str = "PT45S") -> Path:
        """Put a plan of two letters into a folder of its own; return its file."""
        folder = self.home / "plans" / name
        shutil.copytree(ROOT / "templates" / "onboarding", folder)
        path = folder / "plan.yaml"
        path.write_text(PLAN.format(name=name, wait=wait), encoding="utf-8")
        return path

    def start(self, deployment: str, **parameters: object) -> str:
        """Start a flow run as a person does in the UI; return its id."""
        return str(self.ask("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def campaign(self, name: str, *, wait: str = "PT45S") -> str:
        """Deploy a plan of two letters and start it under the key ``first``; return the flow run's id."""
        deployment = self.deploy(name, "flows/campaign.py:campaign", plan=str(self.write_plan(name, wait=wait)))
        return self.start(deployment, run_key="first")

    def state(self, flow_run: str) -> str:
        """Return the type of a flow run's state."""
        return str(self.ask("GET", f"/flow_runs/{flow_run}")["state"]["type"])

    def state_name(self, flow_run: str) -> str:
        """Return the name of a flow run's state."""
        return str(self.ask("GET", f"/flow_runs/{flow_run}")["state"]["name"])

    def upkeep_turns(self) -> int:
        """Return how often upkeep has been at work."""
        wanted = {
            "deployments": {"id": {"any_": [self.deployments["upkeep"]]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        return int(self.ask("POST", "/flow_runs/count", wanted))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the store."""
        connection = sqlite3.connect(f"file:{self.home / 'store.sqlite'}?mode=ro", uri=True, timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def run_state(self, key: str) -> str | None:
        """Return the state that the ledger has a run in."""
        found = self.rows("SELECT state FROM runs WHERE run_key = ?", key)
        return str(found[0][0]) if found else None

    def states(self, key: str, step_no: int) -> dict[str, int]:
        """Return how many messages of a step are in which state."""
        return dict(
            self.rows(
                "SELECT m.state, count(*) FROM messages m JOIN runs USING (run_id)"
                " WHERE run_key = ? AND step_no = ? GROUP BY m.state",
                key,
                step_no,
            )
        )

    def flow_process(self, flow_run: str) -> int | None:
        """Return the process that executes a flow run."""
        return next((pid for pid, _, environ in processes_of(self.home) if flow_run.encode() in environ), None)

    def upkeep_process(self) -> int | None:
        """Return the process of an upkeep that holds the slot of its deployment."""
        wanted = {
            "deployments": {"id": {"any_": [self.deployments["upkeep"]]}},
            "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        }
        running = (self.flow_process(found["id"]) for found in self.ask("POST", "/flow_runs/filter", wanted))
        return next(filter(None, running), None)

    def child(self, *words: str) -> int | None:
        """Return the child of `commplan up` whose command has these words."""
        wanted = [word.encode() for word in words]
        for pid, command, _ in processes_of(self.home):
            if all(word in command.split(b"\0") for word in wanted) and parent_of(pid) == self.process.pid:
                return pid
        return None

    def wait(
        self, holds: Callable[[], object], *, why: str, seconds: float = 240, silence: float | None = None
    ) -> None:
        """Wait for a condition. With `silence`, upkeep is called as often as it can be, with so short a patience."""
        until, called = time.monotonic() + seconds, 0.0
        while not holds():
            assert self.process.poll() is None, "commplan up has ended"
            assert time.monotonic() < until, f"{why}: it never came true"
            if silence is not None and time.monotonic() - called > 5:
                self.start(self.deployments["upkeep"], silence=silence)
                called = time.monotonic()
            time.sleep(0.2)

    def prove(self, key: str) -> dict[str, Any]:
        """Return what `commplan prove` says; it must exit with 0."""
        done = subprocess.run(
            [sys.executable, "-m", "commplan", "prove", key, "--json"],
            env=self.environment | {"COMMPLAN_EMAIL__API_KEY": "SG.sandbox", "COMMPLAN_SMS__AUTH_TOKEN": "sandbox"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))


def processes_of(home: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield every process with this home in its environment: its id, its command, its environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"COMMPLAN_HOME={home}".encode() in environ.split(b"\0"):
            yield int(folder.name), command, environ


def parent_of(pid: int) -> int:
    """Return the process that started another; 0 when that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(pid: int | None) -> None:
    """Kill a process as a power cut would."""
    assert pid is not None, "there is no such process"
    os.kill(pid, signal.SIGKILL)


@contextmanager
def installed(home: Path) -> Iterator[Installation]:
    """Run `commplan up` on free ports, in a home of its own, until the block ends."""
    home.mkdir(parents=True)
    sandbox, receiver, port = (free_port() for _ in range(3))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMMPLAN_", "PREFECT_"))}
    environment |= {
        "COMMPLAN_HOME": str(home),
        "COMMPLAN_PUBLIC_URL": f"http://127.0.0.1:{receiver}",
        "COMMPLAN_EMAIL__BASE_URL": f"http://127.0.0.1:{sandbox}",
        "COMMPLAN_SMS__BASE_URL": f"http://127.0.0.1:{sandbox}",
        "COMMPLAN_EMAIL__BATCH": "20",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
    }
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "commplan", "up", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        )
    try:
        until = time.monotonic() + 300
        while not (home / "addresses.json").exists():
            assert process.poll() is None, (home / "up.log").read_text()
            assert time.monotonic() < until, (home / "up.log").read_text()
            time.sleep(0.2)
        found = json.loads((home / "addresses.json").read_text(encoding="utf-8"))
        yield Installation(process=process, home=home, environment=environment, **found)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    assert process.returncode == 0
    assert not list(processes_of(home)), "commplan up left processes behind"
