"""Reading a contact file as a sheet: a header and rows of text, whatever encoding and delimiter it came in.

Never keeps more than one row in memory, and never shows a cell in an error.
"""

from __future__ import annotations

import codecs
import csv
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from zipfile import BadZipFile

from commplan.errors import InputError

if TYPE_CHECKING:
    from openpyxl import Workbook

_BLOCK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_SAVE = "save it as CSV UTF-8, or as .xlsx"
#: Whole numbers up to here are exact in a spreadsheet; beyond, the last digits are made up.
_EXACT = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """An open file: its header, its rows as (number in the file, cells), and how it was read."""

    header: tuple[str, ...]
    rows: Iterator[tuple[int, list[str]]]
    encoding: str
    delimiter: str | None


@contextmanager
def open_sheet(path: Path) -> Iterator[Sheet]:
    """Open a .csv, .txt, .tsv or .xlsx file. InputError when it cannot be read; rows are read as they are asked for.

    Row numbers are those a spreadsheet shows: the header is row 1. Empty rows are skipped; cells are stripped.
    """
    try:
        if path.suffix.lower() in (".xlsx", ".xlsm"):
            with _open_workbook(path) as sheet:
                yield sheet
        elif path.suffix.lower() in (".xls", ".ods", ".numbers"):
            raise InputError.one(str(path), f"{path.suffix} files cannot be read", _SAVE)
        else:
            with _open_csv(path) as sheet:
                yield sheet
    except OSError as error:
        raise InputError.one(
            str(path), f"it cannot be read ({type(error).__name__})", "check its name and rights"
        ) from None


@contextmanager
def _open_csv(path: Path) -> Iterator[Sheet]:
    with path.open("rb") as raw:
        codec, encoding = detect_encoding(raw, str(path))
    with path.open(encoding=codec, newline="") as file:
        delimiter = _detect_delimiter(file.readline())
        file.seek(0)
        rows = _csv_rows(csv.reader(file, delimiter=delimiter, strict=True), str(path))
        header = next(rows, (0, []))[1]
        yield Sheet(header=tuple(header), rows=rows, encoding=encoding, delimiter=_DELIMITERS[delimiter])


def _csv_rows(reader: Iterator[list[str]], place: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while True:
        number += 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error:
            raise InputError.one(
                f"{place}: row {number}", "its quotation marks do not match, or a cell is very long", "mend the row"
            ) from None
        if any(cells):
            yield number, cells


def detect_encoding(raw: BinaryIO, place: str) -> tuple[str, str]:
    """Return Python's name of a file's encoding and ours, having decoded all of it; InputError when none fits.

    UTF-8 (with or without BOM), UTF-16 (with or without), GB18030. GB18030 accepts almost any bytes, so it counts only
    if most of what it makes of them is everyday Chinese: Western text in another encoding is refused, not garbled.
    """
    start = raw.read(_BLOCK)
    for mark, codec, name in _MARKS:
        if start.startswith(mark):
            if not _decodes(raw, codec):
                raise InputError.one(place, f"it begins as {name}, but is not", _SAVE)
            return codec, name
    for codec, nul in (("utf-16-le", slice(1, None, 2)), ("utf-16-be", slice(0, None, 2))):
        if b"\0" in start and start[nul].count(0) > len(start) / 8 and _decodes(raw, codec):
            return codec, "UTF-16"
    if b"\0" in start:
        raise InputError.one(place, "it is not a text file", _SAVE)
    if _decodes(raw, "utf-8"):
        return "utf-8", "UTF-8"
    if _decodes(raw, "gb18030") and _is_chinese(start):
        return "gb18030", "GB18030"
    raise InputError.one(place, "its encoding is none of UTF-8, UTF-16 and GB18030", _SAVE)


def _decodes(raw: BinaryIO, codec: str) -> bool:
    raw.seek(0)
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        while block := raw.read(_BLOCK):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(start: bytes) -> bool:
    signs = [sign for sign in start.decode("gb18030", "ignore") if not sign.isascii()]
    everyday = sum(bool(sign.encode("gb2312", "ignore")) for sign in signs)
    return everyday * 10 >= len(signs) * 7


def _detect_delimiter(header: str) -> str:
    unquoted = "".join(header.split('"')[::2])
    return max(_DELIMITERS, key=unquoted.count)


@contextmanager
def _open_workbook(path: Path) -> Iterator[Sheet]:
    # It brings numpy: a fifth of a second at every command, for those who have a workbook.
    from openpyxl import load_workbook  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openpyxl warns of styles and extensions that do not concern us
        with _workbook_errors(path):
            book = load_workbook(path, read_only=True, data_only=True)
        try:
            if not book.worksheets:
                raise InputError.one(str(path), "the workbook has no sheet", _SAVE)
            rows = _workbook_rows(path, book)
            header = next(rows, (0, []))[1]
            yield Sheet(header=tuple(header), rows=_level(rows, len(header)), encoding="XLSX", delimiter=None)
        finally:
            book.close()


def _workbook_rows(path: Path, book: Workbook) -> Iterator[tuple[int, list[str]]]:
    with _workbook_errors(path):
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what a file says of its own size is often wrong
        for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
            cells = [_cell(value) for value in values]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                yield number, cells


@contextmanager
def _workbook_errors(path: Path) -> Iterator[None]:
    from openpyxl.utils.exceptions import InvalidFileException  # noqa: PLC0415

    try:
        yield
    except (BadZipFile, InvalidFileException, KeyError, ValueError, EOFError, SyntaxError, zlib.error):
        raise InputError.one(str(path), "it is not an .xlsx workbook, or a damaged one", _SAVE) from None


def _level(rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Fill up the rows of a workbook, which stores no empty cells at a row's end."""
    for number, cells in rows:
        yield number, cells + [""] * (width - len(cells))


def _cell(value: object) -> str:
    """Return a workbook's cell as the text a person would see; numbers that have lost digits keep their E+."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (int, float)) and value == int(value):
        return str(int(value)) if abs(value) < _EXACT else f"{value:.5E}"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value).strip()
