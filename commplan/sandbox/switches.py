"""What the sandbox may do to disappoint: each behaviour of the providers that nobody could verify is a switch here.

Never hides a default: every switch stands in README.md, and is set to its pessimistic side unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from commplan.errors import Finding, InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(ge=0, le=1)]


class Fault(StrEnum):
    """What can go wrong at the boundary of one request."""

    HANG = "accept_then_hang"  #: accepted; the answer never comes
    CLOSE = "accept_then_close"  #: accepted; the connection closes without an answer
    ERROR = "accept_then_500"  #: accepted; the answer is 500
    LATE = "accept_when_given_up"  #: accepted only after the client closed the connection
    SLOW = "slow"  #: accepted; the answer takes `slow_seconds`
    BUSY = "429"  #: not processed; too many requests
    DROP = "close_unprocessed"  #: not processed; the connection closes without an answer


class Role(StrEnum):
    """What one named person does, whatever the dice say."""

    BOUNCE = "bounce"
    BLOCK = "block"
    DEFER = "defer"
    UNDELIVERED = "undelivered"
    SILENT = "silent"
    OPEN = "open"
    CLICK = "click"
    CONVERT = "convert"
    ANSWER = "answer"
    REPLY = "reply"
    STOP = "stop"
    UNSUBSCRIBE = "unsubscribe"
    SPAM = "spam"
    SCANNER = "scanner"
    RETURN = "return"
    AWAY = "away"


class Switches(BaseModel):
    """How the emulated providers, and the people behind them, behave. Shares are between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    whole_request_refused: bool = Field(
        True, description="One bad recipient refuses the whole mail request; otherwise that one is dropped later"
    )
    errors_name_field: bool = Field(False, description="A 400 of mail/send says which field is wrong")
    nested_substitution: bool = Field(True, description="Tags inside substituted values are substituted again")
    faults: Mapping[Fault, Share] = Field(
        default_factory=dict, description="Share of send requests that end in each fault"
    )
    late_seconds: float = Field(
        30.0,
        ge=0,
        le=120,
        description="Seconds of plan time from the client's giving up to an `accept_when_given_up`",
    )
    logs_lag: float = Field(10.0, ge=0, le=3_000, description="Minutes of plan time until Email Logs show a message")
    logs_lowercase: bool = Field(True, description="Email Logs know addresses in lower case only, and compare case")
    logs_busy_share: Share = Field(0.2, description="Share of requests to Email Logs that are answered 429")
    lists_busy_share: Share = Field(0.1, description="Share of requests to suppression lists that are answered 429")
    list_lag: float = Field(
        0.75, ge=0, le=3_000, description="Minutes of plan time until the list of texts shows a new one"
    )
    slow_seconds: float = Field(5.0, ge=0, le=120, description="Machine seconds that a `slow` answer takes")
    clock_offset: float = Field(
        180.0, ge=-600, le=600, description="Seconds by which the providers' clock is ahead of ours"
    )
    duplicate_share: Share = Field(0.03, description="Share of events and callbacks that are posted twice")
    event_ids_change: bool = Field(True, description="A repeated event may carry another `sg_event_id`")
    retries_resigned: bool = Field(
        False, description="A repeated event POST carries a fresh timestamp; otherwise that of its first try"
    )
    disorder: bool = Field(True, description="Events and callbacks arrive out of order, some much later than others")
    stray_share: Share = Field(0.02, description="Share of event POSTs that get lost and come back later")
    stray_hours: float = Field(24.0, ge=0, le=24, description="Longest absence of such a POST, in hours of plan time")
    foreign_share: Share = Field(
        0.05, description="Share of event POSTs that also carry an event of another system on the account"
    )
    events_off: tuple[str, ...] = Field(
        (), description="Kinds of events that the event webhook does not post, as its settings call them"
    )
    callbacks_lost: Share = Field(0.0, description="Share of Twilio's callbacks that never leave it")
    scanner_clicks: bool = Field(True, description="A mail scanner's visits are reported as clicks")
    disguised_share: Share = Field(
        0.5,
        description="Share of mail scanners that call themselves browsers and come within a second of the delivery; "
        "the others say who they are",
    )
    previewed_share: Share = Field(
        0.3, description="Share of telephones that fetch the links of a text to draw a preview, and say so"
    )
    idless_share: Share = Field(
        0.5, description="Share of bounces after a delivery that carry no `sg_message_id` and no custom args"
    )
    sms_per_second: float = Field(
        1.0, ge=0, description="SMS parts a sender number hands over per second of plan time; 0 is no limit"
    )
    advanced_opt_out: bool = Field(False, description="Inbound webhooks of opt-outs carry `OptOutType`")
    people: Mapping[str, Role] = Field(
        default_factory=dict, description="What certain people do, by address or number", repr=False
    )

    @classmethod
    def calm(cls, **changes: object) -> Switches:
        """Return switches under which the providers behave as documented: each event once, and soon.

        `changes` are switches to set on top; InputError names those that cannot be.
        """
        calm: dict[str, object] = {
            "whole_request_refused": True,
            "errors_name_field": True,
            "nested_substitution": False,
            "clock_offset": 0.0,
            "late_seconds": 0.0,
            "logs_lag": 0.0,
            "logs_lowercase": False,
            "logs_busy_share": 0.0,
            "lists_busy_share": 0.0,
            "list_lag": 0.0,
            "duplicate_share": 0.0,
            "event_ids_change": False,
            "retries_resigned": True,
            "disorder": False,
            "stray_share": 0.0,
            "foreign_share": 0.0,
            "scanner_clicks": False,
            "disguised_share": 0.0,
            "idless_share": 0.0,
            "previewed_share": 0.0,
            "sms_per_second": 0.0,
        }
        return cls.of({**calm, **changes})

    @classmethod
    def of(cls, values: Mapping[str, object], *, place: str = "switches") -> Switches:
        """Return the switches given by name; InputError carries every one that is wrong."""
        return cls._checked(place, lambda: cls.model_validate(values))

    @classmethod
    def read(cls, text: str, *, place: str = "--switches") -> Switches:
        """Return the switches written as a JSON object; InputError carries every one that is wrong."""
        return cls._checked(place, lambda: cls.model_validate_json(text))

    @classmethod
    def _checked(cls, place: str, make: Callable[[], Switches]) -> Switches:
        try:
            return make()
        except ValidationError as error:
            raise InputError([cls._finding(place, problem) for problem in error.errors(include_input=False)]) from None

    @classmethod
    def _finding(cls, place: str, problem: ErrorDetails) -> Finding:
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] != "extra_forbidden":
            # Below `people` the path would show an address.
            return Finding(place=place, rule=problem["msg"], field=name, remedy="see the table of switches")
        near = get_close_matches(name, cls.model_fields, n=1)
        remedy = f"did you mean {near[0]}?" if near else "see the table of switches"
        return Finding(place=place, rule="there is no such switch", field=name, remedy=remedy)
