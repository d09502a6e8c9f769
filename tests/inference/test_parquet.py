"""Parquet: every column with its type and metadata, three added; what is no text column is refused."""

from pathlib import Path

import pytest
from tests.inference.stand_in import labelled

from spamlit.inference.tables import Columns, TableError, open_table

pa = pytest.importorskip("pyarrow", reason='pip install "spamlit[parquet]"')
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_columns_come_back_with_types_and_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("spamlit.inference.parquet.CHUNK_ROWS", 2)
    texts = ["win", None, "", "see you", b"caf\xe9"]
    as_text = pa.array([text if isinstance(text, bytes | None) else text.encode() for text in texts]).cast(
        pa.string(), safe=False
    )
    column = as_text.dictionary_encode() if kind == "dictionary" else as_text.cast(getattr(pa, kind)(), safe=False)
    other = pa.array([[1], None, [], [2, 3], [4]], pa.list_(pa.int16()))
    before = pa.table({"n": other, "text": column}).replace_schema_metadata({"who": "me"})
    pq.write_table(before, tmp_path / "mine.parquet")
    stored = pq.read_table(tmp_path / "mine.parquet")
    labelled(tmp_path / "mine.parquet", "parquet")
    after = pq.read_table(tmp_path / "labelled-mine.parquet")
    assert after.select(["n", "text"]).schema.equals(stored.schema)
    assert after["n"].equals(stored["n"])
    as_bytes = [table["text"].cast(pa.large_string()).cast(pa.large_binary()) for table in (after, stored)]
    assert as_bytes[0].equals(as_bytes[1])
    assert after.schema.metadata[b"who"] == b"me"
    assert after["label"].to_pylist() == ["spam", None, "ham", "ham", "ham"]
    assert after["flag"].to_pylist() == ["", "missing", "empty", "", "not UTF-8"]
    assert after["probability"].to_pylist() == [0.912346, None, 3.33333e-06, 3.33333e-06, 3.33333e-06]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": [1, 2]}, "column 'text' holds int64, not text"),
        ({"message": ["a"]}, "no columns 'text'.*message"),
        ({"text": ["a"], "flag": [1]}, "there is a column 'flag' already"),
        ({"text": ["a"]} | {str(n): [n] for n in range(10_000)}, "10,001 columns; the limit is 10,000"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, columns: dict[str, list[object]], says: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(TableError, match=says), open_table(tmp_path / "mine.parquet", "parquet", Columns()):
        pass


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"text\nhello\n")
    with (
        pytest.raises(TableError, match="is not a Parquet file"),
        open_table(tmp_path / "mine.parquet", "parquet", Columns()),
    ):
        pass
    (tmp_path / "huge.parquet").write_bytes(b"PAR1" + (1 << 30).to_bytes(4, "little") + b"PAR1")
    with (
        pytest.raises(TableError, match="in 1,073,741,824 bytes; the limit is 67,108,864"),
        open_table(tmp_path / "huge.parquet", "parquet", Columns()),
    ):
        pass


def test_wide_rows_come_in_smaller_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamlit.inference.parquet.CHUNK_BYTES", 6_000)
    rows = [f"{n}" * 2_000 for n in range(9)] + ["x"]
    pq.write_table(pa.table({"text": rows}), tmp_path / "mine.parquet", compression="none", use_dictionary=False)
    with open_table(tmp_path / "mine.parquet", "parquet", Columns()) as table:
        chunks = [table.values(chunk) for chunk in table.chunks()]
    assert max(map(len, chunks)) in (2, 3)
    assert [value for chunk in chunks for value in chunk] == rows
