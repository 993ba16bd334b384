"""What messages cost, from a dated price file that the user owns.

Never guesses a price: a country without one gets the file's own `default`, and the report says for how many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from phonenumbers import SUPPORTED_REGIONS

from commplan import yamlfile
from commplan.errors import Finding, InputError
from commplan.money import Money
from commplan.yamlfile import Document

#: Key of the price for countries that have none of their own.
DEFAULT = "default"
_COUNTRIES = SUPPORTED_REGIONS | {DEFAULT}
_FIELDS = ("as_of", "email", "sms")
_EXAMPLE = "write as_of: 2026-11-01, email: 0.0008 USD, and under sms: a default and a price for each country"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices as of one day, all in one currency: an email's, and an SMS part's by country of the number."""

    as_of: date
    email: Money
    sms_by_country: Mapping[str, Money] = field(repr=False)

    @property
    def currency(self) -> str:
        """The currency (ISO 4217) of every price."""
        return self.email.currency

    def names(self, country: str | None) -> bool:
        """Tell whether the file has a price for this very country."""
        return country in self.sms_by_country and country != DEFAULT

    def sms(self, country: str | None) -> Money:
        """Return the price of one SMS part to a country (ISO 3166-1 alpha-2); the default where it has none."""
        return self.sms_by_country.get(country or DEFAULT, self.sms_by_country[DEFAULT])


def read_prices(text: str, place: str) -> Prices:
    """Return the prices written in `text`; InputError with every finding, each at `place` and its line.

    All prices are in one currency and none is negative; `sms` needs a `default`; `as_of` says what day they are of.
    """
    document = yamlfile.compose(text, place)
    findings = list(document.findings)
    root = document.root
    if not isinstance(root, dict):
        raise InputError([document.finding((), "is not a price file", _EXAMPLE)])
    for key in [key for key in root if key not in _FIELDS]:
        findings.append(
            document.finding((key,), "is not a field of a price file", f"write {', '.join(_FIELDS)}", at_key=True)
        )
    sms = root.get("sms", {})
    if not isinstance(sms, dict):
        findings.append(document.finding(("sms",), "is not a price for each country", _EXAMPLE))
        sms = {}
    findings.extend(
        document.finding(path, f"`{path[-1]}` is missing", _EXAMPLE)
        for path in (("as_of",), ("email",), ("sms", DEFAULT))
        if not document.holds(path)
    )
    findings.extend(
        document.finding(("sms", country), "is not a country code", "write two capitals, such as US", at_key=True)
        for country in sms
        if country not in _COUNTRIES
    )
    as_of = _day(document, ("as_of",), findings)
    amounts = {path: _amount(document, path, findings) for path in [("email",), *(("sms", c) for c in sms)]}
    currencies = sorted({amount.currency for amount in amounts.values() if amount})
    if len(currencies) > 1:
        findings.append(document.finding((), f"prices are in {' and '.join(currencies)}", "write all in one currency"))
    email = amounts[("email",)]
    if findings or as_of is None or email is None:
        raise InputError(yamlfile.in_order(findings))
    return Prices(
        as_of=as_of, email=email, sms_by_country={c: price for c in sms if (price := amounts[("sms", c)]) is not None}
    )


def _at(document: Document, path: tuple[str, ...]) -> yamlfile.Value | None:
    value: yamlfile.Value | None = document.root
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _day(document: Document, path: tuple[str, ...], findings: list[Finding]) -> date | None:
    if (value := _at(document, path)) is None:
        return None
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        findings.append(document.finding(path, "is not a day", "write it like 2026-11-01"))
        return None


def _amount(document: Document, path: tuple[str, ...], findings: list[Finding]) -> Money | None:
    if (value := _at(document, path)) is None:
        return None
    try:
        return Money.parse(str(value))
    except ValueError:
        findings.append(document.finding(path, "is not a price", "write it like 0.0083 USD"))
        return None
