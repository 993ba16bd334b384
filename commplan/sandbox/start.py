"""Starting a sandbox from an installation's settings: what `commplan sandbox` does.

Never overwrites a key or a CRM that is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from commplan.clock import Clock
from commplan.errors import InputError
from commplan.sandbox import crm, sink
from commplan.sandbox.app import serve
from commplan.sandbox.config import SandboxConfig, generate_key
from commplan.sandbox.switches import Switches
from commplan.settings import Settings

#: Where the settings look for a sandbox when they name no address.
PORT = 8026
#: Domain that answers go to where the settings name none.
INBOUND_DOMAIN = "reply.sender.example.com"
#: Credentials of a sandbox for which the settings name none.
API_KEY = "SG.sandbox"
ACCOUNT_SID = "AC" + "0" * 32
AUTH_TOKEN = "sandbox"  # noqa: S105 (opens nothing but the sandbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asks of a sandbox.

    `contacts`: make the CRM at `crm` with so many customers, if it is not there. `key_file`: private key of the
    event webhook, made if it is not there, with its public key in ``.pub`` beside it. `day`: machine seconds that a day
    of plan time takes, from now on; None: as the settings say.
    """

    crm: Path | None = None
    contacts: int | None = None
    seed: int = 1
    switches: str | None = None
    key_file: Path | None = None
    day: float | None = None


def start_sandbox(
    settings: Settings, wishes: Wishes, *, host: str, port: int | None, bound: socket.socket | None = None
) -> None:
    """Serve a sandbox until it is ended; prints the settings that point an installation at it, where they are not so.

    Without a `port` it is `PORT`, or a free one where that is taken. InputError when the port cannot be had, or the
    CRM asked for is not there.
    """
    if wishes.crm is None and wishes.contacts is not None:
        raise InputError.one("--contacts", "there is no CRM to put them in", "name its file with --crm")
    if wishes.crm is not None and wishes.contacts is None and not wishes.crm.exists():
        raise InputError.one(str(wishes.crm), "there is no such CRM", "say how many customers with --contacts")
    listening = bound if bound is not None else listen(host, port)
    private, public = _keys(wishes.key_file or settings.home / "webhook.pem")
    api_key = settings.email.api_key.get_secret_value() if settings.email.api_key else API_KEY
    token = settings.sms.auth_token.get_secret_value() if settings.sms.auth_token else AUTH_TOKEN
    account = settings.sms.account_sid or ACCOUNT_SID
    here, used = listening.getsockname()[:2]
    address = f"http://{here}:{used}"
    clock = settings.make_clock()
    if wishes.day is not None and clock.is_real:
        started = round(time.time())
        clock = Clock(origin=datetime.fromtimestamp(started, UTC), anchor=started, factor=86_400 / wishes.day)
    if wishes.crm is not None and wishes.contacts is not None and not wishes.crm.exists():
        now = clock.origin if not clock.is_real else clock.now()
        crm.create(wishes.crm, contacts=wishes.contacts, seed=wishes.seed, now=now, site=f"{address}/site")
    config = SandboxConfig(
        api_key=api_key,
        account_sid=account,
        auth_token=token,
        webhook_private_key=private,
        public_url=settings.public_url,
        inbound_domain=settings.email.inbound_domain or INBOUND_DOMAIN,
        clock=clock,
        seed=wishes.seed,
        crm=wishes.crm,
        switches=Switches() if wishes.switches is None else Switches.read(wishes.switches),
    )
    wanted = {
        "COMMPLAN_EMAIL__BASE_URL": address,
        "COMMPLAN_SMS__BASE_URL": address,
        "COMMPLAN_EMAIL__API_KEY": api_key,
        "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([public]),
        "COMMPLAN_EMAIL__INBOUND_DOMAIN": settings.email.inbound_domain or INBOUND_DOMAIN,
        "COMMPLAN_EMAIL__INBOUND_KEYS": json.dumps([public]),
        "COMMPLAN_SMS__ACCOUNT_SID": account,
        "COMMPLAN_SMS__AUTH_TOKEN": token,
    }
    if wishes.crm is not None:
        wanted["CRM_DATABASE_URL"] = f"sqlite:///{wishes.crm.absolute()}"
    if not clock.is_real:
        wanted["COMMPLAN_CLOCK__ORIGIN"] = clock.origin.isoformat()
        wanted["COMMPLAN_CLOCK__ANCHOR"] = f"{clock.anchor:.0f}"
        wanted["COMMPLAN_CLOCK__FACTOR"] = f"{clock.factor:.6g}"
    sys.stdout.write(f"# SANDBOX: SendGrid, Twilio and simulated people at {address}\n")
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            sys.stdout.write(f"export {name}='{value}'\n")
    sys.stdout.flush()
    serve(config, sock=listening)


def start_sink(*, host: str, port: int | None, bound: socket.socket | None = None) -> None:
    """Serve a sink until it is ended: it accepts and counts, and simulates nothing. InputError as `start_sandbox`."""
    sink.serve(bound if bound is not None else listen(host, port))


def listen(host: str, port: int | None, *, default: int = PORT) -> socket.socket:
    """Return a socket that listens at a port; without one at `default`, or where that is taken at a free one.

    InputError when the port asked for cannot be had.
    """
    if port is None:
        with contextlib.suppress(OSError):
            return socket.create_server((host, default))
    try:
        return socket.create_server((host, port or 0))
    except (OSError, OverflowError):
        raise InputError.one(
            host if port is None else f"{host}:{port}",
            "the sandbox cannot listen there",
            "see what else uses the port, or choose another",
        ) from None


def _keys(private_file: Path) -> tuple[str, str]:
    public_file = private_file.with_suffix(".pub")
    if not private_file.exists():
        private_file.parent.mkdir(parents=True, exist_ok=True)
        private, public = generate_key()
        public_file.write_text(public + "\n", encoding="ascii")
        with os.fdopen(os.open(private_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(private)
    return private_file.read_text(encoding="ascii"), public_file.read_text(encoding="ascii").strip()
