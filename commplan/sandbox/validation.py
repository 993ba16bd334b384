"""The rules of a mail/send request, and how the provider words it when one is broken.

Pure: a parsed body in, problems out. Never sends, stores or answers anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from email_validator import EmailNotValidError, validate_email

MAX_RECIPIENTS = 1_000
MAX_ARGS_BYTES = 10_000
MAX_SUBSTITUTION_BYTES = 10_000
MAX_CATEGORIES = 10
MAX_AHEAD = 72 * 3_600

_ROOT = frozenset({
    "personalizations", "from", "reply_to", "reply_to_list", "subject", "content", "attachments", "template_id",
    "headers", "categories", "custom_args", "send_at", "batch_id", "asm", "ip_pool_name", "mail_settings",
    "tracking_settings",
})  # fmt: skip
_PERSONALIZATION = frozenset({
    "from", "to", "cc", "bcc", "subject", "headers", "substitutions", "dynamic_template_data", "custom_args",
    "send_at",
})  # fmt: skip
_RESERVED_HEADERS = frozenset({
    "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding", "to", "from",
    "subject", "reply-to", "cc", "bcc",
})  # fmt: skip
#: What the emulator does not do, and so refuses rather than ignores.
_NOT_EMULATED = ("template_id", "batch_id", "asm", "ip_pool_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A rule that a request breaks. `recipient` is the position of the personalization at fault, if it is only one."""

    message: str
    field: str | None
    recipient: int | None = None


def check(body: object, *, now: float, verified: tuple[str, ...] = ()) -> list[Problem]:
    """Return every rule of mail/send that a request breaks; none means it would be accepted.

    `now` is the provider's time in seconds; `verified` the senders that may be used, empty for any.
    """
    if not isinstance(body, dict):
        return [Problem(message="Bad Request", field=None)]
    return list(_check_root(body, now, verified))


def _check_root(body: dict[str, Any], now: float, verified: tuple[str, ...]) -> Iterator[Problem]:
    for name in sorted(body.keys() - _ROOT):
        yield Problem(message=f"Additional property {name} is not allowed", field=name)
    for name in _NOT_EMULATED:
        if name in body:
            yield Problem(message=f"The sandbox does not emulate {name}", field=name)
    yield from _check_from(body.get("from"), verified)
    yield from _check_content(body)
    yield from _check_headers(body.get("headers"), "headers", None)
    yield from _check_args(body.get("custom_args"), "custom_args", None)
    yield from _check_categories(body.get("categories"))
    yield from _check_send_at(body.get("send_at"), "send_at", now, None)
    if "reply_to" in body and "reply_to_list" in body:
        yield Problem(message="reply_to and reply_to_list are mutually exclusive", field="reply_to_list")
    people = body.get("personalizations")
    if not isinstance(people, list) or not people:
        yield Problem(
            message="The personalizations field is required and must have at least one personalization.",
            field="personalizations",
        )
        return
    if len(people) > MAX_RECIPIENTS:
        yield Problem(
            message=f"There are too many personalizations; at most {MAX_RECIPIENTS} are allowed.",
            field="personalizations",
        )
        return
    has_subject = isinstance(body.get("subject"), str) and body["subject"] != ""
    seen: set[str] = set()
    for position, person in enumerate(people):
        if not isinstance(person, dict):
            yield Problem(message="Bad Request", field=f"personalizations.{position}", recipient=position)
        else:
            yield from _check_personalization(person, position, seen, has_subject, now)
    if len(seen) > MAX_RECIPIENTS:
        yield Problem(
            message=f"The total number of recipients must be no more than {MAX_RECIPIENTS}.", field="personalizations"
        )


def _check_personalization(
    person: dict[str, Any], position: int, seen: set[str], has_subject: bool, now: float
) -> Iterator[Problem]:
    at = f"personalizations.{position}"
    for name in sorted(person.keys() - _PERSONALIZATION):
        yield Problem(message=f"Additional property {name} is not allowed", field=f"{at}.{name}", recipient=position)
    if "dynamic_template_data" in person:
        yield Problem(message="dynamic_template_data needs a dynamic template", field=f"{at}.dynamic_template_data")
    if not person.get("to"):
        yield Problem(
            message="The to array is required for all personalization objects, and must have at least one email object"
            " with a valid email address.",
            field=f"{at}.to",
            recipient=position,
        )
    for kind in ("to", "cc", "bcc"):
        yield from _check_recipients(person.get(kind, []), f"{at}.{kind}", position, seen)
    subject = person.get("subject")
    if not has_subject and not (isinstance(subject, str) and subject):
        yield Problem(
            message="The subject is required. You can get around this requirement if you use a template with a subject"
            " defined or if every personalization has a subject defined.",
            field="subject",
        )
    yield from _check_headers(person.get("headers"), f"{at}.headers", position)
    yield from _check_args(person.get("custom_args"), f"{at}.custom_args", position)
    yield from _check_send_at(person.get("send_at"), f"{at}.send_at", now, position)
    values = person.get("substitutions", {})
    if not _are_strings(values):
        # The real service answers this one with an empty explanation.
        yield Problem(message="Bad Request", field=None, recipient=position)
    elif sum(len(name.encode()) + len(value.encode()) for name, value in values.items()) > MAX_SUBSTITUTION_BYTES:
        yield Problem(
            message=f"The substitutions of a personalization may have at most {MAX_SUBSTITUTION_BYTES} bytes.",
            field=f"{at}.substitutions",
            recipient=position,
        )


def _check_recipients(given: object, at: str, position: int, seen: set[str]) -> Iterator[Problem]:
    if not isinstance(given, list):
        yield Problem(message="Bad Request", field=at, recipient=position)
        return
    for number, entry in enumerate(given):
        address = entry.get("email") if isinstance(entry, dict) else None
        if not isinstance(address, str) or not is_address(address):
            yield Problem(message="Does not contain a valid address.", field=f"{at}.{number}.email", recipient=position)
        elif address.casefold() in seen:
            yield Problem(
                message="Each unique email address in the personalizations array should only be included once.",
                field=at,
                recipient=position,
            )
        else:
            seen.add(address.casefold())


def _check_from(sender: object, verified: tuple[str, ...]) -> Iterator[Problem]:
    address = sender.get("email") if isinstance(sender, dict) else None
    if not isinstance(address, str) or not is_address(address):
        yield Problem(
            message="The from object must be provided for every email send. It is an object that requires the email"
            " parameter, but may also contain a name parameter.",
            field="from.email",
        )
    elif verified and address.casefold() not in {known.casefold() for known in verified}:
        yield Problem(
            message="The from address does not match a verified Sender Identity. Mail cannot be sent until this error"
            " is resolved.",
            field="from",
        )


def is_unverified(problems: list[Problem]) -> bool:
    """Tell whether a request is refused for its sender (403 rather than 400)."""
    return any(problem.field == "from" for problem in problems)


def _check_content(body: dict[str, Any]) -> Iterator[Problem]:
    content = body.get("content")
    if not isinstance(content, list) or not content:
        yield Problem(
            message="Unless a valid template_id is provided, the content parameter is required. There must be at least"
            " one defined content block.",
            field="content",
        )
        return
    kinds: list[str] = []
    for number, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        value = block.get("value") if isinstance(block, dict) else None
        if not isinstance(kind, str) or not isinstance(value, str) or not kind or not value:
            yield Problem(
                message="The content value must be a string at least one character in length.",
                field=f"content.{number}.value",
            )
            return
        kinds.append(kind)
    expected = [kind for kind in ("text/plain", "text/html") if kind in kinds]
    if kinds[: len(expected)] != expected or any(kinds.count(kind) > 1 for kind in expected):
        yield Problem(
            message="If present, text/plain and text/html may only be provided once, and text/plain must be first,"
            " followed by text/html.",
            field="content",
        )


def _check_headers(headers: object, at: str, position: int | None) -> Iterator[Problem]:
    if headers is None:
        return
    if not isinstance(headers, dict) or not _are_strings(headers):
        yield Problem(message="The headers must be an object of strings.", field=at, recipient=position)
        return
    for name, value in headers.items():
        if name.lower() in _RESERVED_HEADERS:
            yield Problem(message=f"The header {name} is reserved.", field=f"{at}.{name}", recipient=position)
        elif not name.isascii() or "\n" in value or "\r" in value:
            yield Problem(message=f"The header {name} is not valid.", field=f"{at}.{name}", recipient=position)


def _check_args(args: object, at: str, position: int | None) -> Iterator[Problem]:
    if args is None:
        return
    if not isinstance(args, dict) or not _are_strings(args):
        yield Problem(message="The custom_args must be an object of strings.", field=at, recipient=position)
    elif len(json.dumps(args, ensure_ascii=False).encode()) > MAX_ARGS_BYTES:
        yield Problem(message=f"The custom_args exceed {MAX_ARGS_BYTES} bytes.", field=at, recipient=position)


def _check_categories(categories: object) -> Iterator[Problem]:
    if categories is None:
        return
    if (
        not isinstance(categories, list)
        or len(categories) > MAX_CATEGORIES
        or len(set(map(str, categories))) != len(categories)
        or not all(isinstance(name, str) and len(name) <= 255 for name in categories)
    ):
        yield Problem(
            message=f"There may be at most {MAX_CATEGORIES} different categories of at most 255 characters.",
            field="categories",
        )


def _check_send_at(moment: object, at: str, now: float, position: int | None) -> Iterator[Problem]:
    if moment is None:
        return
    if not isinstance(moment, int) or isinstance(moment, bool):
        yield Problem(message="The send_at must be a unix timestamp in seconds.", field=at, recipient=position)
    elif moment > now + MAX_AHEAD:
        yield Problem(message="The send_at must be within 72 hours.", field=at, recipient=position)


def is_address(address: str) -> bool:
    """Tell whether the provider takes an address: ASCII before the @, a domain with a dot."""
    try:
        validate_email(address, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return False
    return True


def _are_strings(values: object) -> bool:
    return isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
