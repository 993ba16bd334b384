"""Every error that commplan raises on purpose, named for what the caller should do.

::

    CommplanError
    ├── InputError            somebody wrote something we cannot use: show every finding, exit 2, send nothing
    │   └── UnreachableError  the source of people is not there, or does not answer: nothing is known; ask again later
    ├── FenceError            this store, these providers and this plan do not belong together: refuse
    ├── StoreError            the database cannot be reached, read or is of another version: say so, stop
    ├── RunError              the run cannot go on as asked (unknown key, cancelled, held): say what to do
    ├── ReceiptError          a post to the receiver cannot be taken: answer 4xx, store nothing
    │   ├── ForgedError       it is not proven to come from the provider
    │   └── UnreadableError   the provider signed it, but it is not what the provider documents
    └── DeliveryError         what one provider request came to
        ├── TransientError    it never left, or was refused unprocessed: wait, then send again
        ├── RejectedError     the provider refused it for good: these messages are over, the run goes on
        ├── UnknownError      it may have been accepted: settle by evidence, never send again by hope
        └── HaltError         nothing can be sent until a person acts (bad key, unverified sender): stop

A message names the thing, the rule and the remedy. It never carries an address, a name, a message text or a
provider's response body.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

#: What is wrong with a post that is not proven to come from its provider.
Doubt = Literal["unsigned", "no_key", "wrong_signature"]

#: Looks like an address, a phone number, or a URL that may carry a password.
_PRIVATE = re.compile(r"@|://|\+\d{6}")


def quoted(value: object) -> str:
    """Return what a person wrote for use in a message: in double quotes, on one line, at most 60 characters.

    What may be an address, a phone number or a secret is not repeated but called "this text".
    """
    text = str(value)
    if _PRIVATE.search(text):
        return "this text"
    short = text if len(text) <= 60 else text[:59] + "…"
    return '"' + "".join(c if c.isprintable() else " " for c in short) + '"'


def write_path(path: Sequence[str | int]) -> str:
    """Return a path as people read it: ``sequence[1].by_segment.vip``; a key that may be an address is a ``?``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in path).removeprefix(".")


def _shown(key: str) -> str:
    shown = quoted(key)
    return shown[1:-1] if shown.startswith('"') else "?"


class CommplanError(Exception):
    """Base of all errors below; ``str()`` of it is meant for people."""

    #: What the command line exits with.
    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong in something a person wrote: where it is, which rule it breaks, what to write instead.

    `place` is ``file``, ``file:line`` or ``file:line:column``; `field` the dotted path inside the file; `word` the
    one word of the field that is at fault, where that is known.
    """

    place: str
    rule: str
    remedy: str = ""
    field: str = ""
    word: str = ""

    def __str__(self) -> str:
        head = f"{self.place}: {self.field}: " if self.field else f"{self.place}: "
        return f"{head}{self.rule}" + (f"; {self.remedy}" if self.remedy else "")


class InputError(CommplanError):
    """A plan, template, segment, file or setting is unusable; carries every finding, not only the first."""

    exit_code = 2

    def __init__(self, findings: Sequence[Finding]) -> None:
        if not findings:
            raise ValueError("an InputError needs at least one finding")
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))

    @classmethod
    def one(cls, place: str, rule: str, remedy: str = "", field: str = "", *, word: str = "") -> Self:
        """Return an error with a single finding."""
        return cls([Finding(place=place, rule=rule, remedy=remedy, field=field, word=word)])


class UnreachableError(InputError):
    """The source of people is not there or does not answer, so nothing is known about what is asked of it."""


class FenceError(CommplanError):
    """A rehearsal would touch real people, or a live campaign would vanish into the sandbox."""

    exit_code = 2


class StoreError(CommplanError):
    """The store cannot be used as it is."""

    exit_code = 2


class RunError(CommplanError):
    """A run cannot do what was asked of it."""

    exit_code = 2


class ReceiptError(CommplanError):
    """A post to the receiver cannot be taken."""


class ForgedError(ReceiptError):
    """A post is not proven to come from the provider it claims to come from; `why` in a word for those who count."""

    def __init__(self, message: str, *, why: Doubt = "wrong_signature") -> None:
        super().__init__(message)
        self.why: Doubt = why


class UnreadableError(ReceiptError):
    """A provider signed a post that is not in the form it documents."""


class DeliveryError(CommplanError):
    """One request to a provider did not end in an acceptance.

    `status` is the HTTP status (None when there was none), `code` the provider's own code or field name.
    """

    def __init__(self, reason: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code


class TransientError(DeliveryError):
    """The request was certainly not processed. `retry_after` is machine seconds, None when nobody said."""

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, status=status, code=code)
        self.retry_after = retry_after


class RejectedError(DeliveryError):
    """The provider refused the request for good.

    `index` is the position in the batch of the one recipient the provider named, None when it named nobody.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int | None = None,
        code: str | None = None,
        index: int | None = None,
    ) -> None:
        super().__init__(reason, status=status, code=code)
        self.index = index


class UnknownError(DeliveryError):
    """The provider may or may not have accepted the request."""


class HaltError(DeliveryError):
    """No message of this sender can go out until a person acts; with `country`, none to that recipient's country."""

    def __init__(
        self, reason: str, *, status: int | None = None, code: str | None = None, country: bool = False
    ) -> None:
        super().__init__(reason, status=status, code=code)
        self.country = country
