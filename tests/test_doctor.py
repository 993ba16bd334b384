"""The doctor: what is missing, and proving that a provider fills placeholders as it should."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email import policy
from email.message import EmailMessage
from html import escape, unescape
from pathlib import Path

import pytest
from sqlalchemy import update

from commplan import batching
from commplan.batching import Proof
from commplan.channels.base import open_gateways
from commplan.channels.email_sendgrid import MOST_SUBSTITUTION_BYTES
from commplan.clock import Clock
from commplan.content.skeleton import values_size
from commplan.doctor import judge, read_addresses, read_arrival, seen_by_sandbox, send_proof
from commplan.doctor.specimen import LONG, Mail, Specimen
from commplan.errors import FenceError, InputError, RejectedError, RunError, UnknownError
from commplan.ids import AttemptId, Keyring
from commplan.ledger import standstill
from commplan.sandbox import SandboxConfig, Switches, generate_key, running
from commplan.settings import EmailSettings, Settings, SmsSettings
from commplan.store import Store, open_store
from commplan.store.tables import store_info
from tests.conftest import NOON, PLAIN
from tests.test_cli import Done, command, require, run

__all__ = ["command"]

TO = ["one@person.example.com", "Two@Person.example.com", "three@person.example.com"]
KEY = "SG.of-the-tests"
KEYRING = Keyring("a secret of the tests")


PRIVATE, PUBLIC = generate_key()
RECEIVER = "http://127.0.0.1:9"


def emulated(**switches: object) -> SandboxConfig:
    """Return the set-up of a sandbox that posts to `RECEIVER`."""
    return SandboxConfig(
        api_key=KEY,
        account_sid="AC1",
        auth_token="t",
        webhook_private_key=PRIVATE,
        public_url=RECEIVER,
        clock=Clock.real(),
        switches=Switches.calm(nested_substitution=True, **switches),
    )


@pytest.fixture
def sandbox() -> Iterator[str]:
    with running(emulated()) as url:
        yield url


@pytest.fixture
def specimen() -> Specimen:
    return Specimen("cp-0123456789-", AttemptId("a" * 32))


def proof_of(specimen: Specimen) -> Proof:
    keys = tuple(KEYRING.address_key("email", address.casefold()) for address in TO)
    return Proof(
        attempt_id=specimen.mark,
        placeholder=specimen.placeholder,
        address_keys=keys,
        sent_at=NOON,
        sent_by="ops",
    )


def save(folder: Path, mails: Sequence[Mail], *, to: Sequence[str] = TO, encoding: str | None = None) -> list[Path]:
    """Write mails down as a mail program saves them."""
    files = []
    for number, (mail, address) in enumerate(zip(mails, to, strict=True), 1):
        message = EmailMessage(policy=policy.SMTP)
        message["From"] = "hello@sender.example.com"
        message["To"] = f"Somebody <{address}>"
        message["Subject"] = mail.subject
        message.set_content(mail.text, cte=encoding)
        if mail.html:
            message.add_alternative(mail.html, subtype="html", cte=encoding)
        files.append(folder / f"{number}.eml")
        files[-1].write_bytes(message.as_bytes())
    return files


def found(specimen: Specimen, files: Sequence[Path]) -> list[str]:
    return [str(finding) for finding in judge(KEYRING, proof_of(specimen), [read_arrival(one) for one in files])]


def test_the_specimen_fills_what_a_request_may_carry_and_has_what_is_awkward(specimen):
    batch = specimen.batch(TO)
    sizes = [values_size(batch.placeholders, each.values) for each in batch.recipients]
    assert max(sizes) <= MOST_SUBSTITUTION_BYTES
    longest = [max(len(value.encode()) for value in each.values) for each in batch.recipients]
    assert [size > 0.95 * LONG for size in longest] == [False, True, True]
    joined = ["\n".join(each.values) for each in batch.recipients]
    assert not any(specimen.placeholder in values for values in joined)
    assert "&amp;amp;" in joined[1]
    assert all("href=" in mail.html for mail in specimen.meant())


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64", "8bit"])
def test_mails_that_arrive_as_they_were_meant_are_right_whatever_their_encoding(specimen, tmp_path, encoding):
    mails = specimen.meant()
    assert found(specimen, save(tmp_path, mails, encoding=encoding)) == []


def test_what_mail_systems_may_do_is_no_difference(specimen, tmp_path):
    def carried(mail: Mail) -> Mail:
        counter = '<img src="https://u1.ct.sendgrid.net/wf/open?upn=u001" alt="" width="1" height="1">'
        html = mail.html.replace("</body>", f"{counter}</body>").replace("<html>", "<html >").replace("&#39;", "'")
        html = html.replace(' clicktracking="off"', "").replace("</p>\n", "</p>  \r\n").replace("&#34;", "&quot;")
        return replace(mail, text=mail.text.replace("\n", "  \n") + "\n\n", html=html)

    assert found(specimen, save(tmp_path, [carried(mail) for mail in specimen.meant()])) == []


def broken(number: int, **changes: Callable[[str], str]) -> Callable[[Sequence[Mail]], list[Mail]]:
    """Return what spoils parts of one person's mail."""

    def spoil(mails: Sequence[Mail]) -> list[Mail]:
        mail = mails[number - 1]
        parts = {name: change(getattr(mail, name)) for name, change in changes.items()}
        assert all(parts[name] != getattr(mail, name) for name in parts)
        return [replace(mail, **parts) if one is mail else one for one in mails]

    return spoil


#: What goes wrong on the way, and what is said of it.
SPOILT: dict[str, tuple[Callable[[Sequence[Mail]], list[Mail]], list[str]]] = {
    "a look-alike is filled": (
        broken(1, subject=lambda s: s.replace("-name-", "Ada"), text=lambda s: s.replace("{{name}}", "", 1)),
        [r"person 1, subject: .*only looks like a placeholder: .*“Ada”", "person 1, text: it is cut short: .*|.*only"],
    ),
    "a tag in other letters is filled": (
        broken(1, html=lambda s: s.replace("CP-0123456789-0-", "Ada")),
        ["person 1, HTML: .*only looks like a placeholder", "person 1, attribute in the HTML: .*only looks like"],
    ),
    "a placeholder is not filled": (
        broken(2, text=lambda s: s.replace("Name: Ada", "Name: cp-0123456789-0-")),
        ["person 2, text: a placeholder arrived as it is"],
    ),
    "entities are escaped twice": (
        broken(2, html=lambda s: s.replace("Name: ", "Name: ").replace("&amp;", "&amp;amp;")),
        [
            "person 2, HTML: entities are escaped once too often",
            "person 2, link in the HTML: entities are escaped once too often",
            "person 2, attribute in the HTML: entities are escaped once too often",
        ],
    ),
    "one entity is escaped twice": (
        broken(2, html=lambda s: s.replace(">Ada &amp; Bob", ">Ada &amp;amp; Bob")),
        ["person 2, HTML: entities are escaped once too often"],
    ),
    "text is escaped as if it were HTML": (
        broken(2, subject=escape, text=lambda s: s.replace("Ada & Bob <ada>", "Ada &amp; Bob &lt;ada&gt;")),
        ["person 2, subject: entities .*too often", "person 2, text: entities .*too often"],
    ),
    "entities are escaped too seldom": (
        broken(2, html=lambda s: s.replace("&amp;lt;b&amp;gt;", "&lt;b&gt;")),
        ["person 2, HTML: entities .*too seldom", "person 2, attribute in the HTML: entities .*too seldom"],
    ),
    "HTML is not escaped": (
        broken(2, html=lambda s: re.sub(r"(?<=>)Ada.*?(?=</b>)", lambda found: unescape(found[0]), s)),
        ["person 2, HTML: ", "person 2, elements of the HTML: "],
    ),
    "a long text is cut short": (
        broken(2, text=lambda s: s.replace(s[4_000:5_000], "")),
        ["person 2, text: it is cut short: 1,000 characters are missing"],
    ),
    "a long text is cut at 8 kB": (
        broken(3, html=lambda s: s.replace(s[-1_100:-60], "")),
        ["person 3, HTML: it is cut short: 1,040 characters are missing"],
    ),
    "CJK in the wrong character set": (
        broken(3, text=lambda s: s.encode().decode("latin-1")),
        ["person 3, text: characters are damaged"],
    ),
    "CJK as question marks": (
        broken(3, subject=lambda s: s.encode("ascii", "replace").decode()),
        ["person 3, subject: characters are damaged"],
    ),
    "characters beyond 16 bits are lost": (
        broken(3, html=lambda s: s.replace("𠮷", "��").replace("🎉", "��")),
        ["person 3, HTML: characters are damaged", "person 3, attribute in the HTML: characters are damaged"],
    ),
    "links are rewritten": (
        broken(1, html=lambda s: re.sub('href="[^"]+"', 'href="https://u1.ct.sendgrid.net/ls/click?upn=u001"', s)),
        ["person 1, link in the HTML: a link was rewritten: it leads to u1.ct.sendgrid.net; turn off"],
    ),
    "a link in the text is rewritten": (
        broken(2, text=lambda s: s.replace("https://example.com/", "https://safe.example.net/?url=")),
        ["person 2, text: a link was rewritten: it leads to safe.example.net"],
    ),
    "a link loses its query": (
        broken(2, html=lambda s: s.replace('&amp;copy=2&amp;amp=3&amp;d=%C3%A9#e&#39;f"', '"')),
        ["person 2, link in the HTML: it is cut short"],
    ),
    "the HTML is left out": (broken(2, html=lambda s: ""), ["person 2, HTML: it is not there"]),
    "the name of somebody else": (
        broken(3, text=lambda s: s.replace("林黛玉，𠮷野家「読書」 한국어 🎉", "Ada")),
        ["person 3, text: .*was meant and “Ada” arrived"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_arrives_otherwise_is_named_by_person_part_rule_and_remedy(specimen, tmp_path, what):
    spoil, expected = SPOILT[what]
    told = found(specimen, save(tmp_path, spoil(specimen.meant())))
    assert len(told) == len(expected)
    for one, pattern in zip(told, expected, strict=True):
        assert re.match(pattern, one), one
        assert "; " in one


def test_people_who_get_each_others_mail_are_noticed(specimen, tmp_path):
    first, second, third = specimen.meant()
    told = found(specimen, save(tmp_path, [second, first, third]))
    assert {one.partition(",")[0] for one in told} == {"person 1", "person 2"}


def test_mails_that_are_missing_foreign_or_passed_on_are_named(specimen, tmp_path):
    mails = specimen.meant()
    files = save(tmp_path, mails)
    assert found(specimen, files[:2]) == ["person 3: no mail to them is there; name all three mails, or wait"]
    older = Specimen("cp-9876543210-", AttemptId("b" * 32))
    (tmp_path / "older").mkdir()
    told = found(specimen, [*files, *save(tmp_path / "older", older.meant())])
    assert len(told) == 3
    assert all("no mail of the latest proof" in one for one in told)
    (tmp_path / "passed").mkdir()
    passed_on = save(tmp_path / "passed", mails, to=[*TO[:2], "else@person.example.com"])
    assert ["its To is none" in one for one in found(specimen, passed_on)] == [True, False]
    assert found(specimen, [*files, files[0]]) == []


def test_a_file_that_is_no_mail_is_refused(tmp_path):
    page = tmp_path / "page.eml"
    page.write_text("<html><p>Proof</p></html>", encoding="utf-8")
    with pytest.raises(InputError, match="it is not a mail"):
        read_arrival(page)
    page.write_bytes(b"To: a@example.org\r\nContent-Type: text/plain; charset=klingon\r\n\r\nhe\xffllo")
    with pytest.raises(InputError, match="in no encoding that is known"):
        read_arrival(page)


def live(store: Store) -> Store:
    """Call the store one of real providers; the gateways of the test still lead to the sandbox."""
    with store.write() as connection:
        connection.execute(update(store_info).values(kind="live", environment="production"))
    return store


def at(settings: Settings, url: str) -> Settings:
    return settings.model_copy(
        update={
            "email": EmailSettings(base_url=url, api_key=KEY, timeout=2),
            "sms": SmsSettings(base_url=url),
            "default_region": "US",
        }
    )


def test_who_a_proof_goes_to_is_inside_the_fence(store, settings):
    live(store)
    with pytest.raises(FenceError, match="COMMPLAN_ALLOW_LIST"):
        read_addresses(store, settings, TO[:1])
    listed = settings.model_copy(update={"allow_list": ("Two@person.example.com",)})
    with pytest.raises(FenceError):
        read_addresses(store, listed, TO)
    assert read_addresses(store, listed, TO[1:2]) == [f"Two+commplan{n}@person.example.com" for n in (1, 2, 3)]
    with pytest.raises(FenceError):
        read_addresses(store, settings.model_copy(update={"live": "staging"}), TO)
    there = settings.model_copy(update={"live": "production"})
    assert [one.casefold() for one in read_addresses(store, there, TO)] == [one.casefold() for one in TO]
    for wrong in ([], TO[:2], ["no address"], [TO[0], TO[1], TO[0].upper()]):
        with pytest.raises(InputError) as raised:
            read_addresses(store, there, wrong)
        assert "person.example.com" not in str(raised.value)


def test_a_proof_is_one_request_through_the_gateway_and_its_arrival_makes_live_mail_share_requests(
    store, settings, sandbox, tmp_path
):
    live(store)
    there = at(settings, sandbox).model_copy(update={"live": "production"})
    gateways = open_gateways(there, channels=["email"])
    assert "doctor --live-batch" in (batching.why_unbatched(store, there) or "")
    proof = send_proof(store, there, gateways.email, read_addresses(store, there, TO), by="ops")
    assert batching.last_sent(store, there) == proof
    seen = seen_by_sandbox(there, proof)
    assert judge(KEYRING, proof, seen) == []
    files = save(tmp_path, [Mail(subject=one.subject, text=one.text, html=one.html) for one in seen])
    assert judge(KEYRING, proof, [read_arrival(file) for file in files]) == []
    assert batching.why_unbatched(store, there) is not None, "nobody has said that it passed"
    batching.note_passed(store, proof, by="ops")
    assert batching.why_unbatched(store, there) is None
    passed = batching.last_passed(store, there)
    assert passed is not None
    assert (passed.passed_by, passed.sent_by) == ("ops", "ops")
    gateways.close()


def test_a_proof_that_was_not_sent_leaves_nothing_and_one_in_doubt_is_kept(store, settings, sandbox):
    import httpx

    there = at(settings, sandbox)
    gateways = open_gateways(there, channels=["email"])
    with pytest.raises(RejectedError):
        send_proof(store, there, gateways.email, [TO[0], TO[0], TO[2]], by="ops")
    assert batching.last_sent(store, there) is None
    standstill.stop_all(store, by="ops", reason=None)
    with pytest.raises(RunError, match="everything is stopped"):
        send_proof(store, there, gateways.email, TO, by="ops")
    standstill.lift_stop(store, by="ops", reason=None)
    fault = {"channel": "email", "fault": "accept_then_close", "times": 1}
    httpx.post(f"{sandbox}/sandbox/faults", json=fault, **PLAIN).raise_for_status()
    with pytest.raises(UnknownError):
        send_proof(store, there, gateways.email, TO, by="ops")
    kept = batching.last_sent(store, there)
    assert kept is not None
    assert judge(KEYRING, kept, seen_by_sandbox(there, kept)) == []
    gateways.close()


def environment(url: str) -> dict[str, str]:
    return {
        "COMMPLAN_EMAIL__BASE_URL": url,
        "COMMPLAN_SMS__BASE_URL": url,
        "COMMPLAN_EMAIL__API_KEY": KEY,
        "COMMPLAN_SMS__ACCOUNT_SID": "AC1",
        "COMMPLAN_SMS__AUTH_TOKEN": "t",
        "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([PUBLIC]),
        "COMMPLAN_PUBLIC_URL": RECEIVER,
    }


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(command, sandbox):
    bare = command("doctor")
    assert bare.returncode == 1
    for words in ("commplan db upgrade", "COMMPLAN_EMAIL__API_KEY", "COMMPLAN_SMS__AUTH_TOKEN", "WEBHOOK_KEYS"):
        assert words in bare.stdout
    given = environment(sandbox)
    require(command("db", "upgrade", **given), 0)
    require(command("doctor", **given), 0, "for rehearsals", "nobody is reached", "takes connections")
    require(command("doctor", COMMPLAN_EMAIL__BATCHING="off", **given), 0, "off, as COMMPLAN_EMAIL__BATCHING says")
    require(command("doctor", COMMPLAN_EMAIL__BATCHING="on", **given), 2, "COMMPLAN_EMAIL__BATCHING", "'off'")
    others = {**given, "COMMPLAN_EMAIL__WEBHOOK_KEYS": json.dumps([generate_key()[1]])}
    assert "signed with a key that is not ours" in command("doctor", **others).stdout
    elsewhere = command("doctor", **{**given, "COMMPLAN_PUBLIC_URL": "http://127.0.0.1:10"})
    assert "no event webhook of the account posts to" in " ".join(elsewhere.stdout.split())
    with running(emulated(events_off=("click", "open"))) as url:
        off = {"COMMPLAN_EMAIL__BASE_URL": url, "COMMPLAN_SMS__BASE_URL": url}
        assert "open, click are off" in command("doctor", **{**given, **off}).stdout
    for domain, leads_to, says in (
        ("reply.example.com", RECEIVER, "mail to reply.example.com is posted to us"),
        ("other.example.com", RECEIVER, "Inbound Parse does not know other.example.com"),
        ("reply.example.com", "http://127.0.0.1:10", "let it lead to"),
    ):
        with running(replace(emulated(), inbound_domain="reply.example.com", public_url=leads_to)) as url:
            hearing = {
                **given,
                "COMMPLAN_EMAIL__BASE_URL": url,
                "COMMPLAN_SMS__BASE_URL": url,
                "COMMPLAN_EMAIL__INBOUND_DOMAIN": domain,
                "COMMPLAN_EMAIL__INBOUND_KEYS": json.dumps([PUBLIC]),
            }
            assert says in " ".join(command("doctor", **hearing).stdout.split())
    nobody = command("doctor", **{**given, "COMMPLAN_EMAIL__BASE_URL": "http://127.0.0.1:9"})
    assert nobody.returncode == 1
    assert "start `commplan sandbox`" in nobody.stdout
    live_urls = {"COMMPLAN_EMAIL__BASE_URL": "https://127.1.1.1.invalid", "COMMPLAN_SMS__BASE_URL": "https://a.invalid"}
    wrong = command("doctor", **{**given, **live_urls})
    assert wrong.returncode == 1
    for words in ("created for sandbox providers", "COMMPLAN_PUBLIC_URL"):
        assert words in wrong.stdout


def test_against_the_sandbox_the_proof_needs_no_files(command, sandbox):
    given = environment(sandbox)
    said = require(command("doctor", "--live-batch", **given), 0, "SANDBOX", "as they were meant")
    assert "unbatched" not in said
    require(command("doctor", "--live-batch", "--to", TO[0], "--by", "me", **given), 0, "SANDBOX")
    refused = command("doctor", "--live-batch", "--to", TO[0], "--to", TO[1], **given)
    require(refused, 2, "2 addresses are given", "+commplan1")
    require(command("doctor", "--to", TO[0], **given), 2, "--live-batch")
    require(command("doctor", "--live-batch", "--arrived", **given), 2, "the files of its three mails")
    require(command("doctor", "--live-batch", "a.eml", **given), 2, "--arrived")


def live_command(tmp_path: Path, **more: str) -> Callable[..., Done]:
    """Run commands in a live installation whose providers cannot be reached."""
    given = environment("https://sendgrid.invalid") | {
        "COMMPLAN_HOME": str(tmp_path / "home"),
        "COMMPLAN_SECRET_KEY": "a secret of the tests",
        "COMMPLAN_LIVE": "production",
        "COMMPLAN_PUBLIC_URL": "https://mail.example.com",
        **more,
    }
    return lambda *words: run(*words, cwd=tmp_path, env=given)


def test_in_a_live_store_the_mails_that_arrived_decide(tmp_path, specimen):
    do = live_command(tmp_path)
    require(do("db", "upgrade"), 0)
    require(do("doctor", "--live-batch", "--arrived", "1.eml"), 2, "no proof was sent")
    require(do("doctor", "--live-batch"), 2, "--to: 0 addresses are given")
    gone = do("doctor", "--live-batch", "--to", TO[0])
    require(gone, 1, "the provider's name cannot be resolved; nothing was sent")
    assert "commplan doctor --live-batch" in do("doctor").stdout
    settings = at(
        Settings(home=tmp_path / "home", secret_key="a secret of the tests", live="production"),
        "https://sendgrid.invalid",
    )
    store = open_store(settings)
    batching.note_sent(store, settings, proof_of(specimen))
    store.dispose()
    mails = specimen.meant()
    files = save(tmp_path, broken(3, text=lambda s: s.encode().decode("latin-1"))(mails))
    require(do("doctor", "--live-batch", "--arrived", *files), 1, "person 3, text: characters are damaged")
    assert "commplan doctor --live-batch" in do("doctor").stdout
    files = save(tmp_path, mails)
    said = do("doctor", "--live-batch", "--arrived", *files, "--by", "operations")
    require(said, 0, "live mail shares requests from now on")
    assert "by operations" in do("doctor").stdout
    require(do("status"), 0)


def test_outside_the_fence_no_proof_is_sent(tmp_path):
    do = live_command(tmp_path)
    require(do("db", "upgrade"), 0)
    elsewhere = live_command(tmp_path, COMMPLAN_LIVE="staging")
    require(elsewhere("doctor", "--live-batch", "--to", TO[0]), 2, "COMMPLAN_ALLOW_LIST")
    listed = live_command(tmp_path, COMMPLAN_LIVE="staging", COMMPLAN_ALLOW_LIST=json.dumps(TO[:1]))
    require(listed("doctor", "--live-batch", "--to", TO[0]), 1, "nothing was sent")
