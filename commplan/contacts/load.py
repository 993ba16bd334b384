"""Importing a contact file into ``contacts.sqlite``, one table for each kind of people.

Never touches the table that is there before the whole new one is: both happen in one transaction.
"""

from __future__ import annotations

import csv
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from commplan.contacts.sheet import Sheet, open_sheet
from commplan.errors import Finding, InputError
from commplan.segment import SEGMENT_COLUMN

_PEOPLE = re.compile(r"[a-z][a-z0-9-]{0,59}")
_MAX_COLUMNS = 200
_CHUNK = 5_000
#: A number as a spreadsheet shows it once it has lost its digits: 1.38E+10, 8.61380013800E+12.
_SCIENTIFIC = re.compile(r"[+-]?\d(?:[.,]\d+E\+?|E\+)\d+", re.IGNORECASE)
#: A long number that went through a floating-point column: 13800138000.0.
_POINT_ZERO = re.compile(r"\d{7,}[.,]0+")
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})")
#: A number that a column of type real gives back as it was: at most 15 digits.
_DECIMAL = re.compile(r"-?(?=[\d.]{3,16}$)(?:0|[1-9]\d*)\.\d+")
_FAILED = frozenset({"#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that was not imported: its number in the file, the column where there is one, and why."""

    row: int
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What became of a file. `rows` were read (the header and empty rows not counted), `imported` of them taken.

    `columns` gives each column's type in the table: integer or real if every value is such a number, text otherwise.
    `rejected` counts the rest by reason; all of it is listed in `rejects_file` (None when there is none, or in a dry
    run), the first few in `first_rejects`.
    """

    people: str
    encoding: str
    delimiter: str | None
    columns: Mapping[str, str]
    rows: int
    imported: int
    rejected: Mapping[str, int]
    first_rejects: Sequence[Reject]
    rejects_file: Path | None

    def as_text(self) -> str:
        """Return the report in words, for a terminal."""
        between = {",": "comma", ";": "semicolon", "\t": "tab", None: "a workbook"}.get(self.delimiter, self.delimiter)
        lines = [f"{self.imported:,} of {self.rows:,} rows read as {self.people!r} ({self.encoding}, {between})"]
        lines += [f"{count:,} rejected: {reason.replace('_', ' ')}" for reason, count in self.rejected.items()]
        lines += [
            f"row {reject.row}{f', {reject.column}' if reject.column else ''}: {reject.reason.replace('_', ' ')}"
            for reject in self.first_rejects
        ]
        if self.rejects_file is not None:
            lines.append(f"all of them are in {self.rejects_file}")
        return "\n".join(lines)

    dry_run: bool


def source_url(home: Path) -> str:
    """Return the SQLAlchemy URL of the imported contacts."""
    return f"sqlite:///{_database(home).absolute()}"


def is_imported(home: Path, people: str) -> bool:
    """Tell whether people were imported under a name."""
    if not _database(home).exists():
        return False
    with closing(sqlite3.connect(f"{_database(home).absolute().as_uri()}?mode=ro", uri=True)) as connection:
        wanted = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return connection.execute(wanted, (people,)).fetchone() is not None


def import_file(
    path: Path, *, people: str, home: Path, id_column: str | None = None, dry_run: bool = False
) -> ImportReport:
    """Import a contact file as the table `people` of ``contacts.sqlite`` under `home`, replacing the one before.

    Rows with too few or too many cells, with a number that a spreadsheet has mangled, and, where `id_column` is given,
    without an id or with one that was there before, are left out, counted, and listed in
    ``rejects/contacts-<people>.csv`` (mode 0600; no cell's content). `dry_run` does all of that and writes nothing.
    Raises InputError when the file as a whole cannot be used; then nothing has changed.
    """
    if not _PEOPLE.fullmatch(people):
        raise InputError.one(
            "--people", "it is not a name", "write small letters, digits and hyphens, such as customers"
        )
    if not dry_run:
        home.mkdir(parents=True, exist_ok=True)
    with open_sheet(path) as sheet:
        _check_header(sheet.header, id_column, str(path))
        intake = _Intake(header=sheet.header, id_at=sheet.header.index(id_column) if id_column else None)
        with _transaction(None if dry_run else _database(home)) as connection:
            _load(connection, sheet, intake, people)
            if not intake.imported:
                raise InputError(_nothing_left(intake, str(path)))
    rejects_file = None if dry_run else _write_rejects(home, people, intake.rejects)
    return ImportReport(
        people=people,
        encoding=sheet.encoding,
        delimiter=sheet.delimiter,
        columns=dict(zip(sheet.header, intake.types(), strict=True)),
        rows=intake.rows,
        imported=intake.imported,
        rejected=dict(Counter(reject.reason for reject in intake.rejects)),
        first_rejects=tuple(intake.rejects[:20]),
        rejects_file=rejects_file,
        dry_run=dry_run,
    )


def _database(home: Path) -> Path:
    return home / "contacts.sqlite"


def _check_header(header: Sequence[str], id_column: str | None, place: str) -> None:
    if not header:
        raise InputError.one(place, "it is empty", "its first row names the columns")
    findings = []
    empty = [str(at) for at, name in enumerate(header, 1) if not name]
    if empty:
        findings.append(("a column has no name", f"name column {', '.join(empty)} in the first row"))
    folded = Counter(name.casefold() for name in header if name)
    repeated = sorted({name for name in header if folded[name.casefold()] > 1})
    if repeated:
        findings.append((f"the columns {', '.join(repeated)} repeat each other", "give each column a name of its own"))
    if len(header) > _MAX_COLUMNS:
        findings.append((f"it has more than {_MAX_COLUMNS} columns", "leave out what no plan needs"))
    if any(name.casefold() == SEGMENT_COLUMN for name in header):
        findings.append((f"the name {SEGMENT_COLUMN} is taken", "rename that column"))
    if id_column is not None and id_column not in header:
        findings.append((f"it has no column {id_column!r}", f"its columns are {', '.join(filter(None, header))}"))
    if findings:
        raise InputError([Finding(place=f"{place}: row 1", rule=rule, remedy=remedy) for rule, remedy in findings])


@dataclass(slots=True)
class _Intake:
    """What is known of a file while its rows go by."""

    header: Sequence[str]
    id_at: int | None
    rows: int = 0
    imported: int = 0
    rejects: list[Reject] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set, repr=False)
    _whole: list[bool] = field(init=False)
    _number: list[bool] = field(init=False)
    _filled: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        width = len(self.header)
        self._whole, self._number, self._filled = [True] * width, [True] * width, [False] * width

    def take(self, number: int, cells: list[str]) -> list[str | None] | None:
        """Return a row's values, or None for one that is rejected."""
        self.rows += 1
        reject = self._fault(number, cells)
        if reject is not None:
            self.rejects.append(reject)
            return None
        self.imported += 1
        for at, cell in enumerate(cells):
            if cell:
                self._filled[at] = True
                self._whole[at] = self._whole[at] and _WHOLE.fullmatch(cell) is not None
                self._number[at] = self._number[at] and bool(_WHOLE.fullmatch(cell) or _DECIMAL.fullmatch(cell))
        return [cell or None for cell in cells]

    def _fault(self, number: int, cells: list[str]) -> Reject | None:
        if len(cells) != len(self.header):
            return Reject(
                row=number, column=None, reason=f"{'too few' if len(cells) < len(self.header) else 'too many'} cells"
            )
        for name, cell in zip(self.header, cells, strict=True):
            if _SCIENTIFIC.fullmatch(cell) or _POINT_ZERO.fullmatch(cell):
                return Reject(row=number, column=name, reason="number mangled by a spreadsheet")
            if cell in _FAILED:
                return Reject(row=number, column=name, reason="formula that failed")
        if self.id_at is None:
            return None
        name, contact_id = self.header[self.id_at], cells[self.id_at]
        if not contact_id:
            return Reject(row=number, column=name, reason="no id")
        if contact_id in self._ids:
            return Reject(row=number, column=name, reason="id repeated")
        self._ids.add(contact_id)
        return None

    def types(self) -> list[str]:
        """Return each column's type: a number only if every value is one, and none would lose a digit."""
        return [
            "integer" if filled and whole else "real" if filled and number else "text"
            for filled, whole, number in zip(self._filled, self._whole, self._number, strict=True)
        ]


@contextmanager
def _transaction(database: Path | None) -> Iterator[sqlite3.Connection]:
    """Open the contacts in a transaction (in memory: None); nothing stays after an error."""
    if database is not None and not database.exists():
        os.close(os.open(database, os.O_WRONLY | os.O_CREAT, 0o600))
    try:
        with closing(sqlite3.connect(database or ":memory:", timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
    except sqlite3.Error:
        raise InputError.one(
            str(database),
            "the imported contacts cannot be written",
            "see that no other import runs, and that the disk has room",
        ) from None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _load(connection: sqlite3.Connection, sheet: Sheet, intake: _Intake, people: str) -> None:
    """Fill a table of text with the rows, then make the typed table that takes the old one's place."""
    arriving, final = _quoted(f"{people} arriving"), _quoted(people)
    columns = [_quoted(name) for name in sheet.header]
    connection.execute(f"CREATE TABLE {arriving} ({', '.join(f'{column} TEXT' for column in columns)})")
    taken = (row for number, cells in sheet.rows if (row := intake.take(number, cells)) is not None)
    marks = ", ".join("?" * len(columns))
    while chunk := list(islice(taken, _CHUNK)):
        connection.executemany(f"INSERT INTO {arriving} VALUES ({marks})", chunk)
    types = intake.types()
    connection.execute(f"DROP TABLE IF EXISTS {final}")
    connection.execute(
        f"CREATE TABLE {final} ({', '.join(f'{c} {t.upper()}' for c, t in zip(columns, types, strict=True))})"
    )
    connection.execute(f"INSERT INTO {final} SELECT * FROM {arriving} ORDER BY rowid")
    connection.execute(f"DROP TABLE {arriving}")


def _nothing_left(intake: _Intake, place: str) -> list[Finding]:
    if not intake.rows:
        return [Finding(place=place, rule="it has a header and no rows", remedy="add people below the first row")]
    return [
        Finding(
            place=f"{place}: row {reject.row}", rule=reject.reason, field=reject.column or "", remedy="mend the row"
        )
        for reject in intake.rejects[:20]
    ]


def _write_rejects(home: Path, people: str, rejects: Sequence[Reject]) -> Path | None:
    path = home / "rejects" / f"contacts-{people}.csv"
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    if not rejects:
        return None
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline=""
    ) as file:
        writer = csv.writer(file)
        writer.writerow(["row", "column", "reason"])
        writer.writerows([reject.row, reject.column or "", reject.reason] for reject in rejects)
    return path
