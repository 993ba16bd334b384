"""The failure tables: complete, without a row that nothing reaches, and equal to what the README shows."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan.channels import failures
from commplan.channels.failures import (
    RETRY,
    SENDGRID_FIELDS,
    SENDGRID_STATUSES,
    STATUSES,
    TRANSPORT,
    TWILIO_CODES,
    Failure,
    RetryPolicy,
    Stage,
    http_date,
    next_wait,
    of_sendgrid,
    of_transport,
    of_twilio,
    suppresses,
)
from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError, UnknownError

_README = Path(failures.__file__).with_name("README.md")


def _below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _below(each)


def _of_module(module: ModuleType) -> Iterator[type[BaseException]]:
    yield from (each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception))


#: Others' subclasses depend on what happens to be imported, and are not raised here.
_OURS = ("builtins", "socket", "ssl", "_ssl", "http.client")
_RAISED = [
    each
    for each in {
        *_of_module(socket),
        *_of_module(ssl),
        *_of_module(http.client),
        *_below(OSError),
        *_below(http.client.HTTPException),
    }
    | {UnicodeError, ValueError, EOFError, MemoryError}
    if each.__module__ in _OURS
]
_RAISED = sorted(_RAISED, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


@pytest.mark.parametrize("kind", _RAISED, ids=lambda kind: kind.__qualname__)
def test_any_error_before_writing_means_not_sent_and_any_later_one_unknown(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    assert type(of_transport(error, Stage.CONNECT)) is TransientError
    assert type(of_transport(error, Stage.EXCHANGE)) is UnknownError


def test_any_errno_means_the_same_and_its_text_is_not_kept() -> None:
    for number in errno.errorcode:
        error = OSError(number, "Ann@person.example.com")
        assert type(of_transport(error, Stage.CONNECT)) is TransientError
        assert type(of_transport(error, Stage.EXCHANGE)) is UnknownError
        assert "Ann" not in str(of_transport(error, Stage.EXCHANGE))


@pytest.mark.parametrize("stage", Stage)
def test_no_row_stands_behind_one_that_takes_its_place(stage: Stage) -> None:
    kinds = [kind for kind, _ in TRANSPORT[stage]]
    assert not [kind for at, kind in enumerate(kinds) if issubclass(kind, tuple(kinds[:at]))]
    assert kinds[-1] is Exception


@pytest.mark.parametrize("of", [of_sendgrid, of_twilio])
def test_every_status_is_something_whatever_comes_with_it(of: Callable[..., DeliveryError]) -> None:
    nonsense = (b"<html>", b"[]", b"null", b'{"errors": 1}', b'{"errors": [1]}', b'{"code": "x"}', b"\xff", b"[" * 9999)
    for status in range(100, 600):
        plain = of(status, {}, b"")
        assert (plain.status, plain.code) == (status, None)
        assert {type(of(status, {}, body)) for body in nonsense} == {type(plain)}


@pytest.mark.parametrize("status", [200, 204, 302, 408, 409, 499, 500, 502, 503, 504, 599])
def test_what_proves_nothing_stays_unknown_even_with_a_code(status: int) -> None:
    assert type(of_sendgrid(status, {}, b'{"errors": [{"field": "from"}]}')) is UnknownError
    for code in TWILIO_CODES if status >= 500 else [99999]:
        assert type(of_twilio(status, {}, b'{"code": %d}' % code)) is UnknownError


def test_a_rate_limit_is_a_rate_limit_whatever_the_code() -> None:
    assert {type(of_twilio(429, {}, b'{"code": %d}' % code)) for code in TWILIO_CODES} == {TransientError}


def test_a_country_is_halted_alone() -> None:
    halted = {code for code in TWILIO_CODES if getattr(of_twilio(400, {}, b'{"code": %d}' % code), "country", False)}
    assert halted == {21408, 21612, 30034}


def test_only_a_rejection_suppresses_and_only_a_listed_one() -> None:
    assert {code for code in TWILIO_CODES if suppresses(str(code))} == {21211, 21214, 21217, 21610, 21614, 21635}
    assert all(TWILIO_CODES[code].kind is RejectedError for code in TWILIO_CODES if suppresses(str(code)))
    assert [suppresses(code) for code in (None, "", "99999", "personalizations.to", "²")] == [None] * 5


def test_every_halt_says_what_to_do() -> None:
    rows = [*STATUSES.values(), *SENDGRID_STATUSES.values(), *SENDGRID_FIELDS.values(), *TWILIO_CODES.values()]
    assert not [row.reason for row in rows if row.kind is HaltError and ";" not in row.reason]


_DATE = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 40}, None),
        ({"retry-after": format_datetime(_DATE + timedelta(seconds=9), usegmt=True)}, 9),
        ({"retry-after": format_datetime(_DATE - timedelta(days=9), usegmt=True)}, 0),
        ({"x-ratelimit-reset": str(int(_DATE.timestamp()) + 12)}, 12),
        ({"x-ratelimit-reset": str(int(_DATE.timestamp()) + 12), "retry-after": "3"}, 3),
        ({"x-ratelimit-reset": "-1"}, None),
    ],
)
def test_the_wait_asked_for_is_read_by_the_providers_own_clock(
    headers: Mapping[str, str], seconds: float | None
) -> None:
    error = of_sendgrid(429, {"date": format_datetime(_DATE, usegmt=True), **headers}, b"")
    assert isinstance(error, TransientError)
    assert error.retry_after == seconds


@given(st.text() | st.datetimes(timezones=st.timezones()).map(format_datetime))
def test_a_date_header_is_a_moment_in_utc_or_nothing(text: str) -> None:
    moment = http_date(text)
    assert moment is None or moment.tzinfo is UTC


@given(st.binary() | st.text().map(str.encode), st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text()))
def test_no_answer_breaks_the_table(body: bytes, headers: dict[str, str]) -> None:
    for status in (400, 403, 429):
        assert isinstance(of_sendgrid(status, headers, body), DeliveryError)
        assert isinstance(of_twilio(status, headers, body), DeliveryError)


def test_waits_grow_and_end_before_the_lease_does() -> None:
    waits = []
    while (wait := next_wait(TransientError("busy"), len(waits) + 1, spent=sum(waits))) is not None:
        waits.append(wait)
    assert len(waits) == 4
    assert waits[3] > waits[0]
    assert 0 < sum(waits) < 60


def test_a_provider_is_not_asked_before_it_wants_to_be() -> None:
    assert next_wait(TransientError("busy", retry_after=20), 1) == 20
    assert next_wait(TransientError("busy", retry_after=20), 1, spent=45) is None
    assert next_wait(TransientError("busy", retry_after=3600), 1) is None


def test_without_waiting_it_stops_at_the_same_try() -> None:
    policy = RetryPolicy(wait=RETRY.wait, stop=RETRY.stop, waits=False)
    error = TransientError("busy", retry_after=20)
    assert [next_wait(error, tries, policy=policy) for tries in range(1, 7)] == [0, 0, 0, 0, None, None]


def _row(what: object, row: Failure) -> str:
    outcome = row.kind.__name__.removesuffix("Error").lower()
    extra = f", suppress as `{row.suppress}`" if row.suppress else ", that country only" if row.country else ""
    return f"| {what} | {outcome}{extra} | {row.reason} |"


def test_the_readme_shows_the_tables() -> None:
    rows = [
        *(_row(f"{stage}: `{kind.__name__}`", row) for stage in Stage for kind, row in TRANSPORT[stage]),
        *(_row(f"HTTP {status}", row) for status, row in STATUSES.items()),
        *(_row(f"SendGrid, HTTP {status}", row) for status, row in SENDGRID_STATUSES.items()),
        *(_row(f"SendGrid names `{field}`", row) for field, row in SENDGRID_FIELDS.items()),
        *(_row(f"Twilio {code}", row) for code, row in TWILIO_CODES.items()),
    ]
    text = _README.read_text(encoding="utf-8").partition("## The tables")[2]
    shown = [line for line in text.splitlines() if line.startswith("| ") and "| outcome |" not in line]
    assert shown == rows, "\n".join(rows)
