"""What a failed request to a provider means, as tables: never left, refused, refused for all, or not known.

It never guesses: whatever no row proves harmless is *unknown*, and no row shows a provider's text or an address.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http.client import HTTPException, RemoteDisconnected
from socket import gaierror

from tenacity import RetryCallState, Retrying
from tenacity.stop import stop_after_attempt, stop_base, stop_before_delay
from tenacity.wait import wait_base, wait_exponential_jitter

from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError, UnknownError
from commplan.terms import Reason


class Stage(StrEnum):
    """How far a request had come when its connection failed."""

    CONNECT = "connect"  #: nothing was written
    EXCHANGE = "exchange"  #: some or all of it may have been read by the provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One row of a table: what the caller should do, and the sentence for people.

    `suppress` says that the address is bad from now on, `country` that a halt concerns the recipient's country only.
    """

    kind: type[DeliveryError]
    reason: str
    suppress: Reason | None = None
    country: bool = False


def _transient(reason: str) -> Failure:
    return Failure(kind=TransientError, reason=reason)


def _rejected(reason: str, suppress: Reason | None = None) -> Failure:
    return Failure(kind=RejectedError, reason=reason, suppress=suppress)


def _unknown(reason: str) -> Failure:
    return Failure(kind=UnknownError, reason=reason)


def _halt(reason: str, *, country: bool = False) -> Failure:
    return Failure(kind=HaltError, reason=reason, country=country)


#: Transport errors by stage; the first row whose class fits is the answer, and the last one fits everything.
TRANSPORT: Mapping[Stage, tuple[tuple[type[BaseException], Failure], ...]] = {
    Stage.CONNECT: (
        (ssl.SSLCertVerificationError, _transient("the provider's certificate cannot be verified; nothing was sent")),
        (ssl.SSLError, _transient("no TLS session with the provider; nothing was sent")),
        (gaierror, _transient("the provider's name cannot be resolved; nothing was sent")),
        (ConnectionRefusedError, _transient("the provider refuses connections; nothing was sent")),
        (TimeoutError, _transient("the provider cannot be reached in time; nothing was sent")),
        (Exception, _transient("no connection to the provider; nothing was sent")),
    ),
    Stage.EXCHANGE: (
        (TimeoutError, _unknown("the provider did not answer in time; it may have accepted the request")),
        (RemoteDisconnected, _unknown("the provider closed the connection unanswered; it may have accepted")),
        (ConnectionError, _unknown("the connection broke before an answer; the provider may have accepted")),
        (HTTPException, _unknown("the provider's answer is not HTTP; it may have accepted the request")),
        (Exception, _unknown("the connection failed during the request; the provider may have accepted")),
    ),
}

_NOT_THE_API = _halt("the provider's address is not that of its API; correct the base URL in the settings")
_NOT_ALLOWED = _halt("the provider refuses this account or key; check the credentials and the account's state")
_UNUSABLE = _rejected("the provider refuses the request as invalid")
_TOO_LARGE = _rejected("the provider refuses the request as too large")
_NOT_AN_ACCEPTANCE = _unknown("the provider's answer is not the acceptance it documents; it may have accepted")

#: HTTP statuses that prove something. Any other, 5xx above all (a proxy may have given up on a request that went
#: through), leaves the outcome unknown.
STATUSES: Mapping[int, Failure] = {
    301: _NOT_THE_API,
    307: _NOT_THE_API,
    308: _NOT_THE_API,
    400: _UNUSABLE,
    401: _NOT_ALLOWED,
    402: _NOT_ALLOWED,
    403: _NOT_ALLOWED,
    404: _NOT_THE_API,
    405: _NOT_THE_API,
    406: _NOT_THE_API,
    407: _halt("a proxy asks for credentials; the provider must be reached directly"),
    410: _NOT_THE_API,
    411: _UNUSABLE,
    413: _TOO_LARGE,
    414: _UNUSABLE,
    415: _NOT_THE_API,
    422: _UNUSABLE,
    425: _transient("the provider asks to come later; the request was not processed"),
    426: _NOT_THE_API,
    429: _transient("the provider's rate limit is reached; the request was not processed"),
    431: _UNUSABLE,
}

#: SendGrid's own words for the statuses where the general ones can be said better.
SENDGRID_STATUSES: Mapping[int, Failure] = {
    401: _halt("SendGrid refuses the API key, or the account's credits are used up; check COMMPLAN_EMAIL__API_KEY"),
    403: _halt("SendGrid does not let this key send; give it the Mail Send permission in the SendGrid console"),
}

_SENDER = _halt("SendGrid refuses the sender; verify COMMPLAN_EMAIL__FROM_ADDRESS at SendGrid, or correct it")
_CONTENT = _halt("SendGrid refuses the text that all recipients of this batch share; correct the template")
_SETTINGS = _halt("SendGrid refuses a setting that all requests share; this version does not fit the API any more")

#: The part of a request that a SendGrid 400 or 403 names, where everyone shares it: rejecting people one by one for
#: it would burn the whole audience. What is in ``personalizations`` concerns one person.
SENDGRID_FIELDS: Mapping[str, Failure] = {
    "from": _SENDER,
    "reply_to": _SENDER,
    "subject": _CONTENT,
    "content": _CONTENT,
    "tracking_settings": _SETTINGS,
    "mail_settings": _SETTINGS,
}

_BAD_NUMBER = Reason.INVALID_NUMBER
_BAD_KEY = _halt("Twilio refuses the credentials; check COMMPLAN_SMS__ACCOUNT_SID and COMMPLAN_SMS__AUTH_TOKEN")
_BAD_SENDER = _halt("Twilio refuses the sender number; set COMMPLAN_SMS__FROM_NUMBER to one of this account")

#: Twilio's codes at creation. An unlisted one means what its HTTP status means.
TWILIO_CODES: Mapping[int, Failure] = {
    20003: _BAD_KEY,
    20005: _halt("the Twilio account is not active; reactivate it"),
    20008: _halt("Twilio's test credentials cannot do this; use the account's own"),
    20404: _halt("Twilio does not know this account or resource; check COMMPLAN_SMS__ACCOUNT_SID"),
    20429: STATUSES[429],
    21211: _rejected("the number is not valid", _BAD_NUMBER),
    21212: _BAD_SENDER,
    21214: _rejected("the number cannot be reached", _BAD_NUMBER),
    21217: _rejected("the number is not valid", _BAD_NUMBER),
    21408: _halt("Twilio may not send to this country; enable it under Geo Permissions", country=True),
    21603: _BAD_SENDER,
    21606: _BAD_SENDER,
    21608: _halt("a Twilio trial account reaches verified numbers only; upgrade it"),
    21609: _halt("Twilio refuses the callback address; COMMPLAN_PUBLIC_URL must be reachable from the internet"),
    21610: _rejected("the recipient has opted out by STOP", Reason.STOP),
    21611: _transient("the sender's queue at Twilio is full; the message was not taken"),
    21612: _halt("Twilio has no way from this sender to this country; use another sender for it", country=True),
    21614: _rejected("the number is not a mobile number", _BAD_NUMBER),
    21617: _rejected("the text is longer than 1600 characters"),
    21635: _rejected("the number is a landline", _BAD_NUMBER),
    21659: _BAD_SENDER,
    21660: _BAD_SENDER,
    30002: _halt("the Twilio account is suspended; contact Twilio"),
    30034: _halt("the sender is not registered for A2P 10DLC; register it at Twilio", country=True),
}

_PERSONALIZATION = re.compile(r"personalizations[.\[](\d{1,4})\b")
_ID = re.compile(r"[A-Za-z0-9_.:=-]{1,200}")
_POSITION = re.compile(r"[.\[]\d+\]?")
#: What a field path may look like; anything else might quote what was sent.
_FIELD = re.compile(r"[a-z_]{1,40}([.\[][a-z_\d]{1,40}\]?){0,6}")


def of_transport(error: Exception, stage: Stage) -> DeliveryError:
    """Return what an error of socket, TLS or HTTP means; nothing of its text is kept."""
    for kind, failure in TRANSPORT[stage]:
        if isinstance(error, kind):
            return _error(failure)
    raise AssertionError(stage)


def of_sendgrid(status: int, headers: Mapping[str, str], body: bytes) -> DeliveryError:
    """Return what a SendGrid answer that is no acceptance means; header names in lower case.

    A 400 that names personalizations is a rejection with the first one's position, so the others can go on alone.
    """
    failure = SENDGRID_STATUSES.get(status) or STATUSES.get(status) or _NOT_AN_ACCEPTANCE
    fields = _sendgrid_fields(body) if status in {400, 403} else []
    index = code = None
    for name in fields:
        shared = SENDGRID_FIELDS.get(re.split(r"[.\[]", name)[0])
        if shared is not None:
            failure, index, code = shared, None, _POSITION.sub("", name)
            break
        found = _PERSONALIZATION.match(name)
        if found is not None and index is None and status == 400:
            index, code = int(found[1]), _POSITION.sub("", name)
    return _error(failure, status=status, code=code, headers=headers, index=index)


def of_twilio(status: int, headers: Mapping[str, str], body: bytes) -> DeliveryError:
    """Return what a Twilio answer that is no acceptance means; header names in lower case.

    Twilio's own code decides where it is listed, except that no code makes a 5xx answer certain.
    """
    code = _twilio_code(body) if 400 <= status < 500 else None
    failure = TWILIO_CODES.get(code) if code is not None and status != 429 else None
    if failure is None:
        failure = _BAD_KEY if status == 401 else STATUSES.get(status) or _NOT_AN_ACCEPTANCE
    return _error(failure, status=status, code=None if code is None else str(code), headers=headers, index=0)


def suppresses(code: str | None) -> Reason | None:
    """Return why an address refused with this code must not be written to again, None if it says no such thing."""
    failure = TWILIO_CODES.get(int(code)) if code is not None and code.isdecimal() else None
    return None if failure is None else failure.suppress


def _error(
    failure: Failure,
    *,
    status: int | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
    index: int | None = None,
) -> DeliveryError:
    reason = failure.reason if status is None else f"{failure.reason} (HTTP {status}{f', {code}' if code else ''})"
    if failure.kind is TransientError:
        return TransientError(reason, status=status, code=code, retry_after=_retry_after(headers or {}))
    if failure.kind is RejectedError:
        return RejectedError(reason, status=status, code=code, index=index)
    if failure.kind is HaltError:
        return HaltError(reason, status=status, code=code, country=failure.country)
    return UnknownError(reason, status=status, code=code)


def _sendgrid_fields(body: bytes) -> list[str]:
    """Return the fields that an error body names, as far as they are plain paths."""
    match _parse(body):
        case {"errors": [*errors]}:
            fields = [error.get("field") for error in errors if isinstance(error, dict)]
            return [field for field in fields if isinstance(field, str) and _FIELD.fullmatch(field)]
        case _:
            return []


def _twilio_code(body: bytes) -> int | None:
    match _parse(body):
        case {"code": int(code)} if 0 < code < 1_000_000:
            return code
        case _:
            return None


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the machine seconds a provider asks us to wait, by its own clock where it gives a moment."""
    asked = headers.get("retry-after", "").strip()
    reset = headers.get("x-ratelimit-reset", "").strip()
    if asked.isdecimal() and len(asked) < 12:
        return float(asked)
    until = http_date(asked)
    if until is None and reset.isdecimal() and len(reset) < 12:
        until = datetime.fromtimestamp(int(reset), UTC)
    if until is None:
        return None
    now = http_date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def http_date(text: str) -> datetime | None:
    """Return the moment that an HTTP date names, aware, in UTC; None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def plain_id(value: object) -> str | None:
    """Return a provider's id if it is one that a ledger can keep: up to 200 letters, digits and ``-_.:=``."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait before a request that was certainly not processed is made again, and when to stop.

    Without `waits` it stops where it would otherwise, but asks for no waiting: for tests.
    """

    wait: wait_base
    stop: stop_base
    waits: bool = True


#: Five tries, and never more than a minute from the first to the last: the waits fit inside a batch's lease.
RETRY = RetryPolicy(
    wait=wait_exponential_jitter(multiplier=0.5, max=15, jitter=0.5), stop=stop_after_attempt(5) | stop_before_delay(60)
)

_RETRYING = Retrying()


def next_wait(error: TransientError, tries: int, *, spent: float = 0.0, policy: RetryPolicy = RETRY) -> float | None:
    """Return the seconds to wait before the next try, None when it is time to leave the messages in the queue.

    `tries` counts requests made, `spent` the seconds since the first. At least what the provider asked for is
    waited; if that goes beyond the policy's limit the answer is None. Every try is a request with its own attempt.
    """
    state = RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = tries
    state.start_time, state.outcome_timestamp = 0.0, spent
    state.upcoming_sleep = max(policy.wait(state), error.retry_after or 0.0)
    if policy.stop(state):
        return None
    return state.upcoming_sleep if policy.waits else 0.0
