"""Opting people out and in by hand: what a person may lift and what not, and the suppression list as a file."""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from commplan import optout
from commplan.consent import BLOCKS, SCOPE_ALL, SCOPE_MARKETING, Contact
from commplan.errors import InputError, StoreError
from commplan.explain import explain
from commplan.settings import Settings
from commplan.store import Store, open_store
from commplan.store.bulk import insert_rows
from commplan.store.tables import audit, recipients, suppressions
from commplan.suppression import Entry, active, entries, restore
from commplan.terms import Channel, Reason
from tests.conftest import NOON, PERSONAL
from tests.listening.conftest import World, make_world

ANN, BOB = "p1@person.example.com", "p2@person.example.com"


@pytest.fixture
def world(store: Store) -> World:
    return make_world(store)


def put(world: World, reason: Reason, *, channel: Channel = Channel.EMAIL, scope: str = SCOPE_ALL) -> None:
    address = world.email(1) if channel is Channel.EMAIL else world.phone(1)
    with world.store.write() as connection:
        restore(
            connection,
            Entry(
                channel=channel,
                address_key=world.store.keyring.address_key(channel, address),
                contact=None,
                scope=scope,
                reason=reason,
                source="test",
                at=world.start,
                until=NOON + timedelta(days=30) if reason is Reason.PAUSED else None,
            ),
        )


def in_force(world: World) -> set[tuple[str, str]]:
    return {(channel, reason) for channel, _, _, reason in world.suppressed()}


def test_an_address_is_put_on_the_list_with_whoever_has_had_it(world: World, settings: Settings) -> None:
    assert optout.suppress_address(world.store, settings, " P1@Person.example.com ", by="kim", note="asked by phone")
    assert not optout.suppress_address(world.store, settings, ANN, by="kim")
    assert world.suppressed() == {world.email_suppressed(1, "all", "never_contact")}
    assert world.people_suppressed() == {("email", 1, "all", "never_contact")}
    with world.store.read() as connection:
        assert set(connection.execute(select(suppressions.c.source, suppressions.c.said)).all()) == {
            ("kim at a terminal", "asked by phone")
        }
        noted = connection.execute(select(audit.c.what, audit.c.detail).order_by(audit.c.audit_id)).all()
    assert [tuple(row) for row in noted if row.what == "suppress"] == [
        ("suppress", '{"by": "kim", "lines": 1}'),
        ("suppress", '{"by": "kim", "lines": 0}'),
    ]


def test_a_pause_by_hand_holds_for_the_person_on_every_channel(world: World, settings: Settings) -> None:
    until = NOON + timedelta(days=30)
    optout.suppress_address(world.store, settings, world.phone(2), reason="paused", until=until, by="kim")
    assert world.people_suppressed() == {("all", 2, "all", "paused")}
    who, key = Contact(people="customers", contact_id="c2"), world.store.keyring.address_key("email", BOB)
    with world.store.read() as connection:
        for now, reasons in ((until - timedelta(seconds=1), [Reason.PAUSED]), (until, [])):
            found = active(connection, channel=Channel.EMAIL, address_key=key, contact=who, now=now)
            assert [entry.reason for entry in found] == reasons


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"address": "nobody"}, "ADDRESS: it is neither an email address nor a phone number"),
        ({"reason": "no_consent"}, "--reason: there is no such reason; write one of never_contact, erased, stop"),
        ({"reason": "stop"}, "--reason: stop is said of sms only"),
        ({"reason": "hard_bounce", "scope": "marketing"}, "--reason: hard_bounce has no scope but all"),
        ({"reason": "paused"}, "--reason: a pause has an end; say until when"),
        ({"reason": "unsubscribed", "until": NOON}, "--reason: unsubscribed has no end"),
    ],
)
def test_what_the_list_cannot_hold_is_refused_with_rule_and_remedy(
    world: World, settings: Settings, given: dict[str, object], rule: str
) -> None:
    with pytest.raises(InputError) as caught:
        optout.suppress_address(world.store, settings, by="kim", **{"address": ANN, **given})  # type: ignore[arg-type]
    assert str(caught.value).startswith(rule)
    assert world.suppressed() == set()


WORD = "wrote to us on Monday"
#: reason, what is on record of the person's word, whether it is lifted.
CASES = [
    (Reason.HARD_BOUNCE, None, True),
    (Reason.SOFT_BOUNCES, None, True),
    (Reason.INVALID_NUMBER, None, True),
    (Reason.WRONG_PERSON, None, True),
    (Reason.NEVER_CONTACT, None, True),
    (Reason.UNSUBSCRIBED, None, False),
    (Reason.UNSUBSCRIBED, WORD, True),
    (Reason.DECLINED, None, False),
    (Reason.DECLINED, WORD, True),
    (Reason.PAUSED, None, False),
    (Reason.PAUSED, WORD, True),
    (Reason.STOP, WORD, False),
    (Reason.SPAM_REPORT, WORD, False),
    (Reason.ERASED, WORD, False),
]


@pytest.mark.parametrize(("reason", "note", "lifted"), CASES)
def test_a_person_lifts_what_a_person_may_lift(
    world: World, settings: Settings, reason: Reason, note: str | None, lifted: bool
) -> None:
    channel = optout.ONLY_ON.get(reason, Channel.EMAIL)
    put(world, reason, channel=channel)
    address = world.email(1) if channel is Channel.EMAIL else world.phone(1)
    done = optout.unsuppress_address(world.store, settings, address, by="kim", note=note)
    assert [line.reason for line in done.lifted] == ([reason] if lifted else [])
    assert [(line.reason, bool(why)) for line, why in done.left] == ([] if lifted else [(reason, True)])
    assert in_force(world) == (set() if lifted else {(channel, reason)})


def test_the_cases_above_are_all_reasons_there_are() -> None:
    assert {reason for reason, _, _ in CASES} == set(BLOCKS)


def test_the_decision_about_a_keyword_inside_a_text_lets_marketing_go_on(world: World, settings: Settings) -> None:
    world.send([1], step_no=2)
    world.text("I am at the bus stop")
    assert world.people_suppressed() == {("all", 1, "marketing", "unsubscribed")}
    done = optout.unsuppress_address(world.store, settings, world.phone(1), by="kim", note="was at the bus stop")
    assert len(done.lifted) == 2
    assert world.suppressed() == world.people_suppressed() == set()
    assert all(PERSONAL.search(optout.told(line)) is None for line in done.lifted)


def test_lifting_by_hand_leaves_what_another_person_with_another_address_has(world: World, settings: Settings) -> None:
    for address in (ANN, BOB):
        optout.suppress_address(world.store, settings, address, by="kim")
    optout.unsuppress_address(world.store, settings, ANN, by="kim")
    assert world.suppressed() == {world.email_suppressed(2, "all", "never_contact")}
    assert world.people_suppressed() == {("email", 2, "all", "never_contact")}


def test_lifting_at_a_new_address_leaves_the_old_one_as_it_was(world: World, settings: Settings) -> None:
    optout.suppress_address(world.store, settings, ANN, by="kim")
    new = "moved@person.example.com"
    key = world.store.keyring.address_key("email", new)
    with world.store.write() as connection:
        connection.execute(update(recipients).where(recipients.c.seq == 1).values(email=new, email_key=key))
    done = optout.unsuppress_address(world.store, settings, new, by="kim")
    assert [(line.contact is None, line.reason) for line in done.lifted] == [(False, Reason.NEVER_CONTACT)]
    assert world.suppressed() == {world.email_suppressed(1, "all", "never_contact")}
    assert world.people_suppressed() == set()


def written(store: Store) -> list[tuple[object, ...]]:
    with store.read() as connection:
        return sorted(
            (line.channel, line.address_key, str(line.contact), line.scope, line.reason, line.source, *times(line))
            for line in entries(connection)
        )


def times(line: Entry) -> tuple[str, ...]:
    return tuple(str(at) for at in (line.at, line.until, line.lifted_at))


def test_a_list_that_was_exported_is_the_same_when_it_is_imported_elsewhere(
    world: World, settings: Settings, tmp_path: Path
) -> None:
    put(world, Reason.HARD_BOUNCE)
    put(world, Reason.UNSUBSCRIBED, scope=SCOPE_MARKETING)
    optout.suppress_address(world.store, settings, BOB, reason="unsubscribed", scope="news", by="kim")
    optout.suppress_address(
        world.store, settings, world.phone(3), reason="paused", until=NOON + timedelta(days=1), by="kim"
    )
    optout.unsuppress_address(world.store, settings, ANN, by="kim")
    file = tmp_path / "list.csv"
    assert optout.export_list(world.store, file) == len(written(world.store)) == 6
    assert file.stat().st_mode & 0o077 == 0
    other = open_store(settings)
    for changed in (6, 0):
        lines, new = optout.import_list(other, settings, file, by="kim")
        assert (lines, new > 0) == (6, changed > 0)
        assert written(other) == written(world.store)
    other.dispose()


def test_what_was_taken_back_as_soon_as_it_was_said_is_not_in_force_after_an_import(world: World) -> None:
    line = Entry(
        channel="all",
        address_key=world.store.keyring.address_key(Channel.EMAIL, world.email(1)),
        contact=Contact(people="customers", contact_id="1"),
        scope=SCOPE_ALL,
        reason=Reason.UNSUBSCRIBED,
        source="page",
        at=NOON,
        until=None,
        lifted_at=NOON,
    )
    with world.store.write() as connection:
        for _ in range(2):
            assert not restore(connection, line)
            assert [one.lifted_at for one in entries(connection)] == [NOON]


def test_an_exported_address_is_that_of_a_run_and_of_nobody_else(
    world: World, settings: Settings, tmp_path: Path
) -> None:
    for address in (ANN, "stranger@person.example.com"):
        optout.suppress_address(world.store, settings, address, by="kim")
    file = tmp_path / "list.csv"
    optout.export_list(world.store, file)
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["address"], row["contact_id"], row["reason"]) for row in rows] == [
        (ANN, "", "never_contact"),
        (ANN, "c1", "never_contact"),
        ("", "", "never_contact"),
    ]
    with pytest.raises(InputError, match="it is there already; name a file that is not"):
        optout.export_list(world.store, file)


def test_a_list_of_addresses_is_taken_whole_or_not_at_all(world: World, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    head = "address,reason,scope,at,until\n"
    file.write_text(
        head + f"{ANN},,,,\n"
        "+1 202 555 0002,stop,,2026-11-01T10:00+01:00,\n"
        "nobody,,,,\n"
        f"{BOB},stop,,,\n"
        f"{BOB},paused,,,\n"
        f"{BOB},paused,,,soon\n"
        f"{BOB},boredom,,,\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        optout.import_list(world.store, settings, file, by="kim")
    told = str(caught.value)
    assert PERSONAL.search(told) is None
    assert [line.removeprefix(f"{file}:").split(";")[0] for line in told.splitlines()] == [
        "4: it is neither an email address nor a phone number",
        "5: stop is said of sms only",
        "6: a pause has an end",
        "7: until: it is no time with a zone",
        "8: there is no such reason",
    ]
    assert all("; " in line for line in told.splitlines())
    assert world.suppressed() == set()
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    assert optout.import_list(world.store, settings, file, by="kim") == (2, 2)
    assert world.suppressed() == {
        world.email_suppressed(1, "all", "never_contact"),
        world.sms_suppressed(2, "all", "stop"),
    }


def test_a_person_s_own_line_is_about_the_person_only(world: World, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(
        f"address,channel,people,contact_id,reason,scope\n{ANN},all,customers,c1,unsubscribed,news\n", encoding="utf-8"
    )
    assert optout.import_list(world.store, settings, file, by="kim") == (1, 1)
    assert (world.suppressed(), world.people_suppressed()) == (set(), {("all", 1, "news", "unsubscribed")})


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ("name,reason", "1 columns are not known here"),
        ("key,reason", "it does not say which addresses"),
    ],
)
def test_a_file_that_is_no_list_is_refused(
    world: World, settings: Settings, tmp_path: Path, head: str, rule: str
) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"{head}\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=rule):
        optout.import_list(world.store, settings, file, by="kim")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        (f"{'a' * 32},email,customers,,unsubscribed", "name a person only together"),
        (f"{'a' * 32},email,customers,c1,hard_bounce", "about an address and not about a person"),
        (f"{'a' * 32},email,customers,c1,unsubscribed", "does not hold on channel email; write channel all"),
        (f"{'a' * 32},all,,,unsubscribed", "does not hold on channel all"),
        (f"{'a' * 31},email,,,unsubscribed", "a key is 32 hexadecimal digits"),
        (f"{'a' * 32},post,,,unsubscribed", "a key is 32 hexadecimal digits"),
    ],
)
def test_a_line_by_key_is_held_to_what_an_export_writes(
    world: World, settings: Settings, tmp_path: Path, row: str, rule: str
) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"key,channel,people,contact_id,reason\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rule):
        optout.import_list(world.store, settings, file, by="kim")


def moved(world: World, seq: int, address: str) -> None:
    """Give somebody another address, as a gathering does between two steps."""
    key = world.store.keyring.address_key("email", address)
    with world.store.write() as connection:
        connection.execute(update(recipients).where(recipients.c.seq == seq).values(email=address, email_key=key))


def test_a_wish_from_an_address_that_somebody_had_at_an_earlier_step_holds_for_them(
    world: World, settings: Settings
) -> None:
    world.send([1])
    moved(world, 1, "moved@person.example.com")
    optout.suppress_address(world.store, settings, ANN, by="kim")
    assert world.people_suppressed() == {("email", 1, "all", "never_contact")}
    optout.unsuppress_address(world.store, settings, ANN, by="kim")
    assert world.people_suppressed() == world.suppressed() == set()


def test_an_address_that_two_thousand_people_share_is_suppressed_and_lifted(store: Store, settings: Settings) -> None:
    world = make_world(store, people=2_000)
    key = store.keyring.address_key("email", ANN)
    with store.write() as connection:
        connection.execute(update(recipients).values(email=ANN, email_key=key))
    optout.suppress_address(store, settings, ANN, by="kim")
    assert len(world.people_suppressed()) == 2_000
    assert len(optout.unsuppress_address(store, settings, ANN, by="kim").lifted) == 2_001
    assert len(explain(store, settings, address=ANN).suppressions) == 2_001


def test_an_export_reads_the_list_in_pages_and_loses_no_line(store: Store, settings: Settings, tmp_path: Path) -> None:
    world = make_world(store, people=3)
    strangers = 2 * optout.PAGE + 1
    with store.write() as connection:
        insert_rows(
            connection,
            suppressions,
            ("channel", "address_key", "scope", "reason", "source", "at"),
            [("email", f"{at:032x}", "all", "never_contact", "test", at) for at in range(strangers)],
        )
    optout.suppress_address(store, settings, ANN, by="kim")
    file = tmp_path / "list.csv"
    assert optout.export_list(store, file) == strangers + 2
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert len({(row["key"], row["contact_id"]) for row in rows}) == strangers + 2
    assert [row["address"] for row in rows if row["address"]] == [world.email(1)] * 2


def test_a_list_that_cannot_be_written_to_its_end_leaves_no_line_behind(
    world: World, settings: Settings, tmp_path: Path
) -> None:
    with world.store.write() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO audit_away"))
    file = tmp_path / "list.csv"
    file.write_text("address\n" + "".join(f"s{at}@person.example.com\n" for at in range(600)), encoding="utf-8")
    with pytest.raises(StoreError):
        optout.import_list(world.store, settings, file, by="kim")
    assert world.suppressed() == set()
    with world.store.write() as connection:
        connection.execute(text("ALTER TABLE audit_away RENAME TO audit"))
    assert optout.import_list(world.store, settings, file, by="kim") == (600, 600)
