"""The demo: a whole campaign on this machine, from a sample CRM to the evaluation, with simulated people.

Everything real runs: a Prefect server and worker, the providers' SDKs over HTTP, signed webhooks. Only the providers
and the people behind them are simulated, and plan time runs faster.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from commplan import archive, campaign, terminal
from commplan.errors import RunError
from commplan.evaluation import Evaluation
from commplan.installation import (
    ROOT,
    answers,
    command,
    deploy,
    prefect_settings,
    start_prefect,
    start_worker,
    told,
)
from commplan.ledger import proof as books
from commplan.ledger import run as ledger_run
from commplan.ledger.run import Run
from commplan.plan import Plan
from commplan.sandbox.start import INBOUND_DOMAIN
from commplan.settings import Settings, load_settings
from commplan.store import Store, open_store
from commplan.supervisor import ChildError, Supervisor, clean_environment, free_port, listen
from commplan.terms import Channel, MessageState, RunState

#: Plan time at which the campaign begins: a Tuesday.
BEGINS = datetime(2026, 12, 1, 10, 0, tzinfo=ZoneInfo("Asia/Shanghai"))
#: Machine seconds that a day of plan time takes, at least; more people, or a machine that is busy already, need a
#: slower day, or texts come too late.
DAY = 4.0
DAY_PER_CONTACT = 0.0025
#: So many times longer at the most, however busy the machine is.
_SLOWEST = 4.0
#: Days that the campaign takes, and machine seconds to start everything and to end it.
_DAYS, _BESIDES = 12, 60
RUN_KEY = "demo"

_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_LOG = logging.getLogger("commplan.demo")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """Where the demo's parts answer, and the environment they all share."""

    home: Path
    prefect: str
    deployment: str
    receiver: str
    sandbox: str
    environment: dict[str, str]


def run_demo(*, contacts: int, seed: int, home: Path | None, keep: bool) -> None:
    """Run the onboarding campaign for so many customers and show what came of it.

    Prints progress, a table, the addresses of the evaluation, and as its last line the machine-readable result. With
    `keep`, servers stay up until Ctrl-C. ChildError or RunError, naming the log to read, when something ends early.
    """
    home = (home or _new_home()).absolute()
    home.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    with Supervisor(home / "logs") as supervisor:
        stage = _raise_curtain(supervisor, home=home, contacts=contacts, seed=seed, console=console)
        flow_run = _start_run(stage)
        console.print(f"the run in the Prefect UI  {stage.prefect}/runs/flow-run/{flow_run}", soft_wrap=True)
        settings, store = _open(stage)
        run = _watch(supervisor, stage, store, flow_run=flow_run, contacts=contacts)
        report = archive.report_folder(settings, run.run_key) / "evaluation.html"
        _show(supervisor, stage, archive.last_evaluation(store, run), report=report, console=console)
        if keep:
            console.print("\nServers stay up until Ctrl-C.")
            _last_line(settings, run, store)
            store.dispose()
            _stay(supervisor)
        else:
            _last_line(settings, run, store)
            store.dispose()


def _new_home() -> Path:
    parent = Path(".commplan") / "demo"
    parent.mkdir(parents=True, exist_ok=True)
    old = sorted(folder for folder in parent.iterdir() if (folder / "finished").exists())
    for folder in old[:-3]:
        shutil.rmtree(folder, ignore_errors=True)
    return parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def day_for(contacts: int, *, load: float) -> float:
    """Return the machine seconds of a day; `load` is how many processes want each processor before it begins."""
    return max(DAY, contacts * DAY_PER_CONTACT) * min(_SLOWEST, max(1.0, load))


def _raise_curtain(supervisor: Supervisor, *, home: Path, contacts: int, seed: int, console: Console) -> _Stage:
    day = day_for(contacts, load=os.getloadavg()[0] / (os.cpu_count() or 1))
    minutes = math.ceil((_BESIDES + _DAYS * day) / 60)
    console.print(
        f"SANDBOX: {contacts:,} simulated customers; nobody is written to. About {minutes} minutes.", soft_wrap=True
    )
    console.print(f"Everything it writes is in {home}", soft_wrap=True)
    with told(console, "Prefect server"):
        prefect, base = _start_prefect(supervisor, home)
    with told(console, "onboarding from prefect.yaml", "deployed"):
        deployment = deploy(base, "onboarding", log=home / "logs" / "deployment.log")["onboarding"]
    inbound, outbound = listen(), listen()
    receiver = f"http://127.0.0.1:{inbound.getsockname()[1]}"
    sandbox = f"http://127.0.0.1:{outbound.getsockname()[1]}"
    environment = base | {
        "COMMPLAN_HOME": str(home),
        "COMMPLAN_PUBLIC_URL": receiver,
        "COMMPLAN_MAX_RECIPIENTS": str(contacts),
        "COMMPLAN_EMAIL__BASE_URL": sandbox,
        "COMMPLAN_EMAIL__API_KEY": f"SG.{secrets.token_urlsafe(16)}",
        "COMMPLAN_EMAIL__FROM_NAME": "Kite",
        "COMMPLAN_SMS__BASE_URL": sandbox,
        "COMMPLAN_SMS__ACCOUNT_SID": f"AC{secrets.token_hex(16)}",
        "COMMPLAN_SMS__AUTH_TOKEN": secrets.token_hex(16),
        "COMMPLAN_CLOCK__ORIGIN": BEGINS.isoformat(),
        # About what comes before the first line of the flow, which then waits for the clock to begin.
        "COMMPLAN_CLOCK__ANCHOR": str(round(time.time() + 9)),
        "COMMPLAN_CLOCK__FACTOR": str(round(86_400 / day)),
        "CRM_DATABASE_URL": f"sqlite:///{home / 'crm.sqlite'}",
    }
    with told(console, f"sandbox with {contacts:,} customers"):
        child = supervisor.start(
            "sandbox",
            command(
                "sandbox",
                fd=outbound.fileno(),
                crm=home / "crm.sqlite",
                contacts=contacts,
                seed=seed,
                key_file=home / "webhook.pem",
            ),
            environment=environment,
            cwd=ROOT,
            fds=[outbound.fileno()],
        )
        outbound.close()
        supervisor.wait_for(child, lambda: answers(f"{sandbox}/sandbox/health"), seconds=60)
    keys = json.dumps([(home / "webhook.pub").read_text(encoding="ascii").strip()])
    environment["COMMPLAN_EMAIL__WEBHOOK_KEYS"] = keys
    environment["COMMPLAN_EMAIL__INBOUND_DOMAIN"] = INBOUND_DOMAIN
    environment["COMMPLAN_EMAIL__INBOUND_KEYS"] = keys
    with told(console, "receiver and worker"):
        child = supervisor.start(
            "receiver",
            command("serve", fd=inbound.fileno()),
            environment=environment,
            cwd=ROOT,
            fds=[inbound.fileno()],
        )
        inbound.close()
        start_worker(supervisor, environment, "campaigns", named="worker")
        supervisor.wait_for(child, lambda: answers(f"{receiver}/healthz"), seconds=60)
    addresses = {"prefect": prefect, "receiver": receiver, "sandbox": sandbox}
    (home / "addresses.json").write_text(json.dumps(addresses), encoding="ascii")
    return _Stage(
        home=home, prefect=prefect, deployment=deployment, receiver=receiver, sandbox=sandbox, environment=environment
    )


def _start_prefect(supervisor: Supervisor, home: Path) -> tuple[str, dict[str, str]]:
    for tries in range(3):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = clean_environment(prefect_settings(home, url, poll=1))
        try:
            start_prefect(supervisor, environment, port)
        except ChildError:
            # Somebody else may have taken the port between our look and its start.
            if tries == 2 or supervisor.children[-1].process.poll() is None:
                raise
            continue
        return url, environment
    raise AssertionError("unreachable")


def _start_run(stage: _Stage) -> str:
    answer = httpx.post(
        f"{stage.prefect}/api/deployments/{stage.deployment}/create_flow_run",
        json={"parameters": {"run_key": RUN_KEY}},
        timeout=30,
        trust_env=False,
    )
    if answer.status_code != httpx.codes.CREATED:
        raise ChildError(f"the run could not be started; see {stage.home / 'logs' / 'prefect-server.log'}")
    return str(answer.json()["id"])


def _open(stage: _Stage) -> tuple[Settings, Store]:
    for name in [name for name in os.environ if name.startswith("COMMPLAN_")]:
        del os.environ[name]
    os.environ.update({name: value for name, value in stage.environment.items() if name.startswith("COMMPLAN_")})
    settings = load_settings()
    return settings, open_store(settings)


def _watch(supervisor: Supervisor, stage: _Stage, store: Store, *, flow_run: str, contacts: int) -> Run:
    run: Run | None = None
    with _progress(Console(highlight=False)) as tell:
        while True:
            for child in supervisor.children:
                child.require_alive()
            supervisor.sample()
            state = _flow_state(stage, flow_run)
            run = run or next(iter(ledger_run.list_runs(store, limit=1)), None)
            if run is not None:
                with store.read() as connection:
                    tell(
                        store,
                        ledger_run.plan_of(connection, run.run_id),
                        books.balance(connection, run.run_id, run.run_key),
                    )
            if state["type"] in _ENDED:
                break
            time.sleep(0.5)
    if (
        run is None
        or state["type"] != "COMPLETED"
        or ledger_run.load_run(store, run.run_id).state is not RunState.FINISHED
    ):
        raise RunError(
            f"the flow run ended as {state['name']}: {state.get('message') or 'no reason given'}; "
            f"see {stage.home / 'logs' / 'worker.log'}"
        )
    return run


def _flow_state(stage: _Stage, flow_run: str) -> dict[str, str]:
    for _ in range(20):
        try:
            answer = httpx.get(f"{stage.prefect}/api/flow_runs/{flow_run}", timeout=10, trust_env=False)
            if answer.status_code == 200 and answer.json()["state"]:
                return dict(answer.json()["state"])
        except httpx.HTTPError:
            _LOG.debug("the Prefect API did not answer; asking again")
        time.sleep(0.5)
    raise ChildError(f"the Prefect API does not answer; see {stage.home / 'logs' / 'prefect-server.log'}")


Tell = Callable[[Store, Plan, books.Proof], None]


@contextmanager
def _progress(console: Console) -> Iterator[Tell]:
    """Yield a function that shows the books as they grow: bars on a terminal, a line every few seconds elsewhere."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[int, object] = {}
    last: list[float | str] = [0.0, ""]

    def tell(store: Store, plan: Plan, proof: books.Proof) -> None:
        lines = []
        for step in proof.steps:
            done = sum(
                step.states.get(s, 0) for s in (MessageState.ACCEPTED, MessageState.DELIVERED, MessageState.FAILED)
            )
            waiting = sum(
                step.states.get(s, 0)
                for s in (MessageState.QUEUED, MessageState.NOT_DUE, MessageState.CLAIMED, MessageState.SENDING)
            )
            more = f"{step.states.get(MessageState.DELIVERED, 0):,} delivered"
            if step.step_no not in tasks:
                tasks[step.step_no] = bars.add_task(step.step, total=None, more="")
            bars.update(tasks[step.step_no], completed=done, total=done + waiting, more=more)  # type: ignore[arg-type]
            lines.append(f"{step.step} {done:,} of {done + waiting:,} sent, {more}")
        said = "; ".join(lines)
        patience = 5 if said != last[1] else 60
        if (
            not console.is_terminal
            and time.monotonic() - float(last[0]) > patience
            and any(s.contacts for s in proof.steps)
        ):
            last[:] = time.monotonic(), said
            moment = f"{store.clock.now().astimezone(plan.zone):%a %d %b %H:%M}"
            console.print(f"{moment}  {said}", soft_wrap=True)

    with bars:
        yield tell


def _show(supervisor: Supervisor, stage: _Stage, judged: Evaluation, *, report: Path, console: Console) -> None:
    console.print()
    terminal.show(terminal.summary(judged))
    console.print()
    for name, peak in sorted(supervisor.peaks.items()):
        console.print(f"peak memory  {name}: {peak / 1e6:.0f} MB")
    console.print(f"\nEvaluation in the Prefect UI  {_artifact(stage, judged.plan)}", soft_wrap=True)
    console.print(f"Report  {report}", soft_wrap=True)
    (stage.home / "finished").touch()


def _artifact(stage: _Stage, plan: str) -> str:
    wanted = {"artifacts": {"key": {"any_": [f"evaluation-{plan}"]}}, "sort": "CREATED_DESC", "limit": 1}
    found = httpx.post(f"{stage.prefect}/api/artifacts/filter", json=wanted, timeout=10, trust_env=False).json()
    return f"{stage.prefect}/artifacts/artifact/{found[0]['id']}"


def _last_line(settings: Settings, run: Run, store: Store) -> None:
    proof = campaign.prove(store, settings, run.run_key)
    with store.read() as connection:
        sent = books.accepted_by_channel(connection, run.run_id)
    path = archive.report_folder(settings, run.run_key) / "evaluation.html"
    audience = proof.steps[0].contacts if proof.steps else 0
    sys.stdout.write(
        f"run {run.run_key} audience={audience} email_accepted={sent[Channel.EMAIL]} sms_accepted={sent[Channel.SMS]} "
        f"unknown={proof.count(MessageState.UNKNOWN)} difference={proof.difference} report={path}\n"
    )
    sys.stdout.flush()


def _stay(supervisor: Supervisor) -> None:
    try:
        while True:
            for child in supervisor.children:
                child.require_alive()
            time.sleep(1)
    except KeyboardInterrupt:
        return
