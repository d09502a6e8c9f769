"""CSV, TSV, JSON Lines, plain lines: what was there comes back byte for byte, in order, with the answer beside it."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.inference.stand_in import labelled

from spamlit.inference.lines import open_lines
from spamlit.inference.tables import LONGEST_RECORD, MOST_COLUMNS, Answer, Columns, TableError

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ANSWER = Answer("ham", 0.25, "unsure")


def through(content: bytes, kind: str, **columns: object) -> bytes:
    """A file with `ANSWER` for each row."""
    table, made = open_lines(io.BytesIO(content), "mine", kind, Columns(**columns)), io.BytesIO()
    with table.writer(made) as write:
        for chunk in table.chunks():
            write(chunk, [ANSWER] * len(chunk))
    return made.getvalue()


@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=5),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    kind=st.sampled_from(["csv", "tsv"]),
    last=st.booleans(),
)
def test_cells_come_back_as_they_were_written(rows, quoting, end, kind, last) -> None:
    delimiter = "\t" if kind == "tsv" else ","
    assume(
        quoting == csv.QUOTE_ALL or end == "\r\n" or not any("\r" in cell for row in rows for cell in row)
    )  # not quoted
    made = io.StringIO(newline="")
    csv.writer(made, quoting=quoting, lineterminator=end, delimiter=delimiter).writerows([["a", "text", "b"], *rows])
    before = made.getvalue().removesuffix(end if last else "")
    after = through(before.encode(), kind).decode()
    parsed = list(csv.reader(io.StringIO(after, newline=""), delimiter=delimiter, strict=True))
    assert [cells[:3] for cells in parsed[1:]] == rows
    assert {tuple(cells[3:]) for cells in parsed[1:]} <= {("ham", "0.25", "unsure")}
    added = delimiter.join(ANSWER._replace(probability="0.25"))
    assert (
        after.replace(f"{delimiter}{added}", "").replace(f"{delimiter}label{delimiter}probability{delimiter}flag", "")
        == before
    )


@given(
    records=st.lists(
        st.dictionaries(CELLS.filter(lambda key: key not in Answer._fields), st.none() | st.integers() | CELLS),
        max_size=4,
    )
)
def test_objects_come_back_as_they_were_written(records) -> None:
    records = [record | {"text": "hello"} for record in records]
    before = "".join(json.dumps(record, ensure_ascii=len(record) % 2 == 0) + "\r\n" for record in records)
    after = through(before.encode(), "jsonl").decode()
    answer = {"label": "ham", "probability": 0.25, "flag": "unsure"}
    assert [json.loads(line) for line in after.split("\n")[:-1]] == [record | answer for record in records]
    assert after.replace(f", {json.dumps(answer)[1:-1]}", "") == before


def test_numbers_spaces_and_marks_are_not_made_anew() -> None:
    line = b'\xef\xbb\xbf{ "n" : 1.50e400, "id": 90071992547409931234, "text": "a\\u00fc" }  \n\n{"text":null}'
    after = through(line, "jsonl").splitlines()
    assert after[0].startswith(b'\xef\xbb\xbf{ "n" : 1.50e400, "id": 90071992547409931234, "text": "a\\u00fc", "label"')
    assert after[0].endswith(b'"flag": "unsure"}  ')
    assert after[1:] == [b'{"text":null, "label": "ham", "probability": 0.25, "flag": "unsure"}']
    assert through(b"\xef\xbb\xbftext,b\nhi,2\n", "csv") == (
        b"\xef\xbb\xbftext,b,label,probability,flag\nhi,2,ham,0.25,unsure\n"
    )
    assert through("he said\ta\r\n\nü".encode(), "text").decode().split("\n") == [
        "ham\t0.25\tunsure\the said\ta\r",
        "ham\t0.25\tunsure\t",
        "ham\t0.25\tunsure\tü",
    ]


@pytest.mark.fault("hostile", "tables, NUL and encodings")
def test_what_no_message_is_gets_a_flag(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_bytes(
        b'id,text,n\n1,win now,2\n\n2,,3\n3\n4,caf\xe9 \x00,5\n"5","two\nlines",6\n' + b"6," + b"x" * 100_001
    )
    lines = labelled(table, "csv").split(b"\n")
    assert lines[:4] == [
        b"id,text,n,label,probability,flag",
        b"1,win now,2,spam,0.912346,",
        b"2,,3,ham,3.33333e-06,empty",
        b"3,,,,,missing",
    ]
    assert lines[4] == b"4,caf\xe9 \x00,5,ham,3.33333e-06,not UTF-8;NUL"
    assert lines[5:7] == [b'"5","two', b'lines",6,ham,3.33333e-06,']
    assert lines[7].endswith(b"xx,,ham,3.33333e-06,truncated")
    table = tmp_path / "mine.jsonl"
    values = ["win", "", None, 12, [1], {"text": "win"}, True, "\ud83d"]
    table.write_text("".join(json.dumps({"text": value}) + "\n" for value in values) + "{}\n")
    found = [json.loads(line) for line in labelled(table, "jsonl").splitlines()]
    assert [row["flag"] for row in found] == ["", "empty", "missing", *["not text"] * 4, "not UTF-8", "missing"]
    assert [row["label"] for row in found] == ["spam", "ham", *[None] * 5, "ham", None]
    assert [row["probability"] is None for row in found] == [row["label"] is None for row in found]


def test_one_column_s_blank_lines_are_empty_messages() -> None:
    assert through(b"text\n\nhi\n", "csv") == b"text,label,probability,flag\n,ham,0.25,unsure\nhi,ham,0.25,unsure\n"


@pytest.mark.fault("hostile", "tables")
@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("csv", b"", "mine, line 1: no header"),
        ("csv", b"message,b\n", r"line 1: no columns 'text'. Name one with --column; there are: message, b"),
        ("csv", b"text,text\n", "line 1: 2 columns 'text'"),
        ("csv", b"text,label\n", "there is a column 'label' already.*--prefix"),
        (
            "csv",
            b"a,text\n1,hi\n2,hi, you\n",
            r"line 3: 3 cells, and the header has 2; a cell that holds ',' needs quotes",
        ),
        ("csv", b'a,text\n1,"hi" you\n', r"line 2: ',' expected after '\"'.*doubled"),
        ("csv", b'a,text\n1,hi\n2,"hi\nthere\n', "line 3: unexpected end of data"),
        ("csv", b"a,text\n1,hi\rthere\n", "line 2: a carriage return in a cell without quotes"),
        ("csv", "text\nhi".encode("utf-16"), "UTF-16.*iconv"),
        ("csv", ("text," * (MOST_COLUMNS + 1)).encode(), "10,002 columns; the limit is 10,000"),
        ("jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("jsonl", b'\n["text"]\n', r"line 2: '\[\"text\"\]' is not an object"),
        ("jsonl", b'{"text": "a"}\n{"text": "b", "flag": 1}\n', "line 2: there is a column 'flag' already"),
        ("jsonl", b'{"message": "a"}\n', "no columns 'text'.*there are: message"),
        (
            "jsonl",
            b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
            "line 1: lists or objects within each other",
        ),
        (
            "jsonl",
            json.dumps(dict.fromkeys(map(str, range(MOST_COLUMNS + 1)))).encode(),
            "10,001 keys; the limit is 10,000",
        ),
        ("parquet", b"PAR1", "read from its end"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(kind: str, content: bytes, says: str) -> None:
    with pytest.raises(TableError, match=says):
        through(content, kind)


@pytest.mark.fault("hostile", "tables, memory")
@pytest.mark.parametrize(
    ("kind", "start", "piece"),
    [
        ("csv", b"text\n", b"x" * 1000),
        ("csv", b'text\n"never closed', b"short\n" * 200),
        ("jsonl", b"", b"x" * 1000),
        ("text", b"", b"x" * 1000),
    ],
)
def test_a_record_without_an_end_is_not_read_to_the_end(kind: str, start: bytes, piece: bytes) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            data = piece if self.given else start + piece
            buffer[: len(data)] = data
            self.given += len(data)
            return len(data)

    source = Endless()
    with pytest.raises(TableError, match=r"line \d: a record longer than 8,388,608 bytes"):
        for _ in open_lines(io.BufferedReader(source), "endless", kind, Columns()).chunks():
            pass
    assert source.given < 1.1 * LONGEST_RECORD


def test_no_more_than_a_chunk_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamlit.inference.lines.CHUNK_ROWS", 4)

    class Counted:
        lines = 0

        def readline(self, most: int) -> bytes:
            self.lines += 1
            return b"text\n" if self.lines == 1 else b"win\n" if self.lines <= 101 else b""

    source, taken = Counted(), 0
    for chunk in open_lines(source, "mine", "csv", Columns()).chunks():  # type: ignore[arg-type]
        taken += len(chunk)
        assert source.lines - 1 <= taken + 1
    assert taken == 100
    monkeypatch.setattr("spamlit.inference.lines.CHUNK_BYTES", 10)
    assert [
        len(chunk) for chunk in open_lines(io.BytesIO(b"a" * 9 + b"\nb\nc\n"), "mine", "text", Columns()).chunks()
    ] == [1, 2]


@pytest.mark.fault("hostile", "formulas")
def test_formulas_are_neutralised_and_nothing_else_is_touched() -> None:
    rows = ["text,b\r\n", '"plain, quoted",1\r\n', "=1+1,2\r\n", '"@SUM(A1)\nx",+3\r\n', "a=b,-4\r\n", "＝cmd,5\r\n"]
    after = through("".join(rows).encode(), "csv", safe=True).decode()
    assert after.startswith('text,b,label,probability,flag\r\n"plain, quoted",1,ham,0.25,unsure\r\n')
    found = list(csv.reader(io.StringIO(after, newline="")))[2:]
    assert [cells[:2] for cells in found] == [["'=1+1", "2"], ["'@SUM(A1)\nx", "'+3"], ["a=b", "'-4"], ["'＝cmd", "5"]]
    assert through(b"text\n=1\n", "csv") == b"text,label,probability,flag\n=1,ham,0.25,unsure\n"
    assert through(b"text\nhi", "csv", safe=True, prefix="=").startswith(b"text,'=label,'=probability,'=flag\n")


def test_a_prefix_makes_room_for_labels_that_are_there() -> None:
    assert through(b"text,label\nhi,ham\n", "csv", prefix="our_") == (
        b"text,label,our_label,our_probability,our_flag\nhi,ham,ham,0.25,unsure\n"
    )
