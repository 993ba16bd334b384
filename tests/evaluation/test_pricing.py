"""Prices are read as written, and a price file with mistakes gets all of them told at once."""

from datetime import date

import pytest

from commplan.errors import InputError
from commplan.money import Money
from commplan.pricing import read_prices
from commplan.settings import Settings

_GOOD = "as_of: 2026-11-01\nemail: 0.0008 USD\nsms:\n  default: 0.05 USD\n  NO: 0.071 USD\n"


def _findings(text):
    with pytest.raises(InputError) as caught:
        read_prices(text, "prices.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_prices_are_exact_and_dated():
    prices = read_prices(_GOOD, "prices.yaml")
    assert prices.as_of == date(2026, 11, 1)
    assert prices.email == Money(800, "USD")
    assert prices.currency == "USD"


def test_norway_is_a_country_and_unknown_ones_cost_the_default():
    prices = read_prices(_GOOD, "prices.yaml")
    assert prices.sms("NO") == Money(71_000, "USD")
    assert prices.names("NO")
    for country in ("DE", None, "default"):
        assert prices.sms(country) == Money(50_000, "USD")
        assert not prices.names(country)


def test_the_price_file_that_comes_with_the_product_can_be_read(settings: Settings):
    prices = read_prices(settings.prices.read_text(encoding="utf-8"), str(settings.prices))
    assert prices.names("US")
    assert prices.names("CN")


def test_every_mistake_is_told_with_its_line():
    found = _findings("as_of: yesterday\nemial: 1 USD\nsms:\n  XX: 1 USD\n  US: -1 USD\n  CN: 0.01 EUR\n  TW: [1]\n")
    assert [line.split(": ")[0].rsplit(":", 1)[0] for line in found] == [
        *["prices.yaml:1"] * 3,
        "prices.yaml:2",
        *["prices.yaml:4"] * 2,
        "prices.yaml:5",
        "prices.yaml:7",
    ]
    text = "\n".join(found)
    for words in (
        "as_of: is not a day",
        "`email` is missing",
        "emial: is not a field",
        "sms.XX: is not a country code",
        "`default` is missing",
        "sms.US: is not a price",
        "EUR and USD",
        "sms.TW: is not a price",
    ):
        assert words in text


@pytest.mark.parametrize(
    "text", ["- 1\n", "just words\n", "sms: 5 USD\n", "as_of: 2026-11-01\nas_of: 2026-11-02\n", ""]
)
def test_what_is_no_price_file_is_refused(text):
    assert _findings(text)
