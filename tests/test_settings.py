"""Settings mean the same however they are written."""

from __future__ import annotations

import pytest

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
