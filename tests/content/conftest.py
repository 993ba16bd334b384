"""A small plan, and a library over whatever files a test writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from commplan.content import Library, Rendered
from commplan.plan import Plan

PREFIX = "cp-test12345-"

MAIL = "---\nsubject: Hello {{ name }}\npreheader: For {{ name }}\n---\n"
BODY = "<mjml><mj-body><mj-section><mj-column>\n%s\n</mj-column></mj-section></mj-body></mjml>\n"


def build_plan(**changes: object) -> Plan:
    """Return a plan of one mail, one SMS, and nothing else."""
    plan: dict[str, object] = {
        "plan": "trial",
        "title": "A trial",
        "purpose": "service",
        "topic": "news",
        "owner": "crm",
        "team": {"crm": {}},
        "goals": [{"id": "reach", "metric": "delivered_rate", "target": "at least 95%"}],
        "audience": {
            "people": "customers",
            "source": {"contacts": "customers"},
            "contact": {
                "id": "id",
                "email": "email",
                "phone": "phone",
                "consent": {"email": "may_email", "sms": "may_text"},
            },
        },
        "sequence": [
            {"step": "hello", "channel": "email", "content": "hello"},
            {"step": "note", "channel": "sms", "content": "note"},
        ],
    }
    return Plan.model_validate({**plan, **changes})


class Press:
    """Prints messages from files written in a test; a part that a test leaves out is unremarkable."""

    def __init__(self, files: Mapping[str, str], plan: Plan) -> None:
        defaults = {
            "hello.email.en.mjml.j2": MAIL + BODY % "<mj-text>{{ name }}</mj-text>",
            "hello.email.en.txt.j2": "Hello {{ name }}\n",
            "note.sms.en.txt.j2": "Hello {{ name }}\n",
        }
        self.plan = plan
        self.library = Library(plan, {**defaults, **files}, PREFIX)

    def mail(self, locale: str | None = "en", **columns: object) -> Rendered:
        """Return the mail to somebody with these columns."""
        return self._render(1, locale, columns)

    def sms(self, locale: str | None = "en", **columns: object) -> Rendered:
        """Return the SMS to somebody with these columns."""
        return self._render(2, locale, columns)

    def _render(self, step_no: int, locale: str | None, columns: Mapping[str, object]) -> Rendered:
        return self.library.render(
            self.plan.touch(step_no, None),
            locale=locale,
            columns={"name": "Ada", **columns},
            contact={"id": "17", "locale": locale, "segment": None},
            links={"unsubscribe": "https://example.com/u/token", "survey": "https://example.com/s/token"},
        )


@pytest.fixture(scope="session")
def press() -> Callable[..., Press]:
    """Return a maker of presses: ``press({file: text}, purpose="marketing")``."""

    def make(files: Mapping[str, str] | None = None, **changes: Any) -> Press:
        return Press(files or {}, build_plan(**changes))

    return make


@pytest.fixture(scope="session")
def mjml() -> Callable[[str], str]:
    """Return a maker of mails around the elements of one column."""
    return lambda elements: MAIL + BODY % elements


@pytest.fixture(scope="session")
def plan() -> Callable[..., Plan]:
    """Return a maker of small plans."""
    return build_plan
