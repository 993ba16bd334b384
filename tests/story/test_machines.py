"""A campaign over PostgreSQL that other machines help to send: whichever dies, everybody is written to once."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Row, func, select, update

from commplan import campaign
from commplan.installation import ROOT, answers, command, deploy, prefect_settings, start_prefect, start_worker
from commplan.sandbox import Switches
from commplan.settings import ClockSettings, EmailSettings, Settings, SmsSettings, as_environment
from commplan.store import Store, open_store
from commplan.store.tables import attempts, batches, messages, recipients, runs
from commplan.supervisor import Child, Supervisor, clean_environment, free_port, listen
from tests.campaign.conftest import LETTER
from tests.conftest import PLAIN
from tests.story.installation import kill, parent_of, processes_of

pytestmark = [pytest.mark.story, pytest.mark.long, pytest.mark.timeout(600), pytest.mark.xdist_group("machines")]

PEOPLE = 1_000
#: As many hands as this are called, one more than there are workers: it waits, and is called off.
HANDS = 4
WORKERS = 3
KEY = "letter@first"
#: So many requests ahead are made slow, as long as not every worker has begun.
AHEAD = 30


@dataclass
class Machines:
    """Prefect, a worker that carries campaigns, workers that lend a hand, and the providers' sandbox."""

    supervisor: Supervisor
    settings: Settings
    store: Store
    prefect: str
    deployments: dict[str, str]
    workers: list[Child]
    slow: int = 0

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask the Prefect API, again while it is busy, and return its answer."""
        until = time.monotonic() + 120
        while True:
            answer = httpx.request(method, f"{self.prefect}/api{path}", json=body, timeout=60, **PLAIN)
            if answer.status_code < 500:
                answer.raise_for_status()
                return answer.json()
            assert time.monotonic() < until, f"the Prefect API did not answer {path}"
            time.sleep(0.5)

    def all_send(self) -> bool:
        """Tell whether every worker has sent something; until then there is something left for it."""
        with self.store.read() as connection:
            made = connection.execute(select(func.count()).select_from(attempts)).scalar_one()
        if (more := made + AHEAD - self.slow) > 0:
            wanted = {"channel": "email", "fault": "slow", "times": more}
            httpx.post(f"{self.settings.email.base_url}/sandbox/faults", json=wanted, **PLAIN)
            self.slow += more
        return len(self.senders()) == WORKERS

    def hands(self) -> list[dict[str, Any]]:
        """Return the flow runs that were to help."""
        wanted = {"deployments": {"id": {"any_": [self.deployments["dispatch"]]}}}
        return list(self.ask("POST", "/flow_runs/filter", wanted))

    def wait(self, holds: Callable[[], object], *, why: str, seconds: float = 240) -> None:
        """Wait for a condition."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{why}: it never came true"
            time.sleep(0.2)

    def batches(self) -> list[Row[Any]]:
        """Return every batch with the process that took it and, while its request is on the wire, that it is."""
        on_wire = select(attempts.c.attempt_id).where(
            attempts.c.batch_id == batches.c.batch_id, attempts.c.outcome == "open"
        )
        with self.store.read() as connection:
            return list(
                connection.execute(
                    select(
                        batches.c.batch_id,
                        batches.c.worker,
                        batches.c.closed_machine,
                        on_wire.exists().label("on_wire"),
                    )
                ).all()
            )

    def senders(self) -> set[int]:
        """Return the processes of hands that have closed a batch."""
        workers = {worker.process.pid for worker in self.workers}
        done = {_pid(batch) for batch in self.batches() if batch.closed_machine is not None}
        return {pid for pid in done if parent_of(pid) in workers}

    def run_state(self) -> str | None:
        """Return the state that the ledger has the run in."""
        with self.store.read() as connection:
            return connection.execute(select(runs.c.state).where(runs.c.run_key == KEY)).scalar_one_or_none()

    def rows(self) -> dict[str, str]:
        """Return the state of the message to each address that one was planned for."""
        with self.store.read() as connection:
            found = connection.execute(
                select(recipients.c.email, messages.c.state)
                .join(messages, (messages.c.run_id == recipients.c.run_id) & (messages.c.seq == recipients.c.seq))
                .where(messages.c.state != "excluded")
            ).all()
        return {row.email: row.state for row in found}


def _name_of(number: int, of: int) -> str:
    return f"{KEY} · welcome · email · hand {number} of {of} · SANDBOX"


def _pid(batch: Row[Any]) -> int:
    return int(batch.worker.rpartition(":")[2])


@pytest.fixture
def here(store_url: str, tmp_path: Path) -> Iterator[Machines]:
    home, began = tmp_path / "first", round(time.time())
    with Supervisor(tmp_path / "logs") as supervisor, listen() as inbound, listen() as outbound:
        sandbox, receiver = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (outbound, inbound))
        # A minute takes a second, so that what nobody knows is settled soon.
        settings = Settings(
            home=home,
            store_url=SecretStr(store_url),
            secret_key=SecretStr(secrets.token_hex(16)),
            public_url=receiver,
            max_recipients=PEOPLE,
            machines=HANDS + 1,
            email=EmailSettings(base_url=sandbox, api_key=SecretStr("SG.of-the-tests"), batch=5),
            sms=SmsSettings(base_url=sandbox, account_sid="AC" + "1" * 32, auth_token=SecretStr("of-the-tests")),
            clock=ClockSettings(origin="2026-12-01T02:00:00Z", anchor=began, factor=60),
        )
        crm = tmp_path / "crm.sqlite"
        switches = Switches.calm(slow_seconds=2).model_dump_json()
        child = supervisor.start(
            "sandbox",
            command(
                "sandbox", fd=outbound.fileno(), crm=crm, contacts=PEOPLE, key_file=home / "key.pem", switches=switches
            ),
            environment=clean_environment(as_environment(settings)),
            cwd=ROOT,
            fds=[outbound.fileno()],
        )
        supervisor.wait_for(child, partial(answers, f"{sandbox}/sandbox/health"), seconds=120)
        key = (home / "key.pub").read_text(encoding="ascii").strip()
        settings = settings.model_copy(update={"email": settings.email.model_copy(update={"webhook_keys": (key,)})})
        port = free_port()
        prefect = f"http://127.0.0.1:{port}"
        environment = clean_environment(as_environment(settings) | prefect_settings(home, prefect, poll=1))
        child = supervisor.start(
            "receiver",
            command("serve", fd=inbound.fileno()),
            environment=environment,
            cwd=ROOT,
            fds=[inbound.fileno()],
        )
        start_prefect(supervisor, environment, port)
        supervisor.wait_for(child, partial(answers, f"{receiver}/healthz"), seconds=120)
        deployments = deploy(environment, log=supervisor.logs / "deployment.log")
        with_source = environment | {"CRM_DATABASE_URL": f"sqlite:///{crm}"}
        start_worker(supervisor, with_source, "campaigns", named="worker-campaigns")
        # What another machine has: the settings, and nothing else.
        homes = [tmp_path / f"machine-{number}" for number in range(1, WORKERS + 1)]
        elsewhere = environment | {"COMMPLAN_TEMPLATES": str(tmp_path / "none")}
        workers = [
            start_worker(supervisor, elsewhere | {"COMMPLAN_HOME": str(each)}, "senders", named=each.name, limit=1)
            for each in homes
        ]
        store = open_store(settings)
        yield Machines(
            supervisor=supervisor,
            settings=settings,
            store=store,
            prefect=prefect,
            deployments=deployments,
            workers=workers,
        )
        store.dispose()
    assert not [pid for each in (home, *homes) for pid, *_ in processes_of(each)], "something was left behind"


def _stopped_in_the_middle(here: Machines) -> tuple[int, int]:
    """Stop a hand while its request is on the wire; return its process and its batch."""
    while True:
        hands = here.senders()
        for batch in here.batches():
            if batch.on_wire and (pid := _pid(batch)) in hands:
                os.kill(pid, signal.SIGSTOP)
                if any(still.on_wire for still in here.batches() if still.batch_id == batch.batch_id):
                    return pid, batch.batch_id
                os.kill(pid, signal.SIGCONT)
        assert here.run_state() == "executing", "nobody was in the middle of anything"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_several_machines_send_one_step_and_one_of_them_dies(here: Machines, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "templates" / "onboarding", tmp_path / "plan")
    plan = tmp_path / "plan" / "plan.yaml"
    plan.write_text(LETTER.replace("PT1H", "PT1M"), encoding="utf-8")
    assert not here.all_send()
    wanted = {"parameters": {"plan": str(plan), "run_key": "first"}}
    here.ask("POST", f"/deployments/{here.deployments['onboarding']}/create_flow_run", wanted)

    here.wait(here.all_send, why="every worker has sent something")
    pid, batch_id = _stopped_in_the_middle(here)
    here.supervisor.tend()
    kill(parent_of(pid))
    kill(pid)

    def rest_is_sent() -> bool:
        states = here.rows().values()
        open_batches = {batch.batch_id for batch in here.batches() if batch.closed_machine is None}
        return "queued" not in states and open_batches <= {batch_id}

    here.wait(rest_is_sent, why="the others sent all that the dead one had not")
    # A minute and a half go by.
    with here.store.write() as connection:
        connection.execute(update(batches).where(batches.c.batch_id == batch_id).values(lease_machine=0.0))
    here.wait(lambda: here.run_state() == "finished", why="the run went on to its end")

    states = here.rows()
    truth = [
        json.loads(line)
        for line in httpx.get(f"{here.settings.email.base_url}/sandbox/messages", timeout=60, **PLAIN).text.splitlines()
    ]
    written = Counter(one["to"] for one in truth)
    assert set(written.values()) == {1}, "somebody was written to twice"
    unknown = {to for to, state in states.items() if state == "unknown"}
    assert written.keys() - unknown == states.keys() - unknown
    assert len(states) > 0.9 * PEOPLE
    assert set(states.values()) <= {"accepted", "delivered", "failed", "unknown"}
    found = campaign.prove(here.store, here.settings, KEY)
    assert (found.difference, [check.what for check in found.checks if check.difference]) == (0, [])

    assert len({batch.worker for batch in here.batches()}) >= 1 + WORKERS

    def ended() -> bool:
        return all(hand["state"]["type"] in ("COMPLETED", "CANCELLED") for hand in here.hands())

    here.wait(ended, why="no hand is left behind")
    hands = here.hands()
    named = {hand["name"] for hand in hands}
    # Called again, and then perhaps fewer, when the provider was away for a moment and the step became due once more.
    assert named >= {_name_of(number, HANDS) for number in range(1, HANDS + 1)}
    assert named <= {_name_of(number, of) for of in range(1, HANDS + 1) for number in range(1, of + 1)}
    assert all(hand["parameters"] == {"run_key": KEY, "step": 1} for hand in hands)
    assert sum(hand["state"]["type"] == "COMPLETED" for hand in hands) >= WORKERS - 1
