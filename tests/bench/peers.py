"""What the product is measured against: the plain ways of doing the same, without a ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from sendgrid import SendGridAPIClient

from commplan.channels.sms_twilio import TwilioGateway
from commplan.content.source import read_templates, split
from commplan.envelope import TextMessage
from commplan.ids import Token, new_attempt_id
from commplan.planfile import read_plan
from tests.bench.stage import Stage


def rate(count: int, work: Callable[[], object]) -> float:
    """Return how many per second, by the wall."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _message(number: int) -> dict[str, Any]:
    return {
        "personalizations": [{"to": [{"email": f"peer{number}@person.example.com"}]}],
        "from": {"email": "hello@sender.example.com"},
        "subject": f"Welcome, Person {number}",
        "content": [
            {"type": "text/plain", "value": f"Welcome, Person {number}. " * 20},
            {"type": "text/html", "value": f"<p>Welcome, Person {number}.</p>" * 100},
        ],
    }


def sdk_loop(stage: Stage, count: int) -> float:
    """One mail after the other through the stock SDK, ready rendered."""
    client = SendGridAPIClient(api_key="SG.bench", host=stage.address)
    return rate(count, lambda: [client.send(_message(number)) for number in range(count)])


def prefect_tasks(stage: Stage, count: int) -> float:
    """One Prefect task for each mail through the stock SDK, mapped in one flow on a server of its own."""
    from prefect import flow, task
    from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_SERVER_LOGGING_LEVEL, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    client = SendGridAPIClient(api_key="SG.bench", host=stage.address)

    @task(retries=0, persist_result=False)
    def send(number: int) -> int:
        return int(client.send(_message(number)).status_code)

    @flow
    def one_task_a_message(numbers: int) -> int:
        return len([future.result() for future in send.map(range(numbers))])

    # A line for each task would be measured, too; the server's last words, as it is ended in the middle, say nothing.
    quiet = {PREFECT_LOGGING_LEVEL: "CRITICAL", PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL"}
    with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=180):
        one_task_a_message(2)
        return rate(count, lambda: one_task_a_message(count))


def plain_jinja(stage: Stage, count: int) -> float:
    """Subject, text and HTML source of the same mail by Jinja2 as it is, on one core, kept nowhere."""
    folder = stage.folder / "bench"
    files = read_templates(read_plan(folder / "plan.yaml"), folder, stage.folder / "shared")
    sources: dict[str, str] = {}
    for file, text in files.items():
        sources.update(split(file, text)[0])
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("welcome.email.en.mjml.j2#subject", "welcome.email.en.mjml.j2", "welcome.email.en.txt.j2")
    templates = [environment.get_template(name) for name in names]

    def render_all() -> None:
        for number in range(count):
            variables = {
                "first_name": f"Person {number}",
                "setup_url": f"https://shop.example.com/set-up/{number}",
                "contact": {"id": number, "locale": "en", "segment": None},
                "plan": {"name": "bench", "title": "One message to everybody", "topic": "bench"},
                "links": {"unsubscribe": f"https://x.example.com/u/{number}", "survey": "https://x.example.com/s/1"},
            }
            for template in templates:
                template.render(variables)

    render_all()
    return rate(count, render_all)


def bare_texts(stage: Stage, count: int) -> float:
    """The same texts through the same SDK, transport and number of connections, without a ledger."""
    settings = stage.settings
    gateway = TwilioGateway(settings.sms, public_url=settings.public_url)
    texts = [
        TextMessage(
            attempt_id=new_attempt_id(), token=Token("t" * 22), address=f"+1303{number:07d}", body=f"Hello {number}"
        )
        for number in range(count)
    ]
    sys.setswitchinterval(0.0005)
    with ThreadPoolExecutor(settings.sms.connections) as pool:
        return rate(count, lambda: list(pool.map(gateway.send, texts)))
