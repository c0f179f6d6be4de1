"""The rows of a CSV as people's programs write it: whatever its encoding and separator, each with its line."""

import codecs
import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# what a spreadsheet writes where its user never chose an encoding
_LOCAL = ("gbk", "cp1252", "shift_jis", "cp1251")
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class Row:
    """A row and the line that it begins in; `cells` by column, empty where the row ends early."""

    line: int
    cells: dict[str, str]
    # why it is no row of the table
    fault: str | None = None


def read_table(path: Path, key: str, encoding: str | None = None) -> tuple[list[str], Iterator[Row]]:
    """Names of the columns of a CSV, of which `key` is one, and its rows.

    The encoding is the given one; else what a byte order mark says; else UTF-8. The separator is the comma,
    semicolon or tab that makes `key` a column. Raises ValueError for a file that is missing or is not of that
    encoding, with those that it could be.
    """
    if not path.is_file():
        raise ValueError(f"there is no metadata file {path}; give the path of an existing CSV")
    encoding = _encoding(path, encoding)
    with path.open(newline="", encoding=encoding) as file:
        header = file.readline()
    heads = {mark: next(csv.reader([header], delimiter=mark), []) for mark in _SEPARATORS}
    names = {mark: [name.strip() for name in head] for mark, head in heads.items()}
    separator = next((mark for mark in _SEPARATORS if key in names[mark]), ",")
    if len(set(names[separator])) < len(names[separator]):
        raise ValueError(f"{path} has columns {names[separator]}; give each another name")
    return names[separator], _rows(path, encoding, separator, names[separator])


def _rows(path: Path, encoding: str, separator: str, names: list[str]) -> Iterator[Row]:
    with path.open(newline="", encoding=encoding) as file:
        # strict: a quote that is never closed would swallow all rows after it without a word
        reader = csv.reader(file, delimiter=separator, strict=True)
        next(reader, None)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(line, {}, f"{error}; look at its quotes, here and up to line {reader.line_num}")
                continue
            if not any(cell.strip() for cell in cells):
                continue
            more = len(cells) - len(names)
            fault = f"it has {more} cells more than there are columns; quote what holds a {separator!r}"
            given = dict(
                itertools.zip_longest(names, (cell.strip() for cell in cells[: len(names)]), fillvalue="")
            )
            yield Row(line, given, fault if more > 0 else None)


def _encoding(path: Path, given: str | None) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    chosen = given or next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    try:
        # codecs such as zlib and rot13 make no text of bytes
        if not codecs.lookup(chosen)._is_text_encoding:
            raise LookupError
    except (LookupError, ValueError):
        raise ValueError(f"{given!r} is no encoding of text; utf-8, utf-16, gbk and cp1252 are some") from None
    if fault := _fault(path, chosen):
        raise ValueError(f"{path} is not {chosen}: {fault}; {_advice(path, given)}")
    return chosen


def _fault(path: Path, encoding: str) -> str | None:
    """Why a file is no text of an encoding."""
    decoder, line = codecs.getincrementaldecoder(encoding)(), 1
    with path.open("rb") as file:
        while True:
            data = file.read(1 << 20)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].decode(encoding, "replace").count("\n")
                return f"line {line} holds bytes that it has not ({error.reason})"
            if "\0" in text:
                return f"line {line + text[: text.index(chr(0))].count(chr(10))} holds zeros"
            if not data:
                return None
            line += text.count("\n")


def _advice(path: Path, given: str | None) -> str:
    fits = [name for name in ("utf-8", "utf-16-le", "utf-16-be", *_LOCAL) if not _fault(path, name)]
    likely = [name for name in fits if name != given and not name.startswith("utf-16")] or fits
    examples = ", ".join(f"{name} (which reads {_example(path, name)!r})" for name in likely[:3])
    return f"say what it is with --encoding, perhaps {examples}" if likely else "save it as UTF-8"


def _example(path: Path, encoding: str) -> str:
    """A few letters of the text that are not ASCII, by which its author knows it."""
    with path.open(newline="", encoding=encoding) as file:
        strange = (text for text in file if not text.isascii())
        line = next(strange, "").strip()
    at = next((i for i, letter in enumerate(line) if not letter.isascii()), 0)
    return line[max(0, at - 8) : at + 8]
