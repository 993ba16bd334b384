"""A contact file becomes a table as a whole, or not at all, and never with a number a spreadsheet has mangled."""

import sqlite3
import stat
from datetime import datetime
from pathlib import Path

import pytest
from openpyxl import Workbook

from commplan import contacts
from commplan.contacts import ImportReport
from commplan.contacts.sheet import open_sheet
from commplan.errors import InputError

PEOPLE = "id,name,mobile,city\n1,Ann Lee,+12025550123,Paris\n2,李雷,+8613800138000,北京\n"


def write(tmp_path: Path, text: str, encoding: str = "utf-8", name: str = "people.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(home: Path, people: str = "customers") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(home / "contacts.sqlite")
    found = connection.execute(f'SELECT * FROM "{people}"').fetchall()
    connection.close()
    return found


def tables(home: Path) -> list[str]:
    connection = sqlite3.connect(home / "contacts.sqlite")
    found = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
    connection.close()
    return found


def load(path: Path, tmp_path: Path, **more: object) -> ImportReport:
    return contacts.import_file(path, people="customers", home=tmp_path / "home", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 with BOM"),
        ("gb18030", "GB18030"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
    ],
)
@pytest.mark.parametrize(("delimiter", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab")])
def test_every_encoding_and_delimiter_gives_the_same_people(
    tmp_path: Path, encoding: str, told: str, delimiter: str, name: str
) -> None:
    report = load(write(tmp_path, PEOPLE.replace(",", delimiter), encoding), tmp_path)
    assert (report.encoding, report.delimiter) == (told, name)
    assert (report.rows, report.imported, report.rejected) == (2, 2, {})
    assert rows(tmp_path / "home") == [
        (1, "Ann Lee", "+12025550123", "Paris"),
        (2, "李雷", "+8613800138000", "北京"),
    ]


def test_western_text_in_a_western_encoding_is_refused_instead_of_garbled(tmp_path: Path) -> None:
    text = "id,name\n1,Müller\n2,Björk\n3,Zoë\n4,Günther Schröder\n"
    with pytest.raises(InputError, match="none of UTF-8, UTF-16 and GB18030; save it as CSV UTF-8"):
        load(write(tmp_path, text, "latin-1"), tmp_path)


def test_a_picture_is_not_a_contact_file(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 4)
    with pytest.raises(InputError, match=r"people\.csv"):
        load(path, tmp_path)


@pytest.mark.parametrize("value", ["1.38E+10", "8.61380013800E+12", "8,61380013800E+12", "1.38e10", "13800138000.0"])
def test_a_number_mangled_by_a_spreadsheet_is_refused_with_its_row(tmp_path: Path, value: str) -> None:
    text = f"id;mobile\n1;13800138000\n2;{value}\n3;13900139000\n"
    report = load(write(tmp_path, text), tmp_path)
    assert report.imported == 2
    assert [(r.row, r.column, r.reason) for r in report.first_rejects] == [
        (3, "mobile", "number mangled by a spreadsheet")
    ]
    assert report.rejects_file is not None
    assert report.rejects_file.read_text().splitlines() == [
        "row,column,reason",
        "3,mobile,number mangled by a spreadsheet",
    ]
    assert stat.S_IMODE(report.rejects_file.stat().st_mode) == 0o600
    assert [row[0] for row in rows(tmp_path / "home")] == [1, 3]


def test_an_ordinary_decimal_is_not_taken_for_a_mangled_number(tmp_path: Path) -> None:
    report = load(write(tmp_path, "id,amount,code\n1,12.0,7E5\n2,199.95,2e10\n"), tmp_path)
    assert report.columns == {"id": "integer", "amount": "real", "code": "text"}
    assert rows(tmp_path / "home") == [(1, 12.0, "7E5"), (2, 199.95, "2e10")]


def test_ragged_rows_are_refused_with_their_row(tmp_path: Path) -> None:
    report = load(write(tmp_path, "id,name\n1,Ann\n2\n\n3,Bob,extra\n4,Cai\n"), tmp_path)
    assert report.imported == 2
    assert [(r.row, r.reason) for r in report.first_rejects] == [(3, "too few cells"), (5, "too many cells")]


def test_a_quoted_cell_may_hold_the_delimiter_and_a_new_line(tmp_path: Path) -> None:
    load(write(tmp_path, 'id,name\n1,"Lee, ""Ann""\nof Paris"\n'), tmp_path)
    assert rows(tmp_path / "home") == [(1, 'Lee, "Ann"\nof Paris')]


def test_quotation_marks_that_do_not_match_are_refused_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 2: its quotation marks do not match"):
        load(write(tmp_path, 'id,name\n1,"Ann\n2,Bob\n'), tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,,name", "a column has no name; name column 2"),
        ("id,Name,name", "the columns Name, name repeat each other"),
        ("id,cp_segment", "the name cp_segment is taken"),
    ],
)
def test_a_header_that_cannot_name_columns_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, f"{header}\n1,2,3\n"), tmp_path)
    assert not (tmp_path / "home" / "contacts.sqlite").exists()


def test_all_that_is_wrong_with_a_header_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, "a,a,,cp_segment\n1,2,3,4\n"), tmp_path, id_column="id")
    assert len(caught.value.findings) == 4


@pytest.mark.parametrize(("text", "message"), [("", "it is empty"), ("id,name\n", "it has a header and no rows")])
def test_a_file_without_people_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, text), tmp_path)


def test_types_follow_the_values_so_that_segments_compare_numbers(tmp_path: Path) -> None:
    text = (
        "id,zip,value,phone,mixed,none,big\n"
        "1,01234,500,13800138000,7,,123456789012345678901\n"
        "2,90210,1000,13900139000,seven,,2\n"
    )
    report = load(write(tmp_path, text), tmp_path)
    assert report.columns == {
        "id": "integer",
        "zip": "text",
        "value": "integer",
        "phone": "integer",
        "mixed": "text",
        "none": "text",
        "big": "text",
    }
    assert rows(tmp_path / "home")[0] == (1, "01234", 500, 13800138000, "7", None, "123456789012345678901")


def test_ids_are_held_against_each_other_where_a_column_is_named(tmp_path: Path) -> None:
    report = load(write(tmp_path, "id,name\n1,Ann\n,Bob\n1,Cai\n2,Dee\n"), tmp_path, id_column="id")
    assert report.rejected == {"no id": 1, "id repeated": 1}
    assert rows(tmp_path / "home") == [(1, "Ann"), (2, "Dee")]
    with pytest.raises(InputError, match="no column 'nummer'; its columns are id, name"):
        load(write(tmp_path, "id,name\n1,Ann\n"), tmp_path, id_column="nummer")


def test_a_dry_run_reports_the_same_and_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "id,name\n1,Ann\n2\n")
    before = sorted(tmp_path.rglob("*"))
    dry = load(path, tmp_path, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    wet = load(path, tmp_path)
    assert (dry.rows, dry.imported, dry.rejected, dry.columns) == (wet.rows, wet.imported, wet.rejected, wet.columns)
    assert dry.rejects_file is None
    assert wet.rejects_file is not None


def test_importing_again_replaces_the_table_and_its_columns(tmp_path: Path) -> None:
    load(write(tmp_path, "id,name\n1,Ann\n2\n"), tmp_path)
    report = load(write(tmp_path, "id,city,email\n7,Paris,a@person.example.com\n"), tmp_path)
    assert rows(tmp_path / "home") == [(7, "Paris", "a@person.example.com")]
    assert tables(tmp_path / "home") == ["customers"]
    assert report.rejects_file is None
    assert not (tmp_path / "home" / "rejects" / "contacts-customers.csv").exists()


def test_a_file_that_breaks_off_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    load(write(tmp_path, "id,name\n1,Ann\n"), tmp_path)
    broken = "id,name\n" + "".join(f"{n},Bob\n" for n in range(20_000)) + '20001,"Cai\n'
    with pytest.raises(InputError, match="row 20002"):
        load(write(tmp_path, broken), tmp_path)
    assert rows(tmp_path / "home") == [(1, "Ann")]
    assert tables(tmp_path / "home") == ["customers"]


def test_two_kinds_of_people_stand_side_by_side(tmp_path: Path) -> None:
    load(write(tmp_path, PEOPLE), tmp_path)
    contacts.import_file(write(tmp_path, "id,name\n1,Eve\n"), people="employees", home=tmp_path / "home")
    assert tables(tmp_path / "home") == ["customers", "employees"]
    assert stat.S_IMODE((tmp_path / "home" / "contacts.sqlite").stat().st_mode) == 0o600


def test_the_kind_of_people_is_a_plain_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not a name"):
        contacts.import_file(write(tmp_path, PEOPLE), people='x"; drop table customers; --', home=tmp_path / "home")


def workbook(tmp_path: Path, *table: tuple[object, ...]) -> Path:
    book = Workbook()
    sheet = book.worksheets[0]
    for row in table:
        sheet.append(row)
    path = tmp_path / "people.xlsx"
    book.save(path)
    book.close()
    return path


def test_a_workbook_is_read_like_a_text_file(tmp_path: Path) -> None:
    path = workbook(
        tmp_path,
        ("id", "name", "mobile", "since", "vip", "amount", "note"),
        (1, "李雷", 13800138000, datetime(2026, 12, 1, 9, 30), True, 12.5, None),
        (2, " Ann ", "+12025550123", None, False, 3, "#N/A"),
        (None, None),
        (3, "Bob", "+12025550124", None, False, 3, "x"),
    )
    report = load(path, tmp_path)
    assert (report.encoding, report.delimiter, report.rows) == ("XLSX", None, 3)
    assert [(r.row, r.column, r.reason) for r in report.first_rejects] == [(3, "note", "formula that failed")]
    assert rows(tmp_path / "home") == [
        (1, "李雷", "13800138000", "2026-12-01 09:30:00", 1, 12.5, None),
        (3, "Bob", "+12025550124", None, 0, 3.0, "x"),
    ]


def test_a_number_too_long_for_a_workbook_is_refused_with_its_row(tmp_path: Path) -> None:
    path = workbook(tmp_path, ("id", "card"), (1, "ok"), (2, 1.2345678901234567e19))
    report = load(path, tmp_path)
    assert [(r.row, r.column) for r in report.first_rejects] == [(3, "card")]


@pytest.mark.parametrize(
    ("name", "message"), [("people.xlsx", "not an .xlsx workbook"), ("people.xls", "cannot be read")]
)
def test_what_only_looks_like_a_workbook_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, PEOPLE, name=name), tmp_path)


def test_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path, ("id", "name"), *((n, f"name {n}") for n in range(500)))
    content = bytearray(path.read_bytes())
    middle = content.index(b"xl/worksheets/sheet1.xml") + 200
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"people\.xlsx"):
        load(path, tmp_path)


def test_a_file_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it cannot be read"):
        load(tmp_path / "nowhere.csv", tmp_path)


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "id,name\n" + "".join(f"{n},Ann\n" for n in range(100_000)))
    with open_sheet(path) as sheet:
        assert next(sheet.rows) == (2, ["0", "Ann"])
