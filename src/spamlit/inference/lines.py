"""Files whose records are lines, or lines that a quote holds together: CSV, TSV, JSON Lines, and one message a line."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from spamlit.inference.tables import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    LONGEST_RECORD,
    MOST_COLUMNS,
    Answer,
    Columns,
    TableError,
)

FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet may run (OWASP's list)."""
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


class Row(NamedTuple):
    """A record's bytes and its message."""

    raw: bytes
    value: object


class LineTable(ABC):
    """Records that are lines, or lines that a quote holds together."""

    header = b""

    def __init__(self, stream: BinaryIO, name: str, columns: Columns) -> None:
        self.name, self.columns, self.number = name, columns, 0
        self._stream = stream

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """The records in order."""

    @abstractmethod
    def labelled(self, row: Row, answer: Answer) -> bytes:
        """A record with an answer."""

    def chunks(self) -> Iterator[list[Row]]:
        chunk: list[Row] = []
        size = 0
        for row in self.rows():
            chunk.append(row)
            size += len(row.raw)
            if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def values(self, chunk: list[Row]) -> list[object]:
        return [row.value for row in chunk]

    @contextmanager
    def writer(self, target: BinaryIO) -> Iterator[Callable[[list[Row], Sequence[Answer]], None]]:
        target.write(self.header)
        yield lambda chunk, answers: target.writelines(map(self.labelled, chunk, answers))

    def lines(self) -> Iterator[bytes]:
        """Numbered lines; only a line feed ends one."""
        while line := self._stream.readline(LONGEST_RECORD + 1):
            self.number += 1
            if len(line) > LONGEST_RECORD:
                raise self.error(f"a record longer than {LONGEST_RECORD:,} bytes, the limit.")
            if self.number == 1 and line.startswith(_WIDE_BOMS):
                raise self.error("this is UTF-16 or UTF-32. Convert it, as with iconv -f UTF-16 -t UTF-8")
            yield line

    def error(self, what: object, line: int | None = None) -> TableError:
        return TableError(f"{self.name}, line {line or self.number}: {what}")


class SeparatedTable(LineTable):
    """CSV and TSV with a header and, as pandas and spreadsheets write them, quotes around what needs them.

    Blank lines are no records (and are not written), unless there is one column only: then they are empty messages.
    """

    def __init__(self, stream: BinaryIO, name: str, columns: Columns, delimiter: str) -> None:
        super().__init__(stream, name, columns)
        csv.field_size_limit(LONGEST_RECORD)
        self._delimiter = delimiter
        self._taken, self._begin = bytearray(), 1
        self._reader = csv.reader(self._decoded(), delimiter=delimiter, strict=True)
        self._records = self._parse()
        _, raw, self._names = next(self._records, (1, b"", []))
        if not self._names:
            raise self.error("no header: the first line must name the columns.", line=1)
        columns.check(self._names, f"{name}, line 1")
        self._at = self._names.index(columns.text)
        self.header = self._joined(raw, self._names, columns.added)

    def rows(self) -> Iterator[Row]:
        width = len(self._names)
        for line, raw, cells in self._records:
            if len(cells) > width:
                more = f"{len(cells)} cells, and the header has {width}"
                raise self.error(f"{more}; a cell that holds {self._delimiter!r} needs quotes around it.", line)
            if cells or width == 1:
                value = "".join(cells) if width == 1 else cells[self._at] if self._at < len(cells) else None
                yield Row(_pad(raw, (width - max(1, len(cells))) * self._delimiter), value)

    def labelled(self, row: Row, answer: Answer) -> bytes:
        added = [answer.label or "", "" if answer.probability is None else repr(answer.probability), answer.flag]
        cells = next(csv.reader([_text(row.raw)], delimiter=self._delimiter), []) if self.columns.safe else []
        return self._joined(row.raw, cells, added)

    def _joined(self, raw: bytes, cells: Sequence[str], added: Sequence[str]) -> bytes:
        """A record with more cells; written anew only where one of them must be neutralised."""
        if self.columns.safe and any(cell.startswith(FORMULAS) for cell in (*cells, *added)):
            made = [f"'{cell}" if cell.startswith(FORMULAS) else cell for cell in (*cells, *added)]
            bom = _BOM if raw.startswith(_BOM) else b""
            return bom + self._written(made) + raw[len(raw.rstrip(b"\r\n")) :]
        return _pad(raw, self._delimiter + _text(self._written(added)))

    def _written(self, cells: Sequence[str]) -> bytes:
        made = io.StringIO(newline="")
        csv.writer(made, delimiter=self._delimiter).writerow(cells)  # quotes what its line end has
        return made.getvalue().removesuffix("\r\n").encode("utf-8", "surrogateescape")

    def _decoded(self) -> Iterator[str]:
        """Lines for the csv module, which takes as many as a record has."""
        for line in self.lines():
            self._taken += line
            if len(self._taken) > LONGEST_RECORD:
                raise self.error(f"a record longer than {LONGEST_RECORD:,} bytes; is a quote left open?", self._begin)
            yield _text(line.removeprefix(_BOM) if self.number == 1 else line)

    def _parse(self) -> Iterator[tuple[int, bytes, list[str]]]:
        """Line number, bytes and cells of each record, the header's first."""
        while True:
            begin = self._begin = self.number + 1
            self._taken.clear()
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = str(error)
                if reason.startswith("new-line character"):
                    reason = "a carriage return in a cell without quotes"
                raise self.error(f"{reason}. Quotes go around a whole cell, and are doubled within.", begin) from None
            yield begin, bytes(self._taken), cells


class JsonTable(LineTable):
    """JSON Lines: an object a line; blank lines are no records (and are not written)."""

    def rows(self) -> Iterator[Row]:
        found, first = False, None
        for line in self.lines():
            if not line.strip():
                continue
            record = self._read(line.removeprefix(_BOM) if self.number == 1 else line)
            first = list(record) if first is None else first
            found = found or self.columns.text in record
            if not found and self.number >= CHUNK_ROWS:
                break
            yield Row(line, record.get(self.columns.text))
        if first is not None and not found:
            self.columns.check(first, f"{self.name}, line 1 and those that follow")

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(_text(line), parse_int=float)  # of any number of digits
        except ValueError as error:
            raise self.error(f"not JSON: {error}") from None
        except RecursionError:
            raise self.error("lists or objects within each other, too deep to be read.") from None
        if not isinstance(record, dict):
            raise self.error(f"{_text(line)[:40].strip()!r} is not an object; expected {{{self.columns.text!r}: …}}")
        if len(record) > MOST_COLUMNS:
            raise self.error(f"{len(record):,} keys; the limit is {MOST_COLUMNS:,}.")
        self.columns.check_clash(record, f"{self.name}, line {self.number}")
        return record

    def labelled(self, row: Row, answer: Answer) -> bytes:
        body = row.raw.rstrip()
        end, inside = row.raw[len(body) :], body[:-1].rstrip()
        added = json.dumps(dict(zip(self.columns.added, answer, strict=True)), ensure_ascii=False)
        comma = b"" if inside.endswith(b"{") else b", "
        return inside + comma + added[1:].encode() + end


class PlainTable(LineTable):
    """A message a line; each is written behind its label, probability and flag, with tabs between."""

    def rows(self) -> Iterator[Row]:
        for line in self.lines():
            raw = line.removeprefix(_BOM) if self.number == 1 else line
            yield Row(raw, _text(raw.removesuffix(b"\n").removesuffix(b"\r")))

    def labelled(self, row: Row, answer: Answer) -> bytes:
        return f"{answer.label or ''}\t{answer.probability!r}\t{answer.flag}\t".encode() + row.raw


def open_lines(stream: BinaryIO, name: str, kind: str, columns: Columns) -> LineTable:
    """The table in a binary stream.

    Raises:
        TableError: no header, not the right columns, or Parquet.
    """
    if kind == "parquet":
        raise TableError(f"{name}: Parquet is read from its end; name a file.")
    if kind == "jsonl":
        return JsonTable(stream, name, columns)
    if kind == "text":
        return PlainTable(stream, name, columns)
    return SeparatedTable(stream, name, columns, "\t" if kind == "tsv" else ",")


def _text(data: bytes) -> str:
    """Any bytes; those that are not UTF-8 become lone surrogates, from which they can be had back."""
    return data.decode("utf-8", "surrogateescape")


def _pad(raw: bytes, more: str) -> bytes:
    """A record with more behind it, before its line's end."""
    body = raw.rstrip(b"\r\n")
    return body + more.encode("utf-8", "surrogateescape") + raw[len(body) :]
