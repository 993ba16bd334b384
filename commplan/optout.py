"""Opting people out and in again by hand or from a file, and the suppression list as a file.

Shows an address to whoever asks for the list at a terminal, and to nobody else: nothing here is logged or raised.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, insert

from commplan.audience.address import find_key
from commplan.consent import BLOCKS, EVERY_CHANNEL, EVERYWHERE, OF_TOPIC, SCOPE_ALL, WISHES, Contact
from commplan.contacts.sheet import open_sheet
from commplan.errors import Finding, InputError
from commplan.holder import addresses_of, people_at
from commplan.ids import AddressKey
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import audit
from commplan.suppression import Entry, entries, entries_about, restore, strike, suppress
from commplan.terms import Channel, Reason

#: What can only be true of addresses of one channel.
ONLY_ON: Mapping[Reason, Channel] = {
    Reason.HARD_BOUNCE: Channel.EMAIL,
    Reason.SOFT_BOUNCES: Channel.EMAIL,
    Reason.SPAM_REPORT: Channel.EMAIL,
    Reason.STOP: Channel.SMS,
    Reason.INVALID_NUMBER: Channel.SMS,
}
#: What nobody at a terminal lifts, and why.
STAYS: Mapping[Reason, str] = {
    Reason.STOP: "only a START from the number itself ends it; until then the provider refuses every text",
    Reason.SPAM_REPORT: "who reports us as spam is written to again only at another address that they give us",
    Reason.ERASED: "who had their data erased has to come to us anew",
}
#: What a person asked for, and so is lifted only with a note of how they took it back.
_ASKED = frozenset({Reason.UNSUBSCRIBED, Reason.DECLINED, Reason.PAUSED})
_NOTE_NEEDED = "the person asked for it; say with --note how they took it back"
#: Lines of an export that are looked up at once.
PAGE = 5_000
#: The columns of a list, in the order they are written. `address` is only there for people to read.
COLUMNS = (
    *("address", "key", "channel", "people", "contact_id"),
    *("reason", "scope", "source", "at", "until", "lifted_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifted:
    """What became of the entries in force about an address: those lifted, and those left, each with the reason why."""

    lifted: tuple[Entry, ...]
    left: tuple[tuple[Entry, str], ...]


def told(line: Entry) -> str:
    """Return an entry in words that name nobody."""
    whose = "the address" if line.contact is None else "a person who has it"
    where = "every channel" if line.channel == EVERY_CHANNEL else line.channel
    return f"{where}, {whose}: {line.reason}" + (f", scope {line.scope}" if line.scope != SCOPE_ALL else "")


def suppress_address(
    store: Store,
    settings: Settings,
    address: str,
    *,
    reason: str = Reason.NEVER_CONTACT,
    scope: str = SCOPE_ALL,
    until: datetime | None = None,
    by: str,
    note: str | None = None,
) -> bool:
    """Put an address on the suppression list, and everybody who has had it in a run; False if it was there already.

    Own transaction. InputError names what the list cannot hold.
    """
    channel, key = _find(store, settings, address)
    wanted = _reason(reason, scope, until, channel, "--reason")
    with store.write() as connection:
        people: list[Contact | None] = [*people_at(connection, [key]).get(key, ())] if wanted in WISHES else []
        changed = [
            suppress(
                connection,
                channel=channel,
                address_key=key,
                contact=contact,
                scope=scope,
                reason=wanted,
                source=f"{by} at a terminal",
                at=store.clock.now(),
                until=until,
                said=note,
            )
            for contact in people or [None]
        ]
        _note(store, connection, "suppress", by=by, lines=sum(changed))
    return any(changed)


def unsuppress_address(store: Store, settings: Settings, address: str, *, by: str, note: str | None = None) -> Lifted:
    """Lift what a person may lift about an address and everybody who has had it in a run. Own transaction.

    What the person asked for (an opt-out, a pause) is lifted only with a note of how they took it back; what is in
    `STAYS` never. InputError when it is no address.
    """
    _, key = _find(store, settings, address)
    now = store.clock.now()
    lifted: list[Entry] = []
    left: list[tuple[Entry, str]] = []
    with store.write() as connection:
        people = people_at(connection, [key]).get(key, ())
        for line in entries_about(connection, address_keys=[key], contacts=people):
            if line.lifted_at is not None or (line.until is not None and line.until <= now):
                continue
            if (why := STAYS.get(line.reason)) is not None:
                left.append((line, why))
            elif line.reason in _ASKED and note is None:
                left.append((line, _NOTE_NEEDED))
            else:
                # An entry that is dated ahead of now is lifted too.
                at = max(now, line.at + timedelta(microseconds=1))
                strike(connection, line, source=f"{by} at a terminal", at=at, said=note)
                lifted.append(line)
        _note(store, connection, "unsuppress", by=by, lines=len(lifted))
    return Lifted(lifted=tuple(lifted), left=tuple(left))


def import_list(store: Store, settings: Settings, file: Path, *, by: str) -> tuple[int, int]:
    """Take a list into the store; return (lines, those that changed something).

    A line is about an `address`, or about a `key` with its `channel` as `export_list` writes them; `reason` is
    never_contact, `scope` all and `at` now where they are not said. InputError with every line that cannot be taken,
    and then none is. The file is read twice and never held; what it says is written in one transaction of its own. On
    SQLite nobody else can write meanwhile, and gives up after half a minute: some thousand lines are for a pause in
    sending.
    """
    now = store.clock.now()
    findings: list[Finding] = []
    for read in _lines(store, settings, file, by=by, now=now):
        if isinstance(read, InputError):
            findings.extend(read.findings)
    if findings:
        raise InputError(findings)
    count = changed = 0
    with store.write() as connection:
        for read in _lines(store, settings, file, by=by, now=now):
            if isinstance(read, InputError):
                raise read
            count, changed = count + 1, changed + restore(connection, read)
        _note(store, connection, "suppressions import", by=by, lines=changed)
    return count, changed


def _lines(store: Store, settings: Settings, file: Path, *, by: str, now: datetime) -> Iterator[Entry | InputError]:
    """Yield each line of a list as an entry, or as what is wrong with it; InputError if the file is none."""
    with open_sheet(file) as sheet:
        header = [name.strip().lower() for name in sheet.header]
        if unknown := [name for name in header if name not in COLUMNS]:
            raise InputError.one(
                f"{file}:1", f"{len(unknown)} columns are not known here", f"write only {', '.join(COLUMNS)}"
            )
        if "address" not in header and not {"key", "channel"} <= set(header):
            raise InputError.one(
                f"{file}:1", "it does not say which addresses", "add a column address, or key and channel"
            )
        for number, cells in sheet.rows:
            row = dict(zip(header, cells, strict=False))
            try:
                yield _line(store, settings, row, f"{file}:{number}", source=f"list of {by}", now=now)
            except InputError as error:
                yield error


def _line(store: Store, settings: Settings, row: Mapping[str, str], place: str, *, source: str, now: datetime) -> Entry:
    contact = None
    if row.get("people") or row.get("contact_id"):
        if not (row.get("people") and row.get("contact_id")):
            raise InputError.one(place, "people and contact_id name a person only together", "write both, or neither")
        contact = Contact(people=row["people"], contact_id=row["contact_id"])
    channel, key = _named(store, settings, row, place, of_person=contact is not None)
    until, scope = _moment(row, "until", place), row.get("scope") or SCOPE_ALL
    reason = _reason(row.get("reason") or Reason.NEVER_CONTACT, scope, until, channel, place)
    if contact is not None and reason not in WISHES:
        raise InputError.one(
            place, f"{reason} is about an address and not about a person", "leave people and contact_id out"
        )
    if (channel == EVERY_CHANNEL) is not (contact is not None and reason in EVERYWHERE):
        raise InputError.one(
            place,
            f"{reason} of {'an address' if contact is None else 'a person'} does not hold on channel {channel}",
            f"write channel {EVERY_CHANNEL} for what a person unsubscribed from or paused, email or sms otherwise",
        )
    return Entry(
        channel=channel,
        address_key=key,
        contact=contact,
        scope=scope,
        reason=reason,
        source=row.get("source") or source,
        at=_moment(row, "at", place) or now,
        until=until,
        lifted_at=_moment(row, "lifted_at", place),
    )


def _named(
    store: Store, settings: Settings, row: Mapping[str, str], place: str, *, of_person: bool
) -> tuple[str, AddressKey]:
    if key := row.get("key"):
        channel = row.get("channel") or ""
        if channel not in (*Channel, EVERY_CHANNEL) or len(key) != 32 or not set(key) <= set("0123456789abcdef"):
            raise InputError.one(
                place, "a key is 32 hexadecimal digits and has a channel", "take both from commplan suppressions export"
            )
        return channel, AddressKey(key)
    found = find_key(store.keyring, row.get("address") or "", settings.default_region)
    if found is None:
        raise InputError.one(
            place, "it is neither an email address nor a phone number", "write a number as +47…, or leave the line out"
        )
    if (told := row.get("channel")) and told != found[0] and not (of_person and told == EVERY_CHANNEL):
        raise InputError.one(place, "the address is not one of that channel", f"write {found[0]}, or leave it out")
    return told or found[0], found[1]


def _reason(text: str, scope: str, until: datetime | None, channel: str, place: str) -> Reason:
    if text not in BLOCKS:
        raise InputError.one(place, "there is no such reason", f"write one of {', '.join(BLOCKS)}")
    reason = Reason(text)
    if ONLY_ON.get(reason, channel) != channel:
        raise InputError.one(
            place, f"{reason} is said of {ONLY_ON[reason]} only", f"write {Reason.NEVER_CONTACT}, or another address"
        )
    if reason not in OF_TOPIC and scope != SCOPE_ALL:
        raise InputError.one(place, f"{reason} has no scope but {SCOPE_ALL}", "leave the scope out")
    if reason is Reason.PAUSED and until is None:
        raise InputError.one(place, "a pause has an end", "say until when, such as 2027-01-31T00:00Z")
    if reason is not Reason.PAUSED and until is not None:
        raise InputError.one(place, f"{reason} has no end", f"leave it out, or write {Reason.PAUSED}")
    return reason


def _moment(row: Mapping[str, str], name: str, place: str) -> datetime | None:
    return read_moment(row[name], f"{place}: {name}") if row.get(name) else None


def read_moment(text: str, place: str) -> datetime:
    """Return a time with its zone; InputError names `place`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InputError.one(place, "it is no time with a zone", "write it as 2027-01-31T00:00Z")
    return found


def export_list(store: Store, file: Path) -> int:
    """Write the whole list as CSV, lifted entries included, readable by its owner only; return its lines.

    An address is only there where a run's snapshot still has it: the list itself knows none. InputError when the file
    is there already.
    """
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError.one(str(file), "it is there already", "name a file that is not") from None
    except OSError as error:
        raise InputError.one(
            str(file), f"it cannot be written ({type(error).__name__})", "check its folder and rights"
        ) from None
    count = 0
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as out, store.read() as connection:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        lines = entries(connection)
        while page := list(islice(lines, PAGE)):
            known = addresses_of(connection, {line.address_key for line in page})
            for line in page:
                who = ("", "") if line.contact is None else (line.contact.people, line.contact.contact_id)
                times = ("" if at is None else at.isoformat() for at in (line.at, line.until, line.lifted_at))
                head = (known.get(line.address_key, ""), line.address_key, line.channel)
                writer.writerow([*head, *who, line.reason, line.scope, line.source, *times])
            count += len(page)
    return count


def _find(store: Store, settings: Settings, address: str) -> tuple[Channel, AddressKey]:
    found = find_key(store.keyring, address, settings.default_region)
    if found is None:
        raise InputError.one("ADDRESS", "it is neither an email address nor a phone number", "write a number as +47…")
    return found


def _note(store: Store, connection: Connection, what: str, *, by: str, lines: int) -> None:
    detail = json.dumps({"by": by, "lines": lines})
    connection.execute(insert(audit).values(at=store.clock.now(), what=what, detail=detail))
