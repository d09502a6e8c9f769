"""`spamlit predict`: messages, streams, files and folders; what cannot be is refused before anything is loaded."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.runs import tiny_run

from spamlit.cli import main
from spamlit.inference.predictor import Predictor

TEXTS = ["You have won a holiday", "see you at the pub", "", "a" * 3000]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false", "data.max_length=24").folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "message"], *enumerate(TEXTS)])
    return path


def predict(run: Path, *arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["predict", "--run", str(run), *map(str, arguments)], input=given)


def test_messages_are_shown_a_line_each(finished: Path) -> None:
    first, second = Predictor.load(finished).classify(TEXTS[:2])
    result = predict(finished, *TEXTS[:2])
    assert result.stdout.splitlines() == [
        f"{first.label}  {first.probability:.4f}  {TEXTS[0]}",
        f"{second.label}  {second.probability:.4f}  {TEXTS[1]}",
    ]
    result = predict(finished, "--percent", "--threshold", 0, "--unsure", "0,1", TEXTS[0])
    assert result.stdout == f"spam  {first.probability:.2%}  {TEXTS[0]}  [unsure]\n"


def test_a_file_s_rows_get_the_predictor_s_answers(finished: Path, table: Path) -> None:
    result = predict(finished, "--input", table, "--column", "message", "--output", table.with_name("out.csv"))
    assert result.exit_code == 0, result.output
    said = Predictor.load(finished).classify(TEXTS)
    with table.with_name("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["message"] for row in rows] == TEXTS
    assert [(row["label"], row["flag"]) for row in rows] == [(answer.label, answer.flag) for answer in said]
    assert [float(row["probability"]) for row in rows] == pytest.approx([a.probability for a in said], rel=1e-5)
    n_spam = sum(answer.label == "spam" for answer in said)
    assert result.stderr == f"{table}: 4 messages, {n_spam} spam, 1 empty, 1 truncated\n"


def test_standard_input_to_standard_output(finished: Path) -> None:
    (answer,) = Predictor.load(finished).classify([TEXTS[0]])
    options = ["--input", "-", "--threshold", 0]
    result = predict(finished, *options, "--format", "jsonl", given=json.dumps({"text": TEXTS[0]}))
    assert result.stdout == (
        f'{{"text": "{TEXTS[0]}", "label": "spam", "probability": {answer.probability:.6g}, "flag": ""}}'
    )
    result = predict(finished, *options, "--format", "text", given=f"{TEXTS[0]}\n")
    assert result.stdout == f"spam\t{answer.probability:.6g}\t\t{TEXTS[0]}\n"


def test_a_folder_is_resumed_by_file(finished: Path, table: Path) -> None:
    out = table.parent / "labelled"
    (table.parent / "bad.jsonl").write_text("{\n")
    (table.parent / "more.tsv").write_text("message\nhello\n")
    options = ["--column", "message", "--input", f"{table.parent}/*.*", "--output", f"{out}/"]
    result = predict(finished, *options)
    assert result.exit_code == 2
    assert "bad.jsonl, line 1: not JSON" in result.stderr
    assert result.stderr.splitlines()[-1] == f"error: 1 of 3 files could not be read; the others are in {out}."
    assert sorted(path.name for path in out.iterdir()) == [".spamlit.json", "mine.csv", "more.tsv"]
    before = (out / "mine.csv").stat()
    (table.parent / "bad.jsonl").write_text('{"message": "hi"}\n')
    result = predict(finished, *options)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == "2 of 3 files are finished already"
    assert (out / "mine.csv").stat() == before
    assert (out / "bad.jsonl").read_text().startswith('{"message": "hi", "label": ')
    result = predict(finished, *options, "--threshold", "0.9")
    assert (result.exit_code, "labelled with another threshold" in result.stderr) == (2, True)


def test_what_is_not_installed_is_named(finished: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    out = table.parent / "out"
    result = predict(finished, "--input", table, "--format", "parquet", "--output", out)
    assert (result.exit_code, 'pip install "spamlit[parquet]"' in result.stderr) == (2, True)
    result = predict(finished, "--input", table, "--column", "message", "--engine", "ray", "--output", out)
    assert (result.exit_code, 'pip install "spamlit[ray]"' in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Give messages, or files"),
        (["hello", "--input", "mine.csv"], "Give messages, or files"),
        (["hello", "--output", "out.csv"], "--output is for messages of files"),
        (["--input", "mine.csv", "--percent"], "--percent is for messages on the command line"),
        (["--input", "gone.csv"], "--input gone.csv: there is no such file"),
        (
            ["--input", "mine.csv"],
            "mine.csv, line 1: no columns 'text'. Name one with --column; there are: id, message",
        ),
        (["--input", "-"], "standard input: the name does not say the format"),
        (["--input", "-", "--input", "mine.csv"], "standard input comes alone"),
        (["--input", "mine.csv", "--output", "out.jsonl"], "the name says jsonl, and the input is csv"),
        (["--input", "mine.csv", "--output", "out.xlsx"], "--output out.xlsx: .xlsx is none of .csv"),
        (["--input", "mine.csv", "--output", "mine.csv", "--column", "message"], "--output mine.csv is the input"),
        (["--input", "mine.csv", "--output", "gone/out.csv"], "there is no folder gone"),
        (["--input", "mine.csv", "--format", "parquet"], "Parquet is not for standard output"),
        (["--input", "mine.csv", "--format", "jsonl", "--safe-csv"], "--safe-csv is for csv and tsv"),
        (["--input", "mine.csv", "--engine", "ray"], "need a folder to write to"),
        (["--input", "mine.csv", "--engine", "ray", "--output", "out.csv"], "need a folder to write to"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    finished: Path, table: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(table.parent)
    monkeypatch.setattr("spamlit.inference.predictor.load_bundle", lambda folder: pytest.fail("loaded"))
    result = predict(finished, *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert list(table.parent.iterdir()) == [table]


def test_what_is_no_file_is_not_replaced_and_a_locked_folder_is_named(
    finished: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = table.with_name("pipe")
    os.mkfifo(pipe)
    options = ["--input", table, "--column", "message", "--output"]
    result = predict(finished, *options, pipe)
    assert (result.exit_code, "pipe is no file; choose another" in result.stderr) == (2, True)
    assert pipe.is_fifo()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # whoever runs this may write anywhere
    result = predict(finished, *options, table.with_name("out.csv"))
    assert (result.exit_code, f"the folder {table.parent} cannot be written to" in result.stderr) == (2, True)
