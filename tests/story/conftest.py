"""One demo, kept up, that every story test looks at: real Prefect server, worker, receiver and sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PLAIN

CONTACTS = 160
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """A finished demo whose servers are still up."""

    process: subprocess.Popen[str]
    home: Path
    output: str
    prefect: str
    receiver: str
    sandbox: str

    @property
    def last_line(self) -> dict[str, str]:
        """The fields of the machine-readable last line."""
        words = self.output.strip().splitlines()[-1].split(" ", 2)
        fields = dict(pair.split("=", 1) for pair in words[2].split(" ", 5))
        return {"run": words[1], **fields}

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation that the run ended with."""
        return json.loads(Path(self.last_line["report"]).with_name("evaluation.json").read_text(encoding="utf-8"))

    def truth(self) -> list[dict[str, Any]]:
        """What the sandbox knows of every message it accepted."""
        answer = httpx.get(f"{self.sandbox}/sandbox/messages", timeout=60, **PLAIN)
        return [json.loads(line) for line in answer.text.splitlines()]

    def ask_prefect(self, path: str, body: object) -> Any:
        """Post to the Prefect API and return its answer."""
        answer = httpx.post(f"{self.prefect}/api{path}", json=body, timeout=30, **PLAIN)
        answer.raise_for_status()
        return answer.json()


def _start(home: Path, *words: str, **extra: str) -> subprocess.Popen[str]:
    """Start `commplan demo` as a new user's shell would, from another folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMMPLAN_")} | extra
    return subprocess.Popen(
        [sys.executable, "-m", "commplan", "demo", "--home", str(home), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=_ROOT,
    )


@pytest.fixture
def start_demo() -> Callable[..., subprocess.Popen[str]]:
    return _start


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    # A path with a space and Chinese characters, a plain locale, and somebody else's settings in the environment.
    home = tmp_path_factory.mktemp("demo") / "a b 演示"
    process = _start(
        home,
        "--contacts",
        str(CONTACTS),
        "--keep",
        LANG="C",
        PREFECT_API_URL="http://127.0.0.1:9/api",
        SENDGRID_API_KEY="not-ours",
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if line.startswith("run "):
            break
    output = "".join(lines)
    if process.poll() is not None or not lines[-1].startswith("run "):
        pytest.fail(f"the demo did not finish:\n{output}")
    addresses = json.loads((home / "addresses.json").read_text(encoding="ascii"))
    yield Demo(process=process, home=home, output=output, **addresses)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
