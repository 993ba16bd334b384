"""Addresses as people type them, in the one form that is sent to, compared and hashed.

Never asks the network, and never accepts what email-validator or phonenumbers would refuse: the quick ways here are
for plain cases only, and end in the same verdict and the same form.
"""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberDesc, PhoneNumberFormat

from commplan.ids import AddressKey, Keyring
from commplan.terms import Channel

_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*")
_PLAIN_NUMBER = re.compile(r"\+([1-9]\d{7,14})")
_SEPARATORS = str.maketrans("", "", " -")


def find_key(keyring: Keyring, text: str, default_region: str) -> tuple[Channel, AddressKey] | None:
    """Return the channel and the key of an address or number that somebody wrote, None if it is neither."""
    if email := read_email(text.strip()):
        return Channel.EMAIL, keyring.address_key(Channel.EMAIL, email.casefold())
    if phone := read_phone(text.strip(), default_region):
        return Channel.SMS, keyring.address_key(Channel.SMS, phone[0])
    return None


def read_email(text: str) -> str | None:
    """Return an address with an ASCII domain in lower case, or None if no provider would take it.

    email-validator's verdict and form (no SMTPUTF8, no DNS). Its verdict on a domain is remembered, and a local part
    of letters, digits, ``_+-`` and single dots needs no second one.
    """
    local, at, domain = text.rpartition("@")
    if at and len(local) <= 64 and len(text) <= 200 and _PLAIN_LOCAL.fullmatch(local):
        ascii_domain = _domain(domain)
        return None if ascii_domain is None else f"{local}@{ascii_domain}"
    return validated_email(text)


@lru_cache(maxsize=65_536)
def _domain(domain: str) -> str | None:
    address = validated_email(f"a@{domain}")
    return None if address is None else address.rpartition("@")[2]


def validated_email(text: str) -> str | None:
    """Return what email-validator makes of an address, None if it refuses it."""
    try:
        return validate_email(text, check_deliverability=False, allow_smtputf8=False).ascii_email
    except EmailNotValidError:
        return None


def read_phone(text: str, default_region: str) -> tuple[str, str | None] | None:
    """Return a number in E.164 and its country (None for numbers of no country), or None if it cannot get an SMS.

    Valid by phonenumbers' tables; a number without ``+`` is one of `default_region`; one with an extension is refused.
    """
    match = _PLAIN_NUMBER.fullmatch(text.translate(_SEPARATORS))
    if match:
        digits = match[1]
        for length in (1, 2, 3):
            accepts = _numbering(digits[:length])
            if accepts is not None:
                if accepts.ordinary(digits[length:]):
                    return f"+{digits}", accepts.region
                break
    return validated_phone(text, default_region)


def validated_phone(text: str, default_region: str) -> tuple[str, str | None] | None:
    """Return what phonenumbers makes of a number; as `read_phone`, ten times as slow."""
    try:
        number = phonenumbers.parse(text, default_region)
    except phonenumbers.NumberParseException:
        return None
    region = phonenumbers.region_code_for_number(number)
    if region is None or number.extension or not phonenumbers.is_valid_number_for_region(number, region):
        return None
    country = region if len(region) == 2 else None
    return phonenumbers.format_number(number, PhoneNumberFormat.E164), country


class _Numbering:
    """The ordinary numbers of a calling code: fixed lines and mobiles of its main country, as phonenumbers has them.

    The main country is looked at first when phonenumbers asks which of several a number belongs to, so what matches
    here is decided. Numbers that its parser would change (a national prefix, a leading zero) are left to it.
    """

    def __init__(self, region: str, metadata: PhoneMetadata) -> None:
        self.region = region
        prefix = metadata.national_prefix_for_parsing
        self._changed = re.compile(f"0|{prefix}" if prefix else "0")
        self._general = _pattern(metadata.general_desc)
        self._kinds = [_pattern(desc) for desc in (metadata.mobile, metadata.fixed_line)]

    def ordinary(self, national: str) -> bool:
        """Tell whether a number, without its calling code, is certainly valid and stays as it is."""
        return (
            self._changed.match(national) is None
            and _matches(self._general, national)
            and any(_matches(kind, national) for kind in self._kinds)
        )


_Pattern = tuple[frozenset[int], re.Pattern[str]] | None


def _pattern(desc: PhoneNumberDesc | None) -> _Pattern:
    if desc is None or desc.national_number_pattern is None:
        return None
    return frozenset(desc.possible_length), re.compile(desc.national_number_pattern)


def _matches(pattern: _Pattern, national: str) -> bool:
    if pattern is None:
        return False
    lengths, numbers = pattern
    return (not lengths or len(national) in lengths) and numbers.fullmatch(national) is not None


@lru_cache(maxsize=1_200)
def _numbering(calling_code: str) -> _Numbering | None:
    """Return the numbering of a calling code; None if there is none whose main country is looked at first."""
    regions = COUNTRY_CODE_TO_REGION_CODE.get(int(calling_code))
    metadata = None if regions is None else PhoneMetadata.metadata_for_region(regions[0], None)
    if regions is None or metadata is None or (len(regions) > 1 and metadata.leading_digits is not None):
        return None
    return _Numbering(regions[0], metadata)
