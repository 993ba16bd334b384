"""One row of a source as a person: id, addresses, consent, language and zone, each in its one normal form.

Pure, apart from caches of what many rows share; never raises for a bad value, which becomes None and a reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from commplan.audience.address import read_email, read_phone
from commplan.audience.source import as_utc
from commplan.errors import Finding, InputError, quoted
from commplan.ids import AddressKey, Keyring
from commplan.plan import ConsentRecord, ContactColumns, nearest, write_duration
from commplan.terms import Reason

#: Longest id of a person.
MAX_ID = 200
#: What consent columns say; anything else is unknown.
_YES = frozenset({"1", "true", "t", "yes", "y", "on", "是"})
_NO = frozenset({"0", "false", "f", "no", "n", "off", "否"})
_LOCALE = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|[0-9]{3}))?(?:\.[A-Za-z0-9-]+)?")


_UTC = ZoneInfo("UTC")

_NESTED = frozenset({list, tuple, dict})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person as the snapshot keeps them. `unread` names what could not be understood and was left empty."""

    contact_id: str
    email: str | None = field(repr=False)
    email_key: AddressKey | None
    email_reason: Reason | None
    phone: str | None = field(repr=False)
    phone_key: AddressKey | None
    phone_reason: Reason | None
    country: str | None
    locale: str | None
    zone: str | None
    email_consent: bool | None
    sms_consent: bool | None
    unread: tuple[str, ...]


def find_columns(columns: Sequence[str], mapping: ContactColumns, *, place: str) -> Mapping[str, int | None]:
    """Return where each column that `audience.contact` names is, None for what it does not name.

    InputError, with every finding, if the query does not return them all.
    """
    named = {
        "id": mapping.id,
        "email": mapping.email,
        "phone": mapping.phone,
        "locale": mapping.locale,
        "timezone": mapping.timezone,
        **_record_columns("consent.email", mapping.consent.email),
        **_record_columns("consent.sms", mapping.consent.sms),
    }
    findings = [
        no_column(column, columns, place=place, field=f"audience.contact.{field}")
        for field, column in named.items()
        if column is not None and column not in columns
    ]
    if findings:
        raise InputError(findings)
    return {field: None if column is None else columns.index(column) for field, column in named.items()}


def _record_columns(field: str, record: ConsentRecord | None) -> Mapping[str, str]:
    """Return the columns of one channel's consent by their fields, as the plan spells them."""
    if record is None:
        return {}
    if not record.evidence:
        return {field: record.given}
    return {f"{field}.given": record.given, **{f"{field}.{name}": at for name, at in record.evidence.items()}}


def no_column(column: str, columns: Sequence[str], *, place: str, field: str) -> Finding:
    """Return what to say when a query does not return a column that the plan names."""
    meant = nearest(column, columns)
    return Finding(
        place=place,
        field=field,
        rule=f"the query returns no column {quoted(column)}",
        remedy=f"did you mean {meant}?" if meant is not None else f"it returns {', '.join(columns)}",
    )


class Reader:
    """Reads the rows of one source. InputError, with every finding, if the plan names columns it does not return."""

    def __init__(
        self,
        columns: Sequence[str],
        mapping: ContactColumns,
        *,
        default_region: str,
        keyring: Keyring,
        place: str,
    ) -> None:
        self.columns = tuple(columns)
        self._place = place
        self._region = default_region
        self._keyring = keyring
        at = find_columns(self.columns, mapping, place=place)
        self._id = at["id"]
        self._email = at["email"]
        self._phone = at["phone"]
        self._locale = at["locale"]
        self._zone = at["timezone"]
        self._email_consent = _given(at, "consent.email")
        self._sms_consent = _given(at, "consent.sms")
        self._consent_times = [(field, at[field]) for field in ("consent.email.at", "consent.sms.at") if field in at]

    def contact_id(self, row: Sequence[Any]) -> str | None:
        """Return a row's id as text, None when there is none that can be used."""
        return None if self._id is None else read_id(row[self._id])

    def read(self, row: Sequence[Any], contact_id: str) -> Person:
        """Return the person of a row whose id was read already."""
        unread: list[str] = []
        email, email_reason = _reach(row, self._email, read_email, Reason.NO_EMAIL, Reason.INVALID_EMAIL)
        found, phone_reason = _reach(
            row, self._phone, lambda text: read_phone(text, self._region), Reason.NO_PHONE, Reason.INVALID_PHONE
        )
        phone, country = found if found is not None else (None, None)
        for name, column in self._consent_times:
            _known(row, column, read_moment, name, unread)
        key = self._keyring.address_key
        return Person(
            contact_id=contact_id,
            email=email,
            email_key=None if email is None else key("email", email.casefold()),
            email_reason=email_reason,
            phone=phone,
            phone_key=None if phone is None else key("sms", phone),
            phone_reason=phone_reason,
            country=country,
            locale=_known(row, self._locale, read_locale, "locale", unread),
            zone=_known(row, self._zone, read_zone, "timezone", unread),
            email_consent=_known(row, self._email_consent[1], read_consent, self._email_consent[0], unread),
            sms_consent=_known(row, self._sms_consent[1], read_consent, self._sms_consent[0], unread),
            unread=tuple(unread),
        )

    def as_json(self, row: Sequence[Any]) -> str:
        """Return the row's columns as a JSON object; InputError names a column whose values JSON has no form for."""
        values = dict(zip(self.columns, row, strict=False))
        # What holds other values may hold a float that is no number, which orjson would take for nothing.
        if _NESTED.isdisjoint(map(type, row)):
            with suppress(TypeError):
                return orjson.dumps(values, default=_as_json).decode()
        try:
            return _encode(values)
        except (TypeError, ValueError):
            plain = {name: self._plain(name, value) for name, value in values.items()}
            return _encode(plain)

    def _plain(self, name: str, value: object) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        try:
            _encode(value)
        except (TypeError, ValueError):
            raise InputError.one(
                self._place,
                f"column {name!r} holds values that cannot stand in a text ({type(value).__name__})",
                "leave it out of the query, or cast it to text there",
                "audience.source.sql",
            ) from None
        return value


def _given(at: Mapping[str, int | None], field: str) -> tuple[str, int | None]:
    """Return the field of a consent as the plan spells it, and where its column is."""
    spelt = field if f"{field}.given" not in at else f"{field}.given"
    return spelt, at.get(spelt)


def _reach(
    row: Sequence[Any], at: int | None, read: Callable[[str], _T | None], missing: Reason, invalid: Reason
) -> tuple[_T | None, Reason | None]:
    """Return what a column says of one channel, else why it says nothing."""
    value = None if at is None else row[at]
    text = "" if value is None else str(value).strip()
    if not text:
        return None, missing
    found = read(text)
    return found, (invalid if found is None else None)


def _known(
    row: Sequence[Any], at: int | None, read: Callable[[Any], _T | None], name: str, unread: list[str]
) -> _T | None:
    """Return what a column says, None when it is empty or, noted in `unread`, not understood."""
    value = None if at is None else row[at]
    if value is None or value == "":
        return None
    found = read(value)
    if found is None:
        unread.append(name)
    return found


def _as_json(value: object) -> object:
    """Return the JSON form of what databases return besides text, numbers and nothing."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, timedelta):
        return write_duration(value)
    raise TypeError(type(value).__name__)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_json).encode


def read_id(value: object) -> str | None:
    """Return a person's id as text, or None if it is empty, not printable or longer than `MAX_ID` characters."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None or isinstance(value, (bytes, bool)) else str(value).strip()
    return text if 0 < len(text) <= MAX_ID and text.isprintable() else None


@lru_cache(maxsize=4_096)
def read_locale(text: object) -> str | None:
    """Return a language tag in its usual spelling (``zh-CN``, ``zh-Hans-CN``, ``en``), or None."""
    match = _LOCALE.fullmatch(str(text).strip())
    if not match:
        return None
    language, script, region = match.groups()
    parts = (language.lower(), script and script.title(), region and region.upper())
    return "-".join(part for part in parts if part)


@lru_cache(maxsize=4_096)
def read_zone(text: object) -> str | None:
    """Return the name of an IANA time zone, or None."""
    try:
        return ZoneInfo(str(text).strip()).key
    except (KeyError, ValueError, OSError):
        return None


def read_consent(value: object) -> bool | None:
    """Return what a consent column says: a yes word or the date it was given is True, a no word False, else None."""
    if isinstance(value, (datetime, date)):
        return True
    word = str(value).strip().casefold()
    if word in _YES:
        return True
    if word in _NO:
        return False
    return True if _is_date(word) else None


def read_moment(value: object, zone: ZoneInfo = _UTC) -> datetime | None:
    """Return a time or a day (its midnight) in `zone`, where it also is if it names no zone; None for what is none."""
    try:
        return as_utc(value, zone).astimezone(zone)
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=4_096)
def _is_date(text: str) -> bool:
    try:
        return bool(datetime.fromisoformat(text)) and "-" in text
    except ValueError:
        return False
