"""Parquet files of messages: every column as it was, three added. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from spamlit.inference.tables import CHUNK_BYTES, CHUNK_ROWS, LONGEST_RECORD, MOST_COLUMNS, Answer, Columns, TableError

LONGEST_FOOTER = 64 << 20
"""Bytes of a file's description of its columns, which is read as a whole."""


class ParquetTable:
    """One pass over a Parquet file.

    Args:
        path: the file.
        columns: what is read and added.

    Raises:
        TableError: no Parquet file, one with too large a description or row, or without such a column of text.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self.name, self.columns = str(path), columns
        self._pa, pq = _pyarrow()
        if _footer(path) > LONGEST_FOOTER:
            raise TableError(
                f"{path}: describes its columns in {_footer(path):,} bytes; the limit is {LONGEST_FOOTER:,}."
            )
        try:
            self.file = pq.ParquetFile(path)
        except self._pa.ArrowInvalid as error:
            raise TableError(f"{path} is not a Parquet file: {error}") from None
        try:
            self._check()
        except TableError:
            self.file.close()
            raise

    def __enter__(self) -> ParquetTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _check(self) -> None:
        pa, schema, described = self._pa, self.file.schema_arrow, self.file.metadata
        if described.num_columns > MOST_COLUMNS:
            raise TableError(f"{self.name}: {described.num_columns:,} columns; the limit is {MOST_COLUMNS:,}.")
        self.columns.check(schema.names, self.name)
        kind = schema.field(self.columns.text).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        if not any(holds(inner) for holds in of_text):
            raise TableError(
                f"{self.name}: column {self.columns.text!r} holds {kind}, not text. Name one with --column."
            )
        groups = [described.row_group(n) for n in range(described.num_row_groups)]
        widest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        if widest > LONGEST_RECORD:
            raise TableError(f"{self.name}: rows of {widest:,} bytes; the limit is {LONGEST_RECORD:,}.")
        self._rows = min(CHUNK_ROWS, max(1, CHUNK_BYTES // max(1, widest)))

    def chunks(self) -> Iterator[Any]:
        """Batches of rows."""
        yield from self.file.iter_batches(batch_size=self._rows)

    def values(self, chunk: Any) -> list[object]:
        """Each row's text; bytes that are not UTF-8 become lone surrogates."""
        pa, cells = self._pa, chunk.column(self.columns.text)
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        found: list[bytes | None] = cells.cast(pa.large_binary()).to_pylist()
        return [None if cell is None else cell.decode("utf-8", "surrogateescape") for cell in found]

    @contextmanager
    def writer(self, target: BinaryIO) -> Iterator[Callable[[Any, Sequence[Answer]], None]]:
        """Writes batches as row groups, with the file's own schema and metadata."""
        pa, pq = _pyarrow()
        types = (pa.string(), pa.float64(), pa.string())
        schema = self.file.schema_arrow
        for name, kind in zip(self.columns.added, types, strict=True):
            schema = schema.append(pa.field(name, kind))

        def write(chunk: Any, answers: Sequence[Answer]) -> None:
            added = [pa.array(cells, kind) for cells, kind in zip(zip(*answers, strict=True), types, strict=True)]
            made.write_batch(pa.RecordBatch.from_arrays([*chunk.columns, *added], schema=schema))

        with pq.ParquetWriter(target, schema) as made:
            yield write


def _pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`."""
    try:
        import pyarrow as pa
        from pyarrow import parquet as pq
    except ModuleNotFoundError as error:
        raise TableError('Parquet needs pyarrow: pip install "spamlit[parquet]", or convert the file.') from error
    return pa, pq


def _footer(path: Path) -> int:
    """What the file's last eight bytes say of the footer's length; 0 where they are no Parquet file's."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
    return int.from_bytes(end[:4], "little") if end.endswith(b"PAR1") else 0
