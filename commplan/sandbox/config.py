"""What one sandbox is set up with: its credentials, its clock, whom it calls, and its switches.

Never read from the environment: whoever starts a sandbox hands it over.
"""

from __future__ import annotations

import time
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from commplan.clock import Clock
from commplan.sandbox.switches import Switches


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The set-up of one sandbox.

    Webhooks go to ``{public_url}/hooks/…``. Simulated people follow links below `public_url`, below `base_urls`
    and to the sandbox's own site, and no others.
    """

    api_key: str = field(repr=False)
    account_sid: str
    auth_token: str = field(repr=False)
    #: Private key of the event webhook, PEM; see `generate_key`.
    webhook_private_key: str = field(repr=False)
    #: Where `commplan serve` is reached.
    public_url: str
    base_urls: tuple[str, ...] = ()
    #: The host name whose mail Inbound Parse says it posts to `public_url`.
    inbound_domain: str | None = None
    clock: Clock = field(default_factory=Clock.real)
    #: Decides who does what; the same seed gives the same people.
    seed: int = 1
    #: The sample CRM that the sample company's site writes to; None: the site accepts set-ups and records nothing.
    crm: Path | None = None
    #: Sender addresses and numbers that are verified or owned; empty: any.
    verified_senders: tuple[str, ...] = ()
    owned_numbers: tuple[str, ...] = ()
    switches: Switches = field(default_factory=Switches)

    def now(self) -> float:
        """Return the providers' present time: plan time plus the clock offset, in seconds since the epoch."""
        return self.clock.now().timestamp() + self.switches.clock_offset

    @property
    def late_seconds(self) -> float:
        """Machine seconds from a client's giving up to what is accepted then."""
        return self.switches.late_seconds / self.clock.factor

    def stamp(self) -> str:
        """Return the machine time that webhooks are signed with, in whole seconds."""
        return str(int(time.time() + self.switches.clock_offset))

    def may_follow(self, url: str) -> bool:
        """Tell whether a simulated person may open a link."""
        return any(url.startswith(base.rstrip("/") + "/") for base in (self.public_url, *self.base_urls))


def generate_key() -> tuple[str, str]:
    """Return a new key pair of the event webhook: the private key as PEM, the public key as base64 DER (SPKI)."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode("ascii"), b64encode(public).decode("ascii")
