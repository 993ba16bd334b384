"""Twilio's callbacks are believed only when signed for the address they came to, and texts are judged as a whole."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from commplan.errors import ForgedError, UnreadableError
from commplan.receipts import twilio
from commplan.receipts.twilio import START_WORDS, STOP_WORDS, judge, read_form
from commplan.terms import ReceiptKind
from tests.receipts import shapes

#: The vector that Twilio publishes in its documentation.
_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
_FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}
_SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def check(url: str = _URL, form: object = _FORM, signature: str = _SIGNATURE, token: str = "12345") -> None:
    body = form if isinstance(form, bytes) else urlencode(form).encode()  # type: ignore[arg-type]
    twilio.verify([url], body, {twilio.SIGNATURE_HEADER: signature}, [token])


def test_the_published_vector_is_accepted() -> None:
    check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://mycompany.com/myapp.php?bar=2&foo=1"},
        {"url": "https://mycompany.com/myapp.php"},
        {"url": "https://othercompany.com/myapp.php?foo=1&bar=2"},
        {"form": {**_FORM, "Digits": "4321"}},
        {"form": {**_FORM, "Extra": ""}},
        {"form": b"\xff"},
        {"form": b"&".join(b"a=1" for _ in range(1_000))},
        {"signature": ""},
        {"signature": "RSOYDt4T1cUTdK1PDd93/VVr8B9="},
        {"signature": "é"},
        {"token": "54321"},
        {"token": ""},
    ],
)
def test_anything_else_is_a_forgery(wrong) -> None:
    with pytest.raises(ForgedError):
        check(**wrong)


def test_blank_and_repeated_fields_are_part_of_what_is_signed() -> None:
    body = b"MessageSid=SM1&ErrorCode=&MediaUrl=b&MediaUrl=a&Body=%E4%BD%A0+%2B"
    signature = RequestValidator("k").compute_signature(_URL, read_form(body))
    check(form=body, signature=signature, token="k")
    with pytest.raises(ForgedError):
        check(form=body.replace(b"&ErrorCode=", b""), signature=signature, token="k")


def test_a_signature_with_the_newer_algorithm_is_accepted_when_it_is_announced() -> None:
    headers = {
        twilio.SIGNATURE_HEADER: RequestValidator("k").compute_signature(_URL, _FORM, "HMAC_SHA256"),
        "x-twilio-webhooks-signature-settings": "key=SK1,algorithm=HMAC_SHA256",
    }
    twilio.verify([_URL], urlencode(_FORM).encode(), headers, ["k"])


@pytest.mark.parametrize("shape", shapes.TWILIO, ids=str)
def test_each_status_is_understood_and_nothing_it_shows_quotes_a_person(shape) -> None:
    form = shapes.twilio_status(shape, phone="+12025550123", sid="SM1")
    for word in (form["MessageStatus"], form["MessageStatus"].title()):
        body = urlencode(form | {"MessageStatus": word}).encode()
        receipt = twilio.parse_status({"m": "t", "a": "x"}, read_form(body))
        assert (receipt.kind, receipt.code) == (shape.kind, shape.code)
        assert (receipt.token, receipt.attempt_id, receipt.provider_id, receipt.at) == ("t", "x", "SM1", None)
        assert "202555" not in repr(receipt)


def test_a_status_is_one_fact_however_often_it_is_told() -> None:
    def key(**fields: str) -> str:
        form = {"MessageSid": "SM1", "MessageStatus": "sent", **fields}
        return twilio.parse_status({"m": "t"}, read_form(urlencode(form).encode())).key

    assert key() == key(RawDlrDoneDate="2612010930", ApiVersion="x")
    assert len({key(), key(MessageStatus="delivered"), key(MessageSid="SM2")}) == 3


@pytest.mark.parametrize("code", ["30005", "21610"])
def test_an_error_code_is_kept_and_its_words_are_not(code) -> None:
    form = read_form(f"MessageSid=SM1&MessageStatus=failed&ErrorCode={code}&ErrorMessage=to+%2B12025550123".encode())
    receipt = twilio.parse_status({}, form)
    assert receipt.code == code
    assert "2025550123" not in repr(receipt)


@pytest.mark.parametrize("code", ["", "x", "3000", "300055", "+1202"])
def test_what_is_no_error_code_is_not_kept_as_one(code) -> None:
    body = urlencode({"MessageSid": "SM1", "MessageStatus": "failed", "ErrorCode": code}).encode()
    assert twilio.parse_status({}, read_form(body)).code is None


@pytest.mark.parametrize("body", [b"", b"MessageSid=SM1", b"MessageStatus=sent", b"MessageSid=&MessageStatus=sent"])
def test_a_callback_without_message_or_status_is_unreadable(body) -> None:
    with pytest.raises(UnreadableError):
        twilio.parse_status({}, read_form(body))


@pytest.mark.parametrize("body", [b"", b"Body=hello", b"From=%2B12025550123", b"MessageSid=SM1&Body=x"])
def test_a_text_without_sender_or_id_is_unreadable(body) -> None:
    with pytest.raises(UnreadableError):
        twilio.parse_inbound(read_form(body))


def test_a_text_shows_neither_its_words_nor_its_sender() -> None:
    body = urlencode({"MessageSid": "SM1", "From": "+12025550123", "Body": "my secret"}).encode()
    receipt = twilio.parse_inbound(read_form(body))
    assert (receipt.address, receipt.text) == ("+12025550123", "my secret")
    assert "2025550123" not in repr(receipt)
    assert "secret" not in repr(receipt)


@pytest.mark.parametrize("word", sorted(STOP_WORDS))
@pytest.mark.parametrize("shape", ["{}", " {} ", "{}.", "“{}”", "【{}】", "{}!!!", "\n{}\n"])
def test_a_keyword_alone_opts_out_whatever_is_around_it(word, shape) -> None:
    for written in (word, word.upper(), word.title()):
        assert judge(shape.format(written)) is ReceiptKind.OPTED_OUT


@given(st.sampled_from(sorted(STOP_WORDS | START_WORDS)), st.text(st.characters(categories=["L", "N"]), min_size=1))
def test_a_keyword_with_another_word_beside_it_is_a_reply(word, other) -> None:
    if " ".join((word, other)).casefold() in STOP_WORDS:
        return
    sentence = f"{other} {word} {other}"
    assert judge(sentence) is ReceiptKind.REPLIED


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("START", ReceiptKind.OPTED_IN),
        ("unstop", ReceiptKind.OPTED_IN),
        ("HELP", ReceiptKind.IGNORED),
        ("info?", ReceiptKind.IGNORED),
        ("YES", ReceiptKind.REPLIED),
        ("回复T退订", ReceiptKind.REPLIED),
        ("bus stop", ReceiptKind.REPLIED),
        ("", ReceiptKind.REPLIED),
        ("👍", ReceiptKind.REPLIED),
    ],
)
def test_other_texts_are_what_they_are(text, kind) -> None:
    assert judge(text) is kind


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("STOP", ReceiptKind.OPTED_OUT),
        ("START", ReceiptKind.OPTED_IN),
        ("HELP", ReceiptKind.IGNORED),
        ("", ReceiptKind.REPLIED),
        ("NEW", ReceiptKind.REPLIED),
    ],
)
def test_the_providers_judgement_counts_before_ours(told, kind) -> None:
    body = urlencode({"MessageSid": "SM1", "From": "+12025550123", "Body": "hello", "OptOutType": told}).encode()
    assert twilio.parse_inbound(read_form(body)).kind is kind
