"""SendGrid's events are read as documented, believed only when signed, and never quoted."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook

from commplan.errors import ForgedError, UnreadableError
from commplan.receipts import agent, sendgrid
from commplan.terms import ReceiptKind
from tests.receipts import shapes

_OURS = {"cp_m": "A" * 22, "cp_a": "0" * 32}
_COMMON = {
    "email": "ann@person.example.com",
    "timestamp": 1764554400,
    "sg_event_id": "ZGVsaXZlcmVkLTAtMTg5",
    "sg_message_id": "Xj5LkYgbS3mMSqaL.recvd-85abf8d92c-3qfgp-2-7890E356-43C.0",
    **_OURS,
}


def read(*events: object) -> sendgrid.Parsed:
    return sendgrid.parse(json.dumps(events).encode() + b"\r\n")


@pytest.mark.parametrize("shape", shapes.SENDGRID, ids=str)
def test_each_documented_event_is_understood_and_nothing_it_shows_quotes_a_person(shape) -> None:
    event = shapes.sendgrid(shape, email="ann@person.example.com", timestamp=1764554400, **_OURS)
    (receipt,) = read(event).receipts
    assert (receipt.kind, receipt.code) == (shape.kind, shape.code)
    assert receipt.at == datetime.fromtimestamp(1764554400, UTC)
    assert (receipt.token, receipt.attempt_id) == ("A" * 22, "0" * 32)
    assert "person.example.com" not in repr(receipt)


def test_a_drop_that_names_no_address_and_an_account_event_that_names_no_message_are_understood() -> None:
    dropped = shapes.sendgrid(shapes.SENDGRID[5], email="", timestamp=1764554400, **_OURS)
    account = {
        "event": "account_status_change",
        "timestamp": 1764554400,
        "type": "compliance_suspend",
        "sg_event_id": "M",
    }
    found = [(receipt.kind, receipt.code, receipt.token) for receipt in read(dropped, account).receipts]
    assert found == [
        (ReceiptKind.DROPPED, "bounced_address", "A" * 22),
        (ReceiptKind.IGNORED, "account_status_change", None),
    ]


@pytest.mark.parametrize(
    "event",
    [{}, [], None, "open", 7, {"event": "open"}, {"timestamp": 1764554400}]
    + [{"event": "open", "timestamp": value} for value in (None, True, "", "x", [], {}, -1, 1e300, 1764554400000)]
    + [{"event": value, "timestamp": 1764554400} for value in (None, 3, [], "", " \x00")],
)
def test_an_event_that_does_not_say_what_happened_when_is_counted(event) -> None:
    parsed = read(event, {**_COMMON, "event": "open"})
    assert (len(parsed.receipts), parsed.unreadable) == (1, 1)


def test_a_time_written_as_text_is_a_time() -> None:
    assert read({**_COMMON, "event": "open", "timestamp": "1764554400"}).receipts[0].at is not None


def test_a_fact_keeps_its_key_when_the_event_id_changes_and_loses_it_when_the_fact_does() -> None:
    base = {**_COMMON, "event": "click", "url": "https://x.example.com/a"}

    def key(**changes: object) -> str:
        return read({**base, **changes}).receipts[0].key

    assert key(sg_event_id="other", ip="9.9.9.9") == key()
    others = [
        key(timestamp=1764554401),
        key(url="https://x.example.com/b"),
        key(cp_m="B" * 22),
        key(cp_a="1" * 32),
        key(event="open"),
        key(sg_message_id="other"),
        key(useragent="Barracuda Sentinel (EE)"),
    ]
    assert len({key(), *others}) == 8


def test_a_name_that_is_not_utf8_costs_no_event_of_its_batch() -> None:
    spoilt, next_one = ({"event": "open", "timestamp": 1764554400 + at, "useragent": "x"} for at in (0, 1))
    body = b"\xef\xbb\xbf" + json.dumps([spoilt, next_one]).encode().replace(b'"x"', b'"\xff\xfe"', 1)
    assert len(sendgrid.parse(body).receipts) == 2


@pytest.mark.parametrize("body", [b"", b"{}", b"nonsense", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_a_post_that_is_no_list_of_events_is_unreadable(body) -> None:
    with pytest.raises(UnreadableError):
        sendgrid.parse(body)


@given(st.binary())
def test_no_bytes_raise_anything_else(body) -> None:
    with contextlib.suppress(UnreadableError):
        sendgrid.parse(body)


def _key() -> tuple[ec.EllipticCurvePrivateKey, str]:
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private, b64encode(public).decode()


def _sign(private: ec.EllipticCurvePrivateKey, body: bytes, timestamp: str = "1764554400") -> dict[str, str]:
    signature = private.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    return {sendgrid.SIGNATURE_HEADER: b64encode(signature).decode(), sendgrid.TIMESTAMP_HEADER: timestamp}


def test_what_the_official_sdk_accepts_is_accepted() -> None:
    private, public = _key()
    body = '[{"event":"open","useragent":"你好"}]\r\n'
    headers = _sign(private, body.encode())
    official = EventWebhook(public)
    assert official.verify_signature(body, headers[sendgrid.SIGNATURE_HEADER], headers[sendgrid.TIMESTAMP_HEADER])
    sendgrid.verify(body.encode(), headers, [public])


def test_any_of_several_keys_may_have_signed_and_a_spoilt_one_does_no_harm() -> None:
    private, public = _key()
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    wrong_kind = b64encode(rsa_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    body = b"\xff\xfe not text"
    sendgrid.verify(body, _sign(private, body), ["", "not base64!", wrong_kind, _key()[1], public])
    with pytest.raises(ForgedError):
        sendgrid.verify(body, _sign(private, body), ["", "not base64!", wrong_kind, _key()[1]])


@given(signature=st.text(max_size=200), timestamp=st.text(max_size=20), body=st.binary(max_size=50))
def test_no_made_up_signature_is_accepted_or_breaks_anything(signature, timestamp, body) -> None:
    headers = {sendgrid.SIGNATURE_HEADER: signature, sendgrid.TIMESTAMP_HEADER: timestamp}
    with pytest.raises(ForgedError):
        sendgrid.verify(body, headers, [_PUBLIC])


_PUBLIC = _key()[1]


def test_what_we_take_a_program_for_makes_no_old_event_a_new_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    event = {
        "event": "click",
        "email": "p1@person.example.com",
        "timestamp": 1764554400,
        "sg_message_id": "Xj5L.recvd-1",
        "url": "https://example.com/setup",
        "useragent": "Barracuda Sentinel (EE)",
    }
    body = json.dumps([event, {**event, "useragent": "Mozilla/5.0 (Windows NT 10.0) Chrome/140.0"}]).encode()
    before = [receipt.key for receipt in sendgrid.parse(body).receipts]
    # As it is in ledgers: another key would count what is told again as something new.
    assert before[0] == "8ea63bdc738958618c0f4e275c86969689f6981b6627f5e4a73abdf6ba4e1c7b"
    # The table of names as an earlier version had it.
    monkeypatch.setattr(agent, "_PARTS", {})
    agent.classify.cache_clear()
    found = sendgrid.parse(body).receipts
    agent.classify.cache_clear()
    assert [receipt.machine_why for receipt in found] == [None, None]
    assert [receipt.key for receipt in found] == before
    assert len(set(before)) == 2
