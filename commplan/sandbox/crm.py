"""The sample CRM: a SQLite file of invented customers, as untidy as real ones.

Never for a live installation: the mailboxes cannot exist, but numbers that pass as valid might.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from commplan.sandbox.dice import Dice

#: What the naive times of the CRM mean, and how it writes them.
ZONE = "Asia/Shanghai"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

_TABLE = """
CREATE TABLE customers (
    customer_id INTEGER PRIMARY KEY,
    first_name TEXT,
    full_name TEXT,
    email TEXT,
    mobile TEXT,
    lang TEXT,
    tz TEXT,
    signed_up_at TEXT NOT NULL,
    lifetime_value INTEGER NOT NULL,
    sms_opt_in INTEGER NOT NULL,
    sms_opt_in_source TEXT,
    sms_opt_in_at TEXT,
    setup_url TEXT NOT NULL,
    activated_at TEXT
)
"""
_COLUMNS = 14

_ENGLISH_FIRST = (
    "Grace", "Oliver", "Amelia", "Noah", "Isla", "Leo", "Ava", "George", "Mia", "Arthur", "Ivy", "Freddie", "Lily",
    "Theo", "Florence", "Oscar", "Rosie", "Henry", "Willow", "Jack", "Ella", "Luca", "Ruby", "Max", "Zoe", "Adam",
    "Nora", "Felix", "Alice", "Hugo", "Siobhán", "Zoë", "José", "O'Neil",
)  # fmt: skip
_ENGLISH_LAST = (
    "Miller", "Baker", "Turner", "Walker", "Hughes", "Carter", "Foster", "Murray", "Bennett", "Brooks", "Reid",
    "Palmer", "Shaw", "Porter", "Doyle", "Hayes", "Fox", "Barnes", "Lloyd", "Webb", "O'Brien", "Núñez",
    "Smith-Jones", "Grant",
)  # fmt: skip
#: Family names and given names with their spelling in Latin letters.
_CHINESE_FAMILY = (
    ("王", "wang"), ("李", "li"), ("张", "zhang"), ("刘", "liu"), ("陈", "chen"), ("杨", "yang"), ("赵", "zhao"),
    ("黄", "huang"), ("周", "zhou"), ("吴", "wu"), ("徐", "xu"), ("孙", "sun"), ("朱", "zhu"), ("欧阳", "ouyang"),
    ("林", "lin"), ("何", "he"), ("郭", "guo"), ("马", "ma"), ("罗", "luo"), ("梁", "liang"),
)  # fmt: skip
_CHINESE_GIVEN = (
    ("伟", "wei"), ("芳", "fang"), ("秀英", "xiuying"), ("敏", "min"), ("静", "jing"), ("丽", "li"), ("强", "qiang"),
    ("磊", "lei"), ("洋", "yang"), ("艳", "yan"), ("勇", "yong"), ("军", "jun"), ("杰", "jie"), ("娟", "juan"),
    ("涛", "tao"), ("明", "ming"), ("超", "chao"), ("秀兰", "xiulan"), ("霞", "xia"), ("平", "ping"), ("𠮷", "ji"),
    ("梓涵", "zihan"), ("浩然", "haoran"), ("雨桐", "yutong"), ("子轩", "zixuan"),
)  # fmt: skip
_TRADITIONAL = str.maketrans(
    "张刘陈杨赵黄吴孙欧阳马罗伟丽强艳军杰涛兰雨轩", "張劉陳楊趙黃吳孫歐陽馬羅偉麗強艷軍傑濤蘭雨軒"
)
_AMERICAN_ZONES = ("America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles")
_AMERICAN_AREAS = ("202", "303", "206", "312", "404", "512", "617", "702")
_OPT_IN_SOURCES = ("the sign-up form", "the web shop", "the help desk")
_WRONG_EMAILS = ("{name}", "{name}@", "@person.example.com", "{name}@@person.example.com", "{name}@person..example.com")
_WRONG_PHONES = ("12345", "n/a", "+1 202 555", "+86 138 0013", "001-000-000")


def create(path: Path, *, contacts: int, seed: int, now: datetime, site: str) -> None:
    """Write a new sample CRM of `contacts` customers to `path`; FileExistsError when there is one already.

    The same arguments give the same customers. Nine of ten signed up within the two weeks before `now`, the others
    before November 2026 (or a month and a half before `now`, if that is earlier). `site` is the address under which
    the sample company's pages are served, without a slash at its end.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists; the sample CRM is only ever written once")
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute(_TABLE)
            places = ", ".join("?" * _COLUMNS)
            connection.executemany(f"INSERT INTO customers VALUES ({places})", _customers(contacts, seed, now, site))
    finally:
        connection.close()


def _customers(contacts: int, seed: int, now: datetime, site: str) -> Iterator[tuple[object, ...]]:
    for number in range(1, contacts + 1):
        yield _customer(number, seed, now, site)


def _customer(number: int, seed: int, now: datetime, site: str) -> tuple[object, ...]:
    dice = Dice(seed, "customer", number)
    lang, tz = _place(dice)
    first, full, latin = _name(dice, lang)
    signed_up = _signed_up(dice, now)
    activated = None
    if dice.chance("activated already", 0.04):
        activated = signed_up + (now - signed_up) * dice.between("activated after", 0.1, 0.9)
    value = int(dice.between("worth", 1_000, 9_000)) if dice.chance("vip", 0.12) else int(dice.between("worth", 0, 900))
    may_text = dice.chance("sms", 0.85)
    return (
        number,
        first,
        full,
        _email(dice, number, seed, latin),
        _mobile(dice, number, lang),
        None if dice.chance("no language", 0.02) else lang,
        None if dice.chance("no zone", 0.05) else tz,
        _local(signed_up),
        value,
        int(may_text),
        dice.pick("where", _OPT_IN_SOURCES) if may_text else None,
        _local(signed_up) if may_text else None,
        f"{site}/setup/{number}",
        _local(activated) if activated else None,
    )


def _local(moment: datetime) -> str:
    return moment.astimezone(ZoneInfo(ZONE)).strftime(TIME_FORMAT)


def _place(dice: Dice) -> tuple[str, str]:
    drawn = dice.draw("place")
    if drawn < 0.40:
        return "en", dice.pick("zone", _AMERICAN_ZONES)
    if drawn < 0.55:
        return "en-GB", "Europe/London"
    if drawn < 0.88:
        return "zh-CN", "Asia/Shanghai"
    return "zh-TW", "Asia/Taipei"


def _name(dice: Dice, lang: str) -> tuple[str, str, str]:
    if lang.startswith("en"):
        first, last = dice.pick("first", _ENGLISH_FIRST), dice.pick("last", _ENGLISH_LAST)
        latin = "".join(letter for letter in f"{first}.{last}".lower() if letter.isascii() and letter != "'")
        return first, f"{first} {last}", latin
    family, given = dice.pick("family", _CHINESE_FAMILY), dice.pick("given", _CHINESE_GIVEN)
    first, full = given[0], family[0] + given[0]
    if lang == "zh-TW":
        first, full = first.translate(_TRADITIONAL), full.translate(_TRADITIONAL)
    return first, full, f"{given[1]}.{family[1]}"


def _signed_up(dice: Dice, now: datetime) -> datetime:
    if dice.chance("old", 0.10):
        last = min(now - timedelta(days=45), datetime(2026, 10, 30, tzinfo=UTC))
        return last - timedelta(days=dice.between("how old", 0, 400))
    return now - timedelta(days=dice.between("how new", 0.05, 14))


def _email(dice: Dice, number: int, seed: int, latin: str) -> str | None:
    drawn = dice.draw("email")
    if drawn < 0.01:
        return None
    if drawn < 0.03:
        return dice.pick("wrong email", _WRONG_EMAILS).format(name=f"{latin}{number}")
    if drawn < 0.045 and number > 10:
        # Somebody else's address, typed in another way: two customers of one household.
        other = number - 1 - int(dice.draw("whose email") * 9)
        their = Dice(seed, "customer", other)
        name = _name(their, _place(their)[0])[2]
        return f"{name.title()}{other}@Person.example.com"
    return f"{latin}{number}@person.example.com"


def _mobile(dice: Dice, number: int, lang: str) -> str | None:
    drawn = dice.draw("mobile")
    if drawn < 0.08:
        return None
    if drawn < 0.11:
        return dice.pick("wrong mobile", _WRONG_PHONES)
    if lang == "en":
        area, line = _AMERICAN_AREAS[number // 10_000 % 8], f"{number % 10_000:04d}"
        return f"({area}) 555-{line}" if dice.chance("as spoken", 0.2) else f"+1{area}555{line}"
    if lang == "en-GB":
        return f"+447911{number % 1_000_000:06d}"
    if lang == "zh-CN":
        return (
            f"+86 138 {number // 10_000:04d} {number % 10_000:04d}"
            if dice.chance("as spoken", 0.2)
            else (f"+86138{number:08d}")
        )
    return f"+8869{10_000_000 + number:08d}"
