"""The processes of an installation: how each is started, by the demo and for daily use alike.

Loopback only; everything they keep is in the home folder.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console

from commplan.supervisor import Child, ChildError, Supervisor, python

#: The project's folder, which flows are loaded from.
ROOT = Path(__file__).resolve().parent.parent


def prefect_settings(home: Path, url: str, *, poll: int) -> dict[str, str]:
    """Return the environment of whoever talks to the Prefect server at `url`, or is it; workers ask every `poll` s."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        # Kept in memory, what a flow run holds of its deployment's limit would be held for ever after a power cut.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "commplan",
        "PREFECT_WORKER_QUERY_SECONDS": str(poll),
        "DO_NOT_TRACK": "1",
    }


def start_prefect(supervisor: Supervisor, environment: Mapping[str, str], port: int, *, stays: bool = False) -> Child:
    """Start a Prefect server and return when it answers; ChildError when it does not."""
    child = supervisor.start(
        "prefect-server",
        python("-m", "prefect", "server", "start", "--port", str(port)),
        environment=environment,
        cwd=ROOT,
        stays=stays,
    )
    supervisor.wait_for(child, partial(answers, f"http://127.0.0.1:{port}/api/health"), seconds=120)
    return child


def start_worker(
    supervisor: Supervisor,
    environment: Mapping[str, str],
    pool: str,
    *,
    named: str,
    limit: int | None = None,
    stays: bool = False,
) -> Child:
    """Start a worker of a pool, with so many flow runs at once at the most; they are its children."""
    limited = () if limit is None else ("--limit", str(limit))
    return supervisor.start(
        named,
        python("-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", named, *limited),
        environment=environment,
        cwd=ROOT,
        stays=stays,
    )


def deploy(environment: Mapping[str, str], *names: str, log: Path) -> dict[str, str]:
    """Make the deployments of ``prefect.yaml``, or those named; return their ids by name. ChildError names the log."""
    output = run_once(python("-m", "flows.deployment", *names), environment, log=log)
    if output is None:
        raise ChildError(f"the deployments could not be made; see {log}")
    return dict(json.loads(output.splitlines()[-1])["deployments"])


def run_once(words: Sequence[str], environment: Mapping[str, str], *, log: Path) -> str | None:
    """Run one of our commands to its end and return what it printed; None when it failed, its errors in the log."""
    answer = subprocess.run(  # noqa: S603 (our own command)
        list(words),
        env=dict(environment),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        log.write_text(answer.stderr, encoding="utf-8")
        return None
    return answer.stdout


def command(name: str, **options: object) -> list[str]:
    """Return one of our own commands, as a process of its own."""
    words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
    return python("-m", "commplan", name, *words)


def answers(url: str) -> bool:
    """Tell whether a server answers there."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def told(console: Console, what: str, done: str = "started") -> Iterator[None]:
    """Say what takes a while, and how long it took."""
    began = time.monotonic()
    with console.status(what):
        yield
    console.print(f"{done} {what} in {time.monotonic() - began:.1f} s")
