"""An installation for daily use on one machine: its servers and workers, started together and kept up.

Sends nothing itself. A child that ends is started again, whatever ended it; all end with the command.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from commplan.errors import InputError
from commplan.installation import (
    ROOT,
    answers,
    command,
    deploy,
    prefect_settings,
    run_once,
    start_prefect,
    start_worker,
    told,
)
from commplan.sandbox.start import ACCOUNT_SID, API_KEY, AUTH_TOKEN, INBOUND_DOMAIN
from commplan.settings import Settings, kind_of
from commplan.store import open_store
from commplan.supervisor import Supervisor, listen, python

#: Seconds between two looks of a worker for work.
_POLL = 5
_RECEIVER_PORT = 8025
#: Customers of the sample CRM that a rehearsal gets if its settings name none.
_CUSTOMERS = 200


def run_up(settings: Settings, *, port: int) -> None:
    """Start the Prefect server on `port`, the receiver, workers, and the sandbox if that is what the settings name.

    Deploys ``prefect.yaml``, brings back runs whose process is gone, and then keeps everything up until Ctrl-C or
    SIGTERM. ChildError, naming the log to read, when something does not come up at first; InputError when a port is
    taken.
    """
    home = settings.home.absolute()
    open_store(settings).dispose()
    console = Console(highlight=False)
    prefect = f"http://127.0.0.1:{port}"
    environment = _environment(os.environ) | {"COMMPLAN_HOME": str(home)} | prefect_settings(home, prefect, poll=_POLL)
    with Supervisor(home / "logs") as supervisor:
        try:
            _start(supervisor, settings, environment, home=home, port=port, console=console)
            console.print(f"Prefect UI {prefect}; logs in {supervisor.logs}. Ctrl-C ends everything.", soft_wrap=True)
            while True:
                for name in supervisor.tend():
                    console.print(f"{time.strftime('%H:%M:%S')} {name} had ended; started again")
                time.sleep(1)
        except KeyboardInterrupt:
            console.print("ending")


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment, which may name the plans' databases, without their settings of Prefect."""
    kept = {name: value for name, value in environ.items() if not name.startswith("PREFECT_")}
    local = ",".join(filter(None, (environ.get("NO_PROXY"), "127.0.0.1,localhost")))
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "NO_PROXY": local, "no_proxy": local}


def _start(
    supervisor: Supervisor,
    settings: Settings,
    environment: dict[str, str],
    *,
    home: Path,
    port: int,
    console: Console,
) -> None:
    os.close(_listen(port, "the Prefect server", "choose another with --port"))
    # Sockets stay open here, so that whoever is started again finds the requests that came in the meantime.
    receiver_port = _receiver_port(settings)
    inbound = _listen(receiver_port, "the receiver", "see what else uses it, or change COMMPLAN_PUBLIC_URL")
    addresses = {"prefect": f"http://127.0.0.1:{port}", "receiver": f"http://127.0.0.1:{receiver_port}"}
    with told(console, "Prefect server"):
        start_prefect(supervisor, environment, port, stays=True)
    if settings.provider_kind == "sandbox":
        with told(console, "SANDBOX of SendGrid and Twilio"):
            addresses["sandbox"] = _start_sandbox(supervisor, settings, environment, home=home)
    with told(console, "prefect.yaml", "deployed"):
        ids = deploy(environment, log=supervisor.logs / "deployment.log")
    with told(console, "receiver and workers"):
        receiver = supervisor.start(
            "receiver",
            command("serve", fd=inbound),
            environment=environment,
            cwd=ROOT,
            fds=[inbound],
            stays=True,
        )
        for pool in ("campaigns", "upkeep"):
            start_worker(supervisor, environment, pool, named=f"worker-{pool}", stays=True)
        if settings.machines > 1:
            start_worker(supervisor, environment, "senders", named="worker-senders", limit=1, stays=True)
        supervisor.wait_for(receiver, lambda: answers(f"{addresses['receiver']}/healthz"), seconds=60)
    log = supervisor.logs / "upkeep.log"
    if run_once(python("-m", "flows.upkeep"), environment, log=log) is None:
        console.print(f"silent runs could not be looked after; upkeep tries again in a minute. See {log}")
    written = {**addresses, "deployments": ids}
    (home / "addresses.json").write_text(json.dumps(written), encoding="utf-8")


def _start_sandbox(supervisor: Supervisor, settings: Settings, environment: dict[str, str], *, home: Path) -> str:
    where = urlsplit(settings.email.base_url)
    outbound = _listen(where.port or 80, "the sandbox", "see what else uses it, or change COMMPLAN_EMAIL__BASE_URL")
    crm = {} if "CRM_DATABASE_URL" in environment else {"crm": home / "crm.sqlite", "contacts": _CUSTOMERS}
    child = supervisor.start(
        "sandbox",
        command("sandbox", fd=outbound, key_file=home / "webhook.pem", **crm),
        environment=environment,
        cwd=ROOT,
        fds=[outbound],
        stays=True,
    )
    address = settings.email.base_url
    supervisor.wait_for(child, lambda: answers(f"{address}/sandbox/health"), seconds=60)
    public_key = (home / "webhook.pub").read_text(encoding="ascii").strip()
    for name, value in {
        "COMMPLAN_EMAIL__API_KEY": API_KEY,
        "COMMPLAN_SMS__ACCOUNT_SID": ACCOUNT_SID,
        "COMMPLAN_SMS__AUTH_TOKEN": AUTH_TOKEN,
        "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([public_key]),
        "COMMPLAN_EMAIL__INBOUND_DOMAIN": INBOUND_DOMAIN,
        "COMMPLAN_EMAIL__INBOUND_KEYS": json.dumps([public_key]),
        "CRM_DATABASE_URL": f"sqlite:///{home / 'crm.sqlite'}",
    }.items():
        environment.setdefault(name, value)
    return address


def _receiver_port(settings: Settings) -> int:
    """Return where the receiver listens: as the public address says if that is here, else where a proxy expects it."""
    public = urlsplit(settings.public_url)
    is_here = kind_of(settings.public_url) == "sandbox"
    return public.port if is_here and public.port is not None else _RECEIVER_PORT


def _listen(port: int, what: str, remedy: str) -> int:
    try:
        return listen(port).detach()
    except (OSError, OverflowError):
        raise InputError.one(f"127.0.0.1:{port}", f"{what} cannot listen there", remedy) from None
