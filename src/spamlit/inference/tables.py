"""Files of messages: read in order, some rows at a time, and written back as they are with three columns added.

A record's own bytes are never made anew: what is added stands behind them (in `text`, before them), so quotes, numbers,
line ends and bytes that are not UTF-8 stay what they were. What no record can be (a line without an end, a million
columns) is refused with the limit's name, before it takes memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

FORMATS = ("csv", "tsv", "jsonl", "parquet", "text")
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}
LONGEST_RECORD = 8 << 20
"""Bytes of a line, or of a record over several lines."""
MOST_COLUMNS = 10_000
CHUNK_ROWS = 8_192
"""Rows that are read, classified and written together: those that the Predictor sorts together."""
CHUNK_BYTES = 32 << 20


class TableError(ValueError):
    """A file that cannot be read as what it should be; the message names file, line and fix."""


class Answer(NamedTuple):
    """What is added to a row; without a message, label and probability are None."""

    label: str | None
    probability: float | None
    flag: str


@dataclass(frozen=True)
class Columns:
    """Which column is read and how the added ones are called.

    Attributes:
        text: the messages'.
        prefix: before `label`, `probability` and `flag`.
        safe: whether cells that a spreadsheet may take for a formula are written with an apostrophe in front.
    """

    text: str = "text"
    prefix: str = ""
    safe: bool = False

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the added columns."""
        return tuple(self.prefix + name for name in Answer._fields)

    def check(self, there: Sequence[str], where: str) -> None:
        """Refuses columns among which the text's is not, or is not alone, or that have the names of added ones.

        Raises:
            TableError: with the fix.
        """
        if len(there) > MOST_COLUMNS:
            raise TableError(f"{where}: {len(there):,} columns; the limit is {MOST_COLUMNS:,}.")
        if there.count(self.text) != 1:
            names = ", ".join(name if len(name) <= 40 else f"{name[:39]}…" for name in there[:20])
            number = there.count(self.text) or "no"
            raise TableError(f"{where}: {number} columns {self.text!r}. Name one with --column; there are: {names}")
        self.check_clash(there, where)

    def check_clash(self, there: Sequence[str] | dict[str, Any], where: str) -> None:
        """The last of `check`'s."""
        if clash := next((name for name in self.added if name in there), None):
            raise TableError(
                f"{where}: there is a column {clash!r} already. Give the added ones other names, as with "
                f"--prefix predicted_"
            )


class Table(Protocol):
    """One pass over a file."""

    def chunks(self) -> Iterator[Any]:
        """The rows, in order, at most `CHUNK_ROWS` at a time."""

    def values(self, chunk: Any) -> list[object]:
        """What stands in the text column of each row of a chunk; None: nothing does."""

    def writer(self, target: BinaryIO) -> AbstractContextManager[Callable[[Any, Sequence[Answer]], None]]:
        """What writes chunks with their answers."""


@contextmanager
def open_table(path: Path | None, kind: str, columns: Columns) -> Iterator[Table]:
    """The table in a file; None is standard input.

    Raises:
        TableError: not of that format, or not the right columns.
        OSError: it cannot be read.
    """
    from spamlit.inference.lines import open_lines

    if path is None:
        yield open_lines(sys.stdin.buffer, "standard input", kind, columns)
    elif kind == "parquet":
        from spamlit.inference.parquet import ParquetTable

        with ParquetTable(path, columns) as table:
            yield table
    else:
        with path.open("rb") as stream:
            yield open_lines(stream, str(path), kind, columns)


def kind_of(path: Path) -> str | None:
    """The format that a file's name says.

    >>> kind_of(Path("Mine.CSV")), kind_of(Path("mine.csv.gz"))
    ('csv', None)
    """
    return SUFFIXES.get(path.suffix.lower())
