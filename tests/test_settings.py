"""Settings mean the same however they are written."""

from __future__ import annotations

import pytest

from commplan.errors import InputError
from commplan.settings import load_settings


@pytest.mark.parametrize("written", ["https://mail.sender.example.com/cp/", "https://mail.sender.example.com/cp"])
def test_a_slash_at_the_end_of_the_public_address_makes_no_other_links(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("COMMPLAN_PUBLIC_URL", written)
    monkeypatch.setenv("COMMPLAN_EARLIER_PUBLIC_URLS", f'["{written}"]')
    settings = load_settings()
    assert settings.public_url == "https://mail.sender.example.com/cp"
    assert settings.earlier_public_urls == ("https://mail.sender.example.com/cp",)


def test_a_domain_for_answers_without_a_key_that_signs_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMPLAN_EMAIL__INBOUND_DOMAIN", "reply.sender.example.com")
    with pytest.raises(InputError, match="COMMPLAN_EMAIL__INBOUND_KEYS"):
        load_settings()
    monkeypatch.setenv("COMMPLAN_EMAIL__INBOUND_KEYS", '["MFkw"]')
    assert load_settings().email.inbound_domain == "reply.sender.example.com"
    monkeypatch.setenv("COMMPLAN_EMAIL__INBOUND_DOMAIN", "no domain")
    with pytest.raises(InputError, match="COMMPLAN_EMAIL__INBOUND_DOMAIN"):
        load_settings()
