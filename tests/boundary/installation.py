"""An installation in a folder, whose sandbox, receiver and senders are processes of their own.

Everything a process needs is in the `Installation`, so whoever forks passes it on and opens the store afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import select

from commplan import campaign
from commplan.campaign import Campaign
from commplan.clock import Clock
from commplan.ids import MessageRef, RunId, TokenPurpose
from commplan.sandbox import SandboxConfig, Switches
from commplan.sandbox.app import serve
from commplan.settings import ClockSettings, EmailSettings, Settings, SmsSettings
from commplan.store import Store, open_store
from commplan.store.tables import attempts, messages
from commplan.web.serve import make_server
from tests.campaign.conftest import (
    ACCOUNT,
    API_KEY,
    AUTH_TOKEN,
    BOTH,
    PRIVATE,
    PUBLIC,
    TEMPLATES,
    Customer,
    _write_crm,
)
from tests.conftest import NOON, PLAIN

#: Whichever port a sandbox or a receiver had, its messages and links are the same.
NOWHERE = "http://127.0.0.1:9"
OCCURRENCE = "first"
#: Plan time that is the same moment in every process, however long the test takes.
STANDING = Clock(origin=NOON, anchor=0.0, factor=1e-18)


def bound() -> socket.socket:
    """Return a socket that listens on a free port, so that whoever connects early waits instead of being refused."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


def address(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def fork(work: Callable[[], object], *, log: Path | None = None) -> int:
    """Run `work` in a process of its own and return its id; the process ends with 1 if it raises, else with 0."""
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        work()
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end(pid: int) -> None:
    """Kill a process of ours and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Where everything of one installation is. `batch`: people in a request and in a claim."""

    folder: Path
    store_url: str
    clock: Clock = STANDING
    sandbox: str = NOWHERE
    public: str = NOWHERE
    plan: str = BOTH
    batch: int = 20
    connections: int = 8
    timeout: float = 10.0

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.folder / "home",
            secret_key=SecretStr("a secret of the tests"),
            store_url=SecretStr(self.store_url),
            public_url=self.public,
            max_recipients=10_000,
            email=EmailSettings(
                base_url=self.sandbox,
                api_key=SecretStr(API_KEY),
                webhook_keys=(PUBLIC,),
                batch=self.batch,
                timeout=self.timeout,
            ),
            sms=SmsSettings(
                base_url=self.sandbox,
                account_sid=ACCOUNT,
                auth_token=SecretStr(AUTH_TOKEN),
                connections=self.connections,
                timeout=self.timeout,
            ),
            clock=ClockSettings(origin=self.clock.origin, anchor=self.clock.anchor, factor=self.clock.factor),
        )

    @property
    def plan_file(self) -> Path:
        return self.folder / "plan" / "plan.yaml"

    @property
    def run_key(self) -> str:
        return f"{self.plan.split()[1]}@{OCCURRENCE}"

    def make(self, people: list[Customer]) -> None:
        """Write the CRM and the plan with its templates, and create the store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_crm(self.folder / "crm.sqlite", people, f"{NOWHERE}/site")
        shutil.copytree(TEMPLATES / "onboarding", self.plan_file.parent)
        self.plan_file.write_text(self.plan, encoding="utf-8")
        open_store(self.settings).dispose()

    def copy(self, folder: Path) -> Installation:
        """Return a copy of the whole folder; its store must be a file in it, and nobody may have it open."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder, store_url=self.store_url.replace(str(self.folder), str(folder)))

    def enter(self) -> None:
        """Make this process one of the installation's."""
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{self.folder / 'crm.sqlite'}"

    def start(self, store: Store) -> Campaign:
        """Start the occurrence, or join it, as `commplan run` does."""
        return campaign.start(
            store, self.settings, path=self.plan_file, occurrence=OCCURRENCE, scheduled=self.clock.now()
        )

    def open_sandbox(self, switches: Switches, *, seed: int = 1) -> tuple[Installation, int]:
        """Start a sandbox; return the installation that talks to it, and its process."""
        listening = bound()
        config = SandboxConfig(
            api_key=API_KEY,
            account_sid=ACCOUNT,
            auth_token=AUTH_TOKEN,
            webhook_private_key=PRIVATE,
            public_url=self.public,
            clock=self.clock,
            seed=seed,
            switches=switches,
        )
        pid = fork(lambda: serve(config, sock=listening), log=self.folder / "sandbox.log")
        here = replace(self, sandbox=address(listening))
        listening.close()
        return here, pid

    def listen(self, listening: socket.socket) -> int:
        """Start a receiver at a socket that listens already; return its process."""

        def receive() -> None:
            self.enter()
            make_server(open_store(self.settings), self.settings).run(sockets=[listening])

        return fork(receive, log=self.folder / "receiver.log")

    def truth(self, store: Store) -> list[dict[str, Any]]:
        """Return every message the providers accepted; `ref` is ours, the rest the sandbox's own words."""
        lines = httpx.get(f"{self.sandbox}/sandbox/messages", **PLAIN, timeout=60).text.splitlines()
        found = [json.loads(line) for line in lines]
        for one in found:
            args = one["args"]
            one["ref"] = store.keyring.open(TokenPurpose.MESSAGE, args.get("cp_m") or args["m"])
            one["attempt"] = args.get("cp_a") or args["a"]
        return found

    @staticmethod
    def rows(store: Store) -> Mapping[MessageRef, Any]:
        """Return the ledger's messages, each with what became of its request."""
        query = select(messages, attempts.c.outcome).outerjoin(attempts, attempts.c.attempt_id == messages.c.attempt_id)
        with store.read() as connection:
            return {MessageRef(RunId(row.run_id), row.step_no, row.seq): row for row in connection.execute(query)}
