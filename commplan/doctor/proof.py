"""Proving that a provider fills placeholders as it should: three awkward mails in one request, and what arrived.

Never writes to an address outside the fence, and keeps none: who got a proof is known by keyed hashes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace

import httpx

from commplan import batching
from commplan.audience.address import read_email
from commplan.batching import Proof
from commplan.channels.base import EmailGateway
from commplan.doctor.arrival import Arrival
from commplan.doctor.comparison import compare
from commplan.doctor.specimen import PEOPLE, Specimen
from commplan.errors import DeliveryError, FenceError, Finding, InputError, RunError, UnknownError
from commplan.fence import reachable
from commplan.ids import AddressKey, Keyring, new_attempt_id
from commplan.ledger.standstill import stop_in_force
from commplan.settings import Settings
from commplan.store import Store
from commplan.terms import Channel

#: What a rehearsal writes to when it is not told: the sandbox delivers to nobody.
NOBODY = "proof@example.com"


def read_addresses(store: Store, settings: Settings, given: Sequence[str]) -> list[str]:
    """Return the three addresses of a proof: those given, or one with ``+commplan1`` to ``+commplan3`` in it.

    InputError where that is not what was given; FenceError for one that may not be written to.
    """
    if not given and store.is_sandbox:
        given = [NOBODY]
    if len(given) not in (1, PEOPLE):
        raise InputError.one(
            "--to",
            f"{len(given)} addresses are given",
            f"give one, which also gets mail with +commplan1 before its @, or {PEOPLE}, one --to for each",
        )
    found = [read_email(address.strip()) for address in given]
    addresses = [address for address in found if address is not None]
    if len(addresses) < len(given):
        raise InputError.one("--to", "this is no address that a provider would take", "write name@example.org")
    if len({address.casefold() for address in addresses}) < len(addresses):
        raise InputError.one("--to", "an address is given twice", "give three different ones, or only one")
    allowed = reachable(store, settings, live=True)
    if allowed is not None and not {_key(store.keyring, address) for address in addresses} <= allowed:
        raise FenceError(
            "only the allow list may be written to from here, and an address after --to is not on it; add it to "
            "COMMPLAN_ALLOW_LIST, or set COMMPLAN_LIVE to the name that the store was created under"
        )
    if len(addresses) == PEOPLE:
        return addresses
    local, _, domain = addresses[0].rpartition("@")
    return [f"{local}+commplan{number}@{domain}" for number in range(1, PEOPLE + 1)]


def send_proof(store: Store, settings: Settings, gateway: EmailGateway, addresses: Sequence[str], *, by: str) -> Proof:
    """Send the specimen to three addresses in one request, written down before it is written.

    RunError while everything is stopped; DeliveryError as `EmailGateway.send`. Of one whose outcome is unknown the
    proof is kept: its mails may arrive.
    """
    with store.read() as connection:
        stopped = stop_in_force(connection)
    if stopped is not None:
        raise RunError(str(stopped))
    proof = Proof(
        attempt_id=new_attempt_id(),
        placeholder=f"cp-{secrets.token_hex(5)}-",
        address_keys=tuple(_key(store.keyring, address) for address in addresses),
        sent_at=store.clock.now(),
        sent_by=by,
    )
    batching.note_sent(store, settings, proof)
    try:
        gateway.send(Specimen(proof.placeholder, proof.attempt_id).batch(addresses))
    except UnknownError:
        raise
    except DeliveryError:
        batching.forget(store, proof)
        raise
    return proof


def seen_by_sandbox(settings: Settings, proof: Proof) -> list[Arrival]:
    """Return the mails of a proof as the sandbox has them; RunError when it does not answer or keeps none."""
    base_url = settings.email.base_url.rstrip("/")
    found = []
    try:
        with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as client:
            answer = client.get("/sandbox/messages").raise_for_status()
            for one in map(json.loads, answer.text.splitlines()):
                if one["args"].get("cp_a") != proof.attempt_id:
                    continue
                seen = client.get(f"/sandbox/messages/{one['provider_id']}").raise_for_status().json()
                found.append(
                    Arrival(
                        source="sandbox",
                        to=frozenset({one["to"].casefold()}),
                        subject=seen["subject"],
                        text=seen["text"],
                        html=seen["html"],
                    )
                )
    except (httpx.HTTPError, ValueError, KeyError):
        raise RunError("the sandbox does not say what it received; start `commplan sandbox` without --sink") from None
    return found


def judge(keyring: Keyring, proof: Proof, arrived: Sequence[Arrival]) -> list[Finding]:
    """Return everything in which what arrived is not what the proof was meant to say; nothing: it is proven."""
    specimen = Specimen(proof.placeholder, proof.attempt_id)
    meant = specimen.meant()
    findings: list[Finding] = []
    missing = dict(enumerate(proof.address_keys))
    for mail in arrived:
        who = {_key(keyring, address) for address in mail.to}
        number = next((number for number, key in enumerate(proof.address_keys) if key in who), None)
        if specimen.mark not in mail.text + mail.html:
            findings.append(
                Finding(
                    place=mail.source,
                    rule=f"it is no mail of the latest proof, sent {proof.sent_at:%Y-%m-%d %H:%M} UTC",
                    remedy="name the three mails of that one",
                )
            )
        elif number is None:
            findings.append(
                Finding(
                    place=mail.source,
                    rule="its To is none of the addresses that the proof was sent to",
                    remedy="save the mail as it was received, not as it was passed on",
                )
            )
        else:
            missing.pop(number, None)
            findings.extend(_of_person(number, compare(meant[number], mail, specimen)))
    findings.extend(
        Finding(place=f"person {number + 1}", rule="no mail to them is there", remedy="name all three mails, or wait")
        for number in missing
    )
    return findings


def _of_person(number: int, findings: Iterator[Finding]) -> Iterator[Finding]:
    for finding in findings:
        yield replace(finding, place=f"person {number + 1}, {finding.place}")


def _key(keyring: Keyring, address: str) -> AddressKey:
    return keyring.address_key(Channel.EMAIL, address.casefold())
