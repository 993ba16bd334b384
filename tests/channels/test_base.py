"""Opening the gateways: everything that is missing is said at once, before anybody is looked up."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from commplan.channels.base import open_gateways
from commplan.channels.email_sendgrid import SendGridGateway
from commplan.channels.sms_twilio import TwilioGateway
from commplan.errors import InputError
from commplan.settings import EmailSettings, Settings, SmsSettings
from commplan.terms import Channel


def _settings(email: dict[str, Any] | None = None, sms: dict[str, Any] | None = None) -> Settings:
    return Settings(
        email=EmailSettings(**{"api_key": SecretStr("key"), **(email or {})}),
        sms=SmsSettings(**{"account_sid": "AC0", "auth_token": SecretStr("token"), **(sms or {})}),
    )


def _places(settings: Settings, **options: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        open_gateways(settings, **options)
    assert all(finding.remedy for finding in caught.value.findings)
    return [finding.place for finding in caught.value.findings]


def test_both_gateways_open_without_touching_the_network() -> None:
    gateways = open_gateways(
        _settings({"base_url": "https://provider.invalid"}, {"base_url": "https://provider.invalid"})
    )
    assert (type(gateways.email), type(gateways.sms)) == (SendGridGateway, TwilioGateway)
    gateways.close()


def test_every_missing_credential_is_named_at_once() -> None:
    assert _places(Settings()) == [
        "COMMPLAN_EMAIL__API_KEY",
        "COMMPLAN_SMS__ACCOUNT_SID",
        "COMMPLAN_SMS__AUTH_TOKEN",
    ]


def test_a_channel_that_is_not_used_needs_no_credentials() -> None:
    assert _places(Settings(), channels=[Channel.EMAIL]) == ["COMMPLAN_EMAIL__API_KEY"]
    open_gateways(_settings(sms={"account_sid": None, "auth_token": None}), channels=[Channel.EMAIL]).close()


@pytest.mark.parametrize("key", ["sg-1\n", "sg-1 sg-2", "ключ", " "])
def test_a_credential_that_cannot_stand_in_a_header_is_refused_without_showing_it(key: str) -> None:
    settings = _settings({"api_key": SecretStr(key)})
    assert _places(settings) == ["COMMPLAN_EMAIL__API_KEY"]
    with pytest.raises(InputError) as caught:
        open_gateways(settings)
    assert "sg-" not in str(caught.value)
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://api.sendgrid.com", "ftp://127.0.0.1", "api.sendgrid.com", "https://", "https://a:x", "https://a?b=c"],
)
def test_an_address_that_is_no_api_or_not_private_is_refused(url: str) -> None:
    assert _places(_settings({"base_url": url})) == ["COMMPLAN_EMAIL__BASE_URL"]
    assert _places(_settings(sms={"base_url": url})) == ["COMMPLAN_SMS__BASE_URL"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8026", "http://localhost:1", "http://[::1]:1/x", "https://api.twilio.com"]
)
def test_this_machine_needs_no_tls_and_the_real_providers_have_it(url: str) -> None:
    open_gateways(_settings({"base_url": url}, {"base_url": url})).close()
