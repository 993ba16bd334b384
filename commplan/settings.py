"""Settings: read once, at the door, from the environment (prefix ``COMMPLAN_``) and passed down.

Nothing below the door reads the environment, and nothing is read at import.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from commplan.clock import Clock
from commplan.errors import Finding, InputError
from commplan.ids import Keyring

#: Whether providers are the emulator or the real thing; a store is born as one of them.
ProviderKind = Literal["sandbox", "live"]

_PROJECT = Path(__file__).resolve().parent.parent
_PREFIX = "COMMPLAN_"
_SANDBOX = "http://127.0.0.1:8026"


def kind_of(base_url: str) -> ProviderKind:
    """Tell a provider by its address: loopback is the sandbox, anything else is real."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost":
        return "sandbox"
    try:
        return "sandbox" if ip_address(host).is_loopback else "live"
    except ValueError:
        return "live"


def _without_slash(url: str) -> str:
    return url.rstrip("/")


#: An address that paths are appended to.
Base = Annotated[str, AfterValidator(_without_slash)]


def _network(text: str) -> str:
    return str(ip_network(text))


#: A network, or one address, as in 10.0.0.0/8.
Net = Annotated[str, AfterValidator(_network)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EmailSettings(_Group):
    """The email provider (SendGrid v3)."""

    base_url: str = Field(_SANDBOX, description="Where the SendGrid API answers")
    api_key: SecretStr | None = Field(None, description="SendGrid API key; needed before anything is sent")
    from_address: str = Field("hello@sender.example.com", description="Sender address, verified at the provider")
    from_name: str = Field("commplan", description="Sender name")
    unsubscribe_address: str | None = Field(
        None, description="Mailbox that also takes opt-outs, offered to mail programs in List-Unsubscribe"
    )
    groups: Mapping[str, int] = Field(
        {},
        description="SendGrid's unsubscribe groups that our opt-outs are put into, as JSON: its id for each topic, for "
        "`marketing`, or for `any` other",
    )
    webhook_keys: tuple[str, ...] = Field(
        (), description="Public keys of the event webhook, base64 DER; several during a rotation"
    )
    inbound_domain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$",
        description="Domain that SendGrid's Inbound Parse takes mail for: every email gets an address of its own there "
        "for answers, and one for opt-outs",
    )
    inbound_keys: tuple[str, ...] = Field(
        (),
        description="Public keys of Inbound Parse's security policy, base64 DER; needed with the domain, several "
        "during a rotation",
    )
    batch: int = Field(500, ge=1, le=1000, description="Recipients per request")
    batching: Literal["substitutions", "off"] = Field(
        "substitutions",
        description="How recipients share a request: by `substitutions`, live only once they are proven, or `off`: "
        "a request each",
    )
    rate: float | None = Field(None, gt=0, description="Most emails a second, over all workers; default: no limit")
    timeout: float = Field(20.0, gt=0, le=25, description="Seconds to wait for an answer")


class SmsSettings(_Group):
    """The SMS provider (Twilio)."""

    base_url: str = Field(_SANDBOX, description="Where the Twilio API answers")
    account_sid: str | None = Field(None, description="Twilio account; needed before anything is sent")
    auth_token: SecretStr | None = Field(None, description="Twilio auth token; also verifies its webhooks")
    earlier_auth_tokens: tuple[SecretStr, ...] = Field(
        (), description="Auth tokens used before; during a rotation, webhooks signed with them are still taken"
    )
    from_number: str = Field("+15005550006", description="Sender number, E.164")
    connections: int = Field(32, ge=1, le=100, description="Requests in flight at once")
    rate: float | None = Field(None, gt=0, description="Most texts a second, over all workers; default: no limit")
    timeout: float = Field(20.0, gt=0, le=25, description="Seconds to wait for an answer")


class ClockSettings(_Group):
    """Plan time for rehearsals: at machine second `anchor` it is `origin`, and it runs `factor` times as fast."""

    origin: datetime | None = Field(None, description="Plan time at the anchor; only the demo and tests set it")
    anchor: float = Field(0.0, description="Machine seconds since the epoch")
    factor: float = Field(1.0, gt=0, description="Plan seconds per machine second")


class Settings(BaseSettings):
    """Everything an installation decides."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(Path(".commplan"), description="Folder of the store, the secret, reports and rejects files")
    store_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the store; default: SQLite in the home folder"
    )
    templates: Path = Field(_PROJECT / "templates", description="Folder of the scenarios and of `shared`")
    prices: Path = Field(
        _PROJECT / "templates" / "prices.yaml", description="Dated price file that costs are computed from"
    )
    public_url: Base = Field(
        "http://127.0.0.1:8025", description="Where recipients and providers reach `commplan serve`"
    )
    earlier_public_urls: tuple[Base, ...] = Field(
        (), description="Public addresses used before, where providers may still post about runs that are under way"
    )
    trusted_proxies: tuple[Net, ...] = Field(
        (),
        description="Networks of the proxies in front of `commplan serve`, other than on this machine, whose "
        "X-Forwarded-For tells who asks",
    )
    secret_key: SecretStr | None = Field(
        None, description="Secret behind links and address keys; default: a file in the home folder"
    )
    earlier_secret_keys: tuple[SecretStr, ...] = Field(
        (), description="Secrets used before, newest first; their links stay valid"
    )
    live: str | None = Field(None, description="Name of the environment that may send for real")
    allow_list: tuple[str, ...] = Field((), description="Addresses that a live store may write to without `live`")
    max_recipients: int = Field(1_000, ge=1, description="Most recipients of one run, and of one day")
    max_leaving: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest share of a run's people that may leave its audience from one look to the next",
    )
    processes: int = Field(2, ge=1, le=64, description="Processes on this machine that render, or send a step, at once")
    machines: int = Field(
        1,
        ge=1,
        le=64,
        description="Machines that send a large step at once: more than one over PostgreSQL only, with workers of the "
        "pool `senders` on the others",
    )
    raw_days: int = Field(
        7,
        ge=1,
        le=90,
        description="Days for which upkeep keeps providers' posts as they came, from when they were applied, and "
        "heartbeats, unless a run that is not over rests on them",
    )
    metrics_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="Bearer token that reads the figures of `commplan serve` at /metrics; unset: nobody",
    )
    feedback_hours: float = Field(
        72.0, gt=0, le=720, description="Hours for which a link to a run's feedback can be read by whoever has it"
    )
    default_region: str = Field(
        "US", min_length=2, max_length=2, description="Country of phone numbers written without one"
    )
    email: EmailSettings = Field(default_factory=EmailSettings, description="Email provider")
    sms: SmsSettings = Field(default_factory=SmsSettings, description="SMS provider")
    clock: ClockSettings = Field(default_factory=ClockSettings, description="Plan time; leave alone outside rehearsals")

    @property
    def store_address(self) -> str:
        """The SQLAlchemy URL of the store; may carry a password."""
        if self.store_url is not None:
            return self.store_url.get_secret_value()
        return f"sqlite:///{(self.home / 'store.sqlite').absolute()}"

    @property
    def provider_kind(self) -> ProviderKind:
        """What the providers are; InputError when one is real and the other is not."""
        kinds = {kind_of(self.email.base_url), kind_of(self.sms.base_url)}
        if len(kinds) > 1:
            raise InputError.one(
                "COMMPLAN_EMAIL__BASE_URL, COMMPLAN_SMS__BASE_URL",
                "one provider is real and the other is the sandbox",
                "point both at real providers or both at the sandbox",
            )
        return kinds.pop()

    def make_clock(self) -> Clock:
        """Return the clock that plan time is read from."""
        if self.clock.origin is None:
            return Clock.real()
        return Clock(origin=self.clock.origin, anchor=self.clock.anchor, factor=self.clock.factor)

    def make_keyring(self) -> Keyring:
        """Return the keys derived from the secret; makes the secret's file (mode 0600) the first time."""
        earlier = [key.get_secret_value() for key in self.earlier_secret_keys]
        if self.secret_key is not None:
            return Keyring(self.secret_key.get_secret_value(), earlier)
        path = self.home / "secret"
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32))
        return Keyring(path.read_text(encoding="ascii").strip(), earlier)


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables from which another process reads the same settings; secrets are among them."""
    variables: dict[str, str] = {}

    def add(prefix: str, group: BaseModel) -> None:
        for name in type(group).model_fields:
            value, variable = getattr(group, name), f"{prefix}{name.upper()}"
            if isinstance(value, BaseModel):
                add(f"{variable}__", value)
            elif isinstance(value, tuple):
                variables[variable] = json.dumps([_plain(each) for each in value])
            elif isinstance(value, Mapping):
                variables[variable] = json.dumps(dict(value))
            elif value is not None:
                variables[variable] = _plain(value)

    add("COMMPLAN_", settings)
    return variables


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _misspelt(environ: Iterable[str]) -> list[Finding]:
    """Return a finding for each variable whose name is close to a setting's and is none; others are not ours."""
    known = {
        f"{name}__{inner}".upper() if inner else name.upper()
        for name, field in Settings.model_fields.items()
        for inner in ("", *getattr(field.annotation, "model_fields", ()))
    }
    given = {name: name.upper().removeprefix(_PREFIX) for name in environ if name.upper().startswith(_PREFIX)}
    return [
        Finding(place=name, rule="there is no such setting", remedy=f"did you mean {_PREFIX}{meant[0]}?")
        for name, word in sorted(given.items())
        if word not in known and (meant := get_close_matches(word, known, n=1, cutoff=0.7))
    ]


def load_settings() -> Settings:
    """Return the settings of this process; InputError names each variable that is wrong, or misspelt, and its rule."""
    if misspelt := _misspelt(os.environ):
        raise InputError(misspelt)
    try:
        settings = Settings()
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = f"COMMPLAN_{field[1].upper()}" if field else "COMMPLAN_…"
        raise InputError.one(
            name, "a list or group in it is not JSON", 'write a list as ["a", "b"]; see the table in README.md'
        ) from None
    except ValidationError as error:
        raise InputError(
            [
                Finding(
                    place="COMMPLAN_" + "__".join(str(part) for part in problem["loc"]).upper(),
                    rule=problem["msg"],
                    remedy="see the table of settings in README.md",
                )
                for problem in error.errors(include_input=False, include_url=False)
            ]
        ) from None
    if settings.machines > 1 and not settings.store_address.startswith("postgresql"):
        raise InputError.one(
            "COMMPLAN_MACHINES",
            "several machines share a store on PostgreSQL only",
            "set COMMPLAN_STORE_URL to postgresql+psycopg://…, or leave COMMPLAN_MACHINES at 1",
        )
    if settings.email.inbound_domain is not None and not settings.email.inbound_keys:
        raise InputError.one(
            "COMMPLAN_EMAIL__INBOUND_KEYS",
            "answers would come to COMMPLAN_EMAIL__INBOUND_DOMAIN, and nothing that is not signed is believed",
            "create a security policy with a signature for Inbound Parse, and list its public key",
        )
    return settings
