"""Mail is read in the charset it came in; quotations, signatures and machines are told from what a person says."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commplan import returnaddress
from commplan.errors import UnreadableError
from commplan.ids import Keyring, MessageRef, RunId, TokenPurpose
from commplan.receipts import mail
from commplan.receipts.quotation import own_words, words_of_html
from commplan.terms import AutoWhy, ReceiptKind

KEYRING = Keyring("a secret")
REF = MessageRef(RunId(7), 3, 41)
TOKEN = KEYRING.token(TokenPurpose.REPLY, REF)
REPLY_TO = returnaddress.reply_address(returnaddress.tag_of(TOKEN), "reply.sender.example.com")


def post(
    fields: Mapping[str, str | bytes], *, boundary: str = "xYzZY", files: Mapping[str, bytes] | None = None
) -> bytes:
    """Return a post as Inbound Parse makes it, with the boundary that it always uses."""
    lines = []
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else value.encode()
        lines.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + data + b"\r\n")
    for name, data in (files or {}).items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.jpg"\r\n'
        lines.append((head + "Content-Type: image/jpeg\r\n\r\n").encode() + data + b"\r\n")
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


def written(text: str | bytes = "Thank you", *, headers: str = "", **fields: str | bytes) -> bytes:
    sender, to = str(fields.pop("sender", "p1@person.example.com")), str(fields.pop("to", REPLY_TO))
    envelope = json.dumps({"to": [to], "from": fields.pop("return_path", sender)})
    own = {"headers": f"Message-ID: <1@mail.example.com>\n{headers}", "to": to, "from": f"Ann <{sender}>", "text": text}
    return post({**own, "envelope": envelope, "subject": "Re: Welcome", "charsets": '{"text":"UTF-8"}', **fields})


def test_an_answer_carries_its_words_its_sender_and_the_token_of_the_address_it_came_to() -> None:
    receipt = mail.parse(written("Thank you,\r\nall works."))
    assert (receipt.kind, receipt.source, receipt.text) == (ReceiptKind.REPLIED, "sendgrid", "Thank you,\nall works.")
    assert receipt.address == "p1@person.example.com"
    assert KEYRING.open(receipt.token_purpose, receipt.token or "") == REF
    assert "person.example.com" not in repr(receipt)
    assert "all works" not in repr(receipt)


def test_an_address_of_ours_survives_a_mail_system_that_changes_capitals() -> None:
    assert REPLY_TO.lower() == REPLY_TO
    for told in (REPLY_TO.upper(), f"Shop <{REPLY_TO.title()}>", f"other@x.example.com, {REPLY_TO}"):
        assert returnaddress.read(told) == (TokenPurpose.REPLY, TOKEN)
    assert returnaddress.read("r+short@reply.sender.example.com") is None
    assert returnaddress.read("over+" + REPLY_TO) is None


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("gb2312", "gb18030"), ("GBK", "gbk"), ("big5", "big5"), ("utf-8", "utf-8"), ("UTF-16LE", "utf-16-le")],
)
def test_each_field_is_read_in_the_charset_that_is_told_for_it(charset: str, codec: str) -> None:
    text = "謝謝，我今晚就弄" if codec == "big5" else "谢谢，我今晚就弄"
    body = written(text.encode(codec), charsets=json.dumps({"text": charset, "subject": "UTF-8"}))
    assert mail.parse(body).text == text


@pytest.mark.parametrize(
    "charsets", ["", "[]", "{", '{"text": 7}', '{"text": "no-such"}', '{"text": "unicode_escape\\u0000"}']
)
def test_a_charset_that_nobody_knows_costs_odd_characters_and_not_the_mail(charsets: str) -> None:
    assert mail.parse(written("Grüße", charsets=charsets)).text == "Grüße"


@pytest.mark.parametrize(
    "below",
    [
        "On Tue, Dec 1, 2026 at 10:00 AM Kite <hello@sender.example.com> wrote:\n> Reply STOP to end",
        "On Tue, Dec 1, 2026 at 10:00 AM Kite\n<hello@sender.example.com> wrote:\n\nunsubscribe here",
        "-----Original Message-----\nFrom: Kite\nunsubscribe here",
        "________________________________\nFrom: Kite\nunsubscribe here",
        "From: Kite <hello@sender.example.com>\nSent: Tuesday\nTo: Ann\nSubject: Welcome\n\nunsubscribe here",
        "发件人: Kite\n发送时间: 2026年12月1日\n收件人: Ann\n主题: 欢迎\n\n退订请点这里",
        "------------------ 原始邮件 ------------------\n退订请点这里",
        "在 2026年12月1日，Kite <hello@sender.example.com> 写道：\n\n退订请点这里",
        "Kite <hello@sender.example.com> 于2026年12月1日周二 10:00写道：\n> 退订请点这里",
        '在 2026-12-01 10:00:00，"Kite" <hello@sender.example.com>\n写道：\n退订',
        "-- \nAnn\nTo unsubscribe from my mails, stop reading",
        "> unsubscribe here\n> and here",
        "Sent from my iPhone",
        "发自我的iPhone",
    ],
)
def test_what_is_quoted_or_signed_below_is_not_what_a_person_says(below: str) -> None:
    assert own_words(f"Thank you\n\n{below}") == "Thank you"
    assert mail.parse(written(f"STOP\n\n{below}")).kind is ReceiptKind.OPTED_OUT


@pytest.mark.parametrize(
    "own",
    [
        "On Monday I tried it.\nIt did not work.",
        "From: what I see it works\nand that is all",
        "在家里试了一下\n不错",
        "I wrote:\nnothing",
        "5 > 3, as you said",
    ],
)
def test_what_only_looks_like_a_quotation_stays(own: str) -> None:
    assert own_words(own) == own


def test_answers_between_the_lines_of_a_quotation_are_kept() -> None:
    assert own_words("> Does it work?\nYes\n> Is it fast?\nNo\n") == "Yes\nNo"


def test_a_line_before_a_quotation_is_not_taken_for_its_beginning() -> None:
    text = "On Monday it worked\nOn Tue, Dec 1, 2026, Kite <hello@sender.example.com> wrote:\n> Hello"
    assert own_words(text) == "On Monday it worked"


@pytest.mark.parametrize(
    "html",
    [
        '<p>Thank you<br></p><div class="gmail_quote">On … wrote:<blockquote>unsubscribe</blockquote></div>',
        '<style>p{}</style><div>Thank you</div><div id="appendonsend"></div><div>From: Kite</div><p>unsubscribe</p>',
        "<div>Thank&nbsp;you</div><blockquote type=cite><p>unsubscribe</blockquote>",
        "<html><head><title>unsubscribe</title></head><body><b>Thank</b> you",
    ],
)
def test_a_mail_of_html_alone_is_read_without_what_its_program_quotes(html: str) -> None:
    receipt = mail.parse(written("", html=html))
    assert (receipt.text or "").replace("\u00a0", " ") == "Thank you"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"headers": "Auto-Submitted: auto-replied"}, AutoWhy.HEADER),
        ({"headers": "Auto-Submitted: auto-generated; owner-email=x"}, AutoWhy.HEADER),
        ({"headers": "Precedence: auto_reply"}, AutoWhy.HEADER),
        ({"headers": "Precedence: Bulk"}, AutoWhy.HEADER),
        ({"headers": "X-Autoreply: yes"}, AutoWhy.HEADER),
        ({"headers": "X-Autorespond: vacation"}, AutoWhy.HEADER),
        ({"return_path": ""}, AutoWhy.RETURN_PATH),
        ({"return_path": "<>"}, AutoWhy.RETURN_PATH),
        ({"sender": "MAILER-DAEMON@person.example.com"}, AutoWhy.SENDER),
        ({"sender": "postmaster@person.example.com"}, AutoWhy.SENDER),
        ({"headers": "Content-Type: multipart/report; report-type=delivery-status"}, AutoWhy.SENDER),
        ({"subject": "Automatic reply: Welcome"}, AutoWhy.SUBJECT),
        ({"subject": "Out of office until Monday"}, AutoWhy.SUBJECT),
        ({"subject": "Undeliverable: Welcome"}, AutoWhy.SUBJECT),
        ({"subject": "自动回复：欢迎"}, AutoWhy.SUBJECT),
        ({"subject": "自動回覆: 歡迎"}, AutoWhy.SUBJECT),
        ({"subject": "=?utf-8?B?6Ieq5Yqo5Zue5aSNOiDmrKLov44=?="}, AutoWhy.SUBJECT),
    ],
)
def test_a_machines_answer_is_known_by_its_signs_and_kept(made: dict[str, str], why: AutoWhy) -> None:
    receipt = mail.parse(written("I am away. To unsubscribe ask my deputy.", **made))
    assert (receipt.kind, receipt.auto_why) == (ReceiptKind.AUTO_REPLIED, why)
    assert "I am away" in (receipt.text or "")


@pytest.mark.parametrize(
    "made",
    [
        {"headers": "Auto-Submitted: no"},
        {"subject": "Re: Welcome"},
        {"subject": "Re: Out of office hours?"},
        {"subject": "Automatic doors"},
        {"sender": "noreplyann@person.example.com"},
        {"headers": "Precedence: first-class"},
    ],
)
def test_a_persons_answer_is_not_taken_for_a_machines(made: dict[str, str]) -> None:
    assert mail.parse(written(**made)).kind is ReceiptKind.REPLIED


@pytest.mark.parametrize("said", ["STOP", "stop.", "Unsubscribe", "退订", "退訂！", "TD", "opt out"])
def test_a_mail_that_says_nothing_but_stop_opts_out(said: str) -> None:
    assert mail.parse(written(said)).kind is ReceiptKind.OPTED_OUT
    assert mail.parse(written("", subject=said)).kind is ReceiptKind.OPTED_OUT


def test_a_word_inside_a_longer_mail_is_an_answer_and_start_opts_nobody_in() -> None:
    for said in ("Please stop", "START", "help", "Where is the bus stop?"):
        assert mail.parse(written(said)).kind is ReceiptKind.REPLIED


def test_whatever_comes_to_an_opt_out_address_opts_out() -> None:
    stop = KEYRING.token(TokenPurpose.UNSUBSCRIBE, REF)
    to = returnaddress.unsubscribe_address(stop, "reply.sender.example.com")
    for made in ({}, {"headers": "Auto-Submitted: auto-generated"}, {"return_path": ""}, {"subject": "unsubscribe"}):
        receipt = mail.parse(written("", to=to, **made))
        assert (receipt.kind, receipt.token_purpose, receipt.token) == (
            ReceiptKind.OPTED_OUT,
            TokenPurpose.UNSUBSCRIBE,
            stop,
        )


def test_a_new_subject_is_among_the_words_and_the_old_one_is_not() -> None:
    assert mail.parse(written("See below", subject="Broken since Monday")).text == "Broken since Monday\n\nSee below"
    assert mail.parse(written("See below", subject="回复：欢迎")).text == "See below"


def test_the_requests_it_answers_are_told_newest_first() -> None:
    receipt = mail.parse(
        written(
            headers="In-Reply-To: <Xj5LrecvdXabcdef012345@geopod-ismtpd-1>\n"
            "References: <AAAALrecvdXabcdef01234A@geopod-ismtpd-1>\n <Xj5LrecvdXabcdef012345@geopod-ismtpd-1> <x@y>"
        )
    )
    assert receipt.references == ("Xj5LrecvdXabcdef012345", "AAAALrecvdXabcdef01234A")


def test_the_same_post_is_the_same_fact_and_another_mail_is_another() -> None:
    assert mail.parse(written("a")).key == mail.parse(written("a")).key
    assert len({mail.parse(written(text)).key for text in "abc"}) == 3


def test_files_are_not_kept_and_the_rest_is_read_as_before() -> None:
    fields = {"headers": "", "to": REPLY_TO, "from": "p1@person.example.com", "text": "See the picture"}
    body = post(fields, files={"attachment1": b"\xff\xd8" * 50_000, "attachment2": b"\r\n--xYzZ"})
    kept = mail.strip_files(body)
    assert len(kept) < 1_000
    assert b"filename" not in kept
    assert mail.parse(kept) == mail.parse(body)
    assert mail.strip_files(kept) == kept


def test_a_field_that_a_text_smuggles_in_does_not_replace_the_real_one() -> None:
    smuggled = 'x\r\n--xYzZY\r\nContent-Disposition: form-data; name="headers"\r\n\r\nAuto-Submitted: auto-replied'
    assert mail.parse(written(smuggled)).kind is ReceiptKind.REPLIED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--",
        b"a=1&b=2",
        b'--xYzZY\r\nContent-Disposition: form-data; name="headers"\r\n\r\ncut off',
        post({"headers": ""}),
        post({"email": "From: a\r\n\r\nraw", "to": "x"}),
    ],
)
def test_what_is_no_mail_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        mail.load(body)


_TEXT = st.text(max_size=200) | st.binary(max_size=200)


@given(
    fields=st.dictionaries(
        st.sampled_from(["to", "from", "subject", "text", "html", "envelope", "charsets", "SPF"]), _TEXT
    ),
    headers=_TEXT,
)
def test_no_mail_whatever_is_in_it_breaks_the_reading(fields: dict[str, str | bytes], headers: str | bytes) -> None:
    clean = {
        name: value.encode("utf-8", "replace") if isinstance(value, str) else value for name, value in fields.items()
    }
    head = headers.encode("utf-8", "replace") if isinstance(headers, str) else headers
    receipt = mail.parse(post({"headers": head, "to": b"", **clean}))
    assert receipt.kind in (ReceiptKind.REPLIED, ReceiptKind.AUTO_REPLIED, ReceiptKind.OPTED_OUT)
    (receipt.text or "").encode()


@given(html=st.text(alphabet="<>/ab \n\"'=&;!-blockquotediv", max_size=300))
def test_no_html_whatever_is_in_it_breaks_the_reading(html: str) -> None:
    words_of_html(html)


@pytest.mark.parametrize(
    "html",
    [
        "<a " * 60_000,
        "<!--" * 50_000,
        "<a>" * 25_000 + "</b>" * 25_000,
        "<b> " * 50_000,
        "<!" * 90_000,
        "<p \n" * 50_000,
    ],
    ids=["tags without an end", "comments without an end", "tags that end others", "blanks", "declarations", "lines"],
)
def test_no_html_however_it_is_made_occupies_who_reads_it(html: str) -> None:
    # Before, hours: the time-out of the tests is what would notice.
    words_of_html(html)
    assert mail.parse(written("", html=html)).kind is ReceiptKind.REPLIED


def test_html_is_read_as_programs_write_it() -> None:
    said = words_of_html(
        "<!DOCTYPE html><html><head><title>x</title><style>p > a {}</style></head><body><!-- <p>no</p> -->"
        "<P Class='Mso'>Fish &amp; chips,<br/>3 &lt; 4</P>\n <div\nid=x>  and   more</div>"
        '<div class="a gmail_quote">On Monday <blockquote>earlier</blockquote> wrote</div>after'
        "<div id=appendonsend></div><p>the earlier mail</p></body></html>"
    )
    assert said == "Fish & chips,\n3 < 4\nand more\nafter"


@pytest.mark.parametrize(
    "odd",
    [
        {"subject": "=?utf-8?B?a?="},
        {"subject": "=?UTF-8?B?5L2g5aW9a?="},
        {"sender": "(" * 5_000 + "p1@person.example.com"},
        {"headers": "To: \udcff@x\nCc: =?utf-8?B?a?=\nFrom: " + "(" * 5_000},
    ],
    ids=["subject", "cut off subject", "sender", "headers"],
)
def test_an_odd_mail_that_says_stop_opts_out_as_any_other(odd: dict[str, str]) -> None:
    odd = {name: value.encode("utf-8", "surrogatepass").decode("latin-1") for name, value in odd.items()}
    assert mail.parse(written("STOP", **odd)).kind is ReceiptKind.OPTED_OUT
