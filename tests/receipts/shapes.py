"""What providers post, field by field as it has been captured: one of every kind, and what must come of it.

People, addresses and our own ids are put in by whoever posts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commplan.terms import ReceiptKind

_CHROME = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Safari/537.36"
)
_APPLE_MAIL = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
_SMTP_ID = "<wrfRRvF7Q0GgwUo2CvDmEA@geopod-ismtpd-4>"
_SERVER = "recvd-85abf8d92c-3qfgp-2-7890E356-43C"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One event or callback; `fields` are those that only it has.

    What comes of it: a receipt of a `kind`, with a `code`; the message in a `state`, for a `reason`, with some
    `moments`; and the address on the suppression list, with scope and reason, or not.
    """

    name: str
    fields: Mapping[str, Any]
    kind: ReceiptKind
    code: str | None = None
    state: str = "accepted"
    reason: str | None = None
    moments: frozenset[str] = frozenset()
    suppressed: tuple[str, str] | None = None

    def __str__(self) -> str:
        return self.name


def _dropped(why: str, code: str, *, suppressed: tuple[str, str] | None = None, **more: Any) -> Shape:
    return Shape(
        name=f"dropped: {why}",
        # Dropped before it had a server: SendGrid's name of it does not begin with the request's.
        fields={"event": "dropped", "reason": why, "sg_message_id": "filter0093p1las1.9128.5717FB8127.0", **more},
        kind=ReceiptKind.DROPPED,
        code=code,
        state="failed",
        reason="dropped",
        moments=frozenset({"failed_at"}),
        suppressed=suppressed,
    )


#: SendGrid's events, without `email`, `timestamp`, ids of ours, and what all have in common.
SENDGRID = (
    Shape(
        name="processed",
        fields={
            "event": "processed",
            "smtp-id": _SMTP_ID,
            "send_at": 1764554400,
            "category": ["onboarding", "welcome"],
            "pool": {"name": "new_MY_test", "id": 210},
            "asm_group_id": 10,
        },
        kind=ReceiptKind.PROCESSED,
    ),
    Shape(
        name="deferred",
        fields={
            "event": "deferred",
            "smtp-id": _SMTP_ID,
            "response": "450 4.2.1 <p1@person.example.com>: receiving mail too fast",
            "attempt": "5",
            "domain": "person.example.com",
            "from": "hello@sender.example.com",
            "ip": "167.89.17.173",
            "tls": 0,
            "cert_err": 0,
            "status": "4.2.1",
        },
        kind=ReceiptKind.DEFERRED,
        code="4.2.1",
    ),
    Shape(
        name="delivered",
        fields={
            "event": "delivered",
            "smtp-id": _SMTP_ID,
            "response": "250 2.0.0 OK 1461095248 m143si2210036ioe.159 - gsmtp ",
            "ip": "167.89.17.173",
            "tls": 1,
            "category": "onboarding",
        },
        kind=ReceiptKind.DELIVERED,
        state="delivered",
        moments=frozenset({"delivered_at"}),
    ),
    Shape(
        name="bounce",
        fields={
            "event": "bounce",
            "type": "bounce",
            "smtp-id": _SMTP_ID,
            "reason": "550 5.1.1 <p1@person.example.com>: the email account that you tried to reach does not exist.",
            "status": "5.1.1",
            "bounce_classification": "Invalid Address",
            "ip": "167.89.17.173",
            "tls": 1,
        },
        kind=ReceiptKind.BOUNCED,
        code="5.1.1",
        state="failed",
        reason="bounced",
        moments=frozenset({"failed_at"}),
        suppressed=("all", "hard_bounce"),
    ),
    Shape(
        name="blocked",
        fields={
            "event": "bounce",
            "type": "blocked",
            "smtp-id": _SMTP_ID,
            "reason": "550 5.7.1 message rejected due to content restrictions",
            "status": "5.7.1",
            "bounce_classification": "Content",
            "ip": "167.89.17.173",
            "tls": 1,
        },
        kind=ReceiptKind.BLOCKED,
        code="5.7.1",
        state="failed",
        reason="blocked",
        moments=frozenset({"failed_at"}),
    ),
    _dropped("Bounced Address", "bounced_address", suppressed=("all", "hard_bounce"), status="5.0.0"),
    _dropped("Invalid", "invalid", suppressed=("all", "hard_bounce")),
    _dropped("Spam Reporting Address", "spam_reporting_address", suppressed=("all", "spam_report")),
    _dropped("Unsubscribed Address", "unsubscribed_address", suppressed=("getting-started", "unsubscribed")),
    _dropped("Recipient List over Package Quota", "over_quota"),
    _dropped("a reason of next year", "other"),
    Shape(
        name="open",
        fields={
            "event": "open",
            "ip": "66.102.6.229",
            "useragent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            "sg_content_type": "html",
        },
        kind=ReceiptKind.OPENED,
        moments=frozenset({"opened_at"}),
    ),
    Shape(
        name="open by a machine",
        fields={
            "event": "open",
            "ip": "104.28.57.73",
            "useragent": _APPLE_MAIL,
            "sg_content_type": "html",
            "sg_machine_open": True,
        },
        kind=ReceiptKind.MACHINE_OPENED,
        moments=frozenset({"machine_opened_at"}),
    ),
    Shape(
        name="open by a person",
        fields={
            "event": "open",
            "ip": "24.130.34.103",
            "useragent": _CHROME,
            "sg_content_type": "html",
            "sg_machine_open": False,
        },
        kind=ReceiptKind.OPENED,
        moments=frozenset({"opened_at"}),
    ),
    Shape(
        name="click",
        fields={
            "event": "click",
            "ip": "24.130.34.103",
            "useragent": _CHROME,
            "url": "https://shop.example.com/set-up?for=p1",
            "url_offset": {"index": 0, "type": "html"},
        },
        kind=ReceiptKind.CLICKED,
        moments=frozenset({"clicked_at"}),
    ),
    Shape(
        name="click by a scanner",
        fields={
            "event": "click",
            "ip": "209.222.82.9",
            "useragent": "Barracuda Sentinel (EE)",
            "url": "https://shop.example.com/set-up?for=p1",
            "url_offset": {"index": 1, "type": "html"},
        },
        kind=ReceiptKind.CLICKED,
        moments=frozenset({"machine_clicked_at"}),
    ),
    Shape(
        name="spamreport",
        fields={"event": "spamreport", "smtp-id": _SMTP_ID, "category": ["onboarding"]},
        kind=ReceiptKind.COMPLAINED,
        moments=frozenset({"complained_at"}),
        suppressed=("all", "spam_report"),
    ),
    Shape(
        name="unsubscribe",
        fields={"event": "unsubscribe", "category": "onboarding"},
        kind=ReceiptKind.OPTED_OUT,
        moments=frozenset({"opted_out_at"}),
        suppressed=("getting-started", "unsubscribed"),
    ),
    Shape(
        name="group_unsubscribe",
        fields={
            "event": "group_unsubscribe",
            "ip": "24.130.34.103",
            "useragent": _CHROME,
            "url": "https://u1.ct.sendgrid.net/asm/unsubscribe/?user_id=1",
            "asm_group_id": 10,
        },
        kind=ReceiptKind.OPTED_OUT,
        moments=frozenset({"opted_out_at"}),
        suppressed=("getting-started", "unsubscribed"),
    ),
    Shape(
        name="group_resubscribe",
        fields={
            "event": "group_resubscribe",
            "ip": "24.130.34.103",
            "useragent": _CHROME,
            "url": "https://u1.ct.sendgrid.net/asm/resubscribe/?user_id=1",
            "asm_group_id": 10,
        },
        kind=ReceiptKind.OPTED_IN,
    ),
    Shape(
        name="a type of next year",
        fields={"event": "forwarded", "to": "somebody@person.example.com"},
        kind=ReceiptKind.IGNORED,
        code="forwarded",
    ),
)


def sendgrid(shape: Shape, *, email: str, timestamp: int, **ours: str) -> dict[str, Any]:
    """Return an event as SendGrid posts it about one recipient, with the custom args of `ours` merged in."""
    return {
        "email": email,
        "timestamp": timestamp,
        "sg_event_id": "ZyjAM5rnQmuI1KFInHQ3Nw",
        "sg_message_id": f"wrfRRvF7Q0GgwUo2CvDmEA.{_SERVER}.0",
        **ours,
        **shape.fields,
    }


def _status(status: str, kind: ReceiptKind, code: str | None = None, **more: Any) -> Shape:
    fields = {"MessageStatus": status, "SmsStatus": status}
    if code is not None:
        fields |= {"ErrorCode": code, "ErrorMessage": "+12025550001 is what the carrier says"}
    name = status if code is None else f"{status}: {code}"
    return Shape(name=name, fields=fields, kind=kind, code=code, **more)


_DELIVERED = frozenset({"delivered_at"})
_FAILED: dict[str, Any] = {"state": "failed", "reason": "undelivered", "moments": frozenset({"failed_at"})}

#: Twilio's statuses of a text; every one of its codes that says something of the number, and one that does not.
TWILIO = (
    *(_status(word, ReceiptKind.PROCESSED) for word in ("accepted", "scheduled", "queued", "sending")),
    _status("sent", ReceiptKind.SENT, moments=frozenset({"sent_at"})),
    _status("delivered", ReceiptKind.DELIVERED, state="delivered", moments=_DELIVERED),
    _status("read", ReceiptKind.OPENED, moments=frozenset({"opened_at"})),
    _status("canceled", ReceiptKind.UNDELIVERED, **_FAILED),
    _status("failed", ReceiptKind.UNDELIVERED, "30007", **_FAILED),
    _status("failed", ReceiptKind.UNDELIVERED, "21610", suppressed=("all", "stop"), **_FAILED),
    _status("undelivered", ReceiptKind.UNDELIVERED, "30003", **_FAILED),
    _status("undelivered", ReceiptKind.UNDELIVERED, "30005", suppressed=("all", "invalid_number"), **_FAILED),
    _status("undelivered", ReceiptKind.UNDELIVERED, "30006", suppressed=("all", "invalid_number"), **_FAILED),
    Shape(
        name="a status of next year",
        fields={"MessageStatus": "partially_delivered", "SmsStatus": "partially_delivered"},
        kind=ReceiptKind.IGNORED,
        code="partially_delivered",
    ),
)


def twilio_status(shape: Shape, *, phone: str, sid: str) -> dict[str, str]:
    """Return the form of a status callback about a text to `phone`."""
    return {
        "SmsSid": sid,
        "MessageSid": sid,
        "AccountSid": "AC" + "1" * 32,
        "MessagingServiceSid": "MG" + "1" * 32,
        "From": "+15017122661",
        "To": phone,
        "ApiVersion": "2010-04-01",
        "RawDlrDoneDate": "2612010930",
        **shape.fields,
    }


def twilio_inbound(body: str, *, phone: str, sid: str, **more: str) -> dict[str, str]:
    """Return the form of a text that somebody wrote from `phone`."""
    return {
        "ToCountry": "US",
        "ToState": "CA",
        "SmsMessageSid": sid,
        "NumMedia": "0",
        "ToCity": "",
        "FromZip": "",
        "SmsSid": sid,
        "FromState": "DC",
        "SmsStatus": "received",
        "FromCity": "WASHINGTON",
        "Body": body,
        "FromCountry": "US",
        "To": "+15017122661",
        "MessagingServiceSid": "MG" + "1" * 32,
        "ToZip": "94040",
        "NumSegments": "1",
        "MessageSid": sid,
        "AccountSid": "AC" + "1" * 32,
        "From": phone,
        "ApiVersion": "2010-04-01",
        **more,
    }
