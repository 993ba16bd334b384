"""The plan's owner is told where the environment says, and a deaf address stops nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from commplan import planfile
from commplan.notice import tell_owner
from commplan.plan import Plan

_ONBOARDING = Path(__file__).parents[1] / "templates" / "onboarding" / "plan.yaml"


@pytest.fixture
def plan() -> Plan:
    text = _ONBOARDING.read_text(encoding="utf-8").replace("crm: {}", "crm: {notify: env:CRM_NOTIFY}")
    return planfile.parse_plan(text, "plan.yaml")


@contextmanager
def hearing() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Listen at an address; yields it, and the list of what is told there."""
    heard: list[dict[str, str]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}/", heard
        server.shutdown()


def test_the_owner_is_told_at_the_address_in_the_environment(plan: Plan) -> None:
    with hearing() as (url, heard):
        assert tell_owner(plan, {"CRM_NOTIFY": url}, title="spring@1 is evaluated", body="3 met")
    assert [(told["title"], told["message"]) for told in heard] == [("spring@1 is evaluated", "3 met")]


def test_nobody_is_told_where_the_plan_or_the_environment_names_no_address(plan: Plan) -> None:
    assert not tell_owner(plan, {}, title="t", body="b")


def test_a_deaf_address_is_noted_and_stops_nothing(plan: Plan, caplog: pytest.LogCaptureFixture) -> None:
    assert not tell_owner(plan, {"CRM_NOTIFY": "json://127.0.0.1:1/"}, title="t", body="b")
    assert "could not be told" in caplog.text
