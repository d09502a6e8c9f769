"""Tables and texts from strangers: memory stays bounded, one line says why, and a NUL is a character like any other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import SMALL
from tests.faults.outcome import FULL
from tests.runs import tiny_run

from spamlit.data.sms import parse, read_labelled
from spamlit.data.splits import make_splits, read_split, write_splits
from spamlit.data.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false", "report=false").folder


LIMITED = """
import atexit, pathlib, resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
atexit.register(lambda: pathlib.Path("status").write_text(pathlib.Path("/proc/self/status").read_text()))
from spamlit.cli import main
main()
"""


def megabytes(*command: str, cwd: Path) -> tuple[int, str, float]:
    """Exit code, what was said on standard error, and the largest resident size, of a command.

    (What the system keeps in `ru_maxrss` would begin with the size of this process.)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", (cwd / "status").read_text())
    return done.returncode, done.stderr, int(peak) / 1024


def big_line(path: Path) -> None:
    path.write_bytes(b"text,label\nhello,ham\n" + b"x" * 100_000_000 + b",spam\n")


def big_cell(path: Path) -> None:
    path.write_bytes(b'text,label\nhello,ham\n"' + b"x\n" * 50_000_000 + b'",spam\n')


def many_columns(path: Path) -> None:
    path.write_bytes(
        b"text,label," + b",".join(b"c%d" % n for n in range(1_000_000)) + b"\nhello,ham" + b"," * 1_000_000
    )


def many_cells(path: Path) -> None:
    path.write_bytes(b"text,label\nhello,ham\n" + b"hi" + b"," * 1_000_000 + b"\n")


TABLES = {
    "a line of 100 MB": (big_line, "longer than"),
    "a cell of 100 MB": (big_cell, "longer than|larger than field limit"),
    "a million columns": (many_columns, "the limit is 10,000"),
    "a million cells": (many_cells, "1,000,001 cells, and (the )?header( has)? 2|1000001 cells, and the header has 2"),
}
PEAK = {"predict": 200.0, "train": 700.0}
"""Megabytes of a command that reads such a table; most of it are libraries: to predict, torch is not loaded yet."""
MEMORY = [(command, what) for command in ("predict", "train") for what in TABLES]


@pytest.mark.assets
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says there what memory a process took")
@pytest.mark.fault("hostile", "tables, memory")
@pytest.mark.parametrize(("command", "what"), MEMORY if FULL else [MEMORY[0], MEMORY[-2]])
def test_memory_stays_bounded(trained: Path, tmp_path: Path, what: str, command: str) -> None:
    make, says = TABLES[what]
    make(tmp_path / "mine.csv")
    if command == "predict":
        arguments = ["predict", "--run", str(trained), "--input", "mine.csv", "--prefix", "p_", "--output", "out.csv"]
    else:
        arguments = ["train", *SMALL[:-1], "data=csv", "data.source=mine.csv", "data.text_column=text"]
        arguments += ["data.label_column=label", "data.positive=spam", "hydra.run.dir=run"]
    code, said, peak = megabytes(*arguments, cwd=tmp_path)
    assert code == 2, said
    assert re.search(rf"^error: .*mine\.csv.*({says})", said, re.M), said
    assert len(said) < 1000
    assert not (tmp_path / "out.csv").exists()
    assert peak < PEAK[command], f"{peak:.0f} MB"


@pytest.mark.fault("hostile", "tables, encodings")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"text,label\nwin \xa3100,spam\nhi,ham\n", "is not UTF-8"),
        ("text,label\nwin,spam\n".encode("utf-16"), "is not UTF-8"),
        ("text,label\nwin £,spam\n".encode() + "hi £,ham\n".encode("latin-1"), "is not UTF-8"),
        (b'text,label\n"win,spam\nhi,ham\n', "not a table"),
        (b"", "not a table"),
    ],
)
def test_tables_of_other_encodings_are_refused_by_training(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_labelled(tmp_path / "mine.csv")


@pytest.mark.fault("hostile", "tables, NUL")
def test_a_nul_is_a_character_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(b"text,label\nwin\0now,spam\n\0,ham\n")
    frame = read_labelled(tmp_path / "mine.csv")
    assert frame["text"].tolist() == ["win\0now", "\0"]
    lines = [f"{label}\t{word}\0{'x' * n}\n" for n in range(20) for label, word in (("ham", "hello"), ("spam", "win"))]
    (tmp_path / "lines").write_text("".join(lines))
    splits = make_splits(parse(tmp_path / "lines"))
    for path in write_splits(splits, tmp_path / "run"):
        back = read_split(path)
        assert back.to_dict("list") == splits.frames()[path.stem][back.columns].to_dict("list")


@pytest.mark.fault("hostile", "texts")
@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
@pytest.mark.assets
def test_no_text_is_too_much_for_a_tokenizer(name: str) -> None:
    """tiktoken panics on a million spaces before a letter."""
    tokenizer = load_tokenizer(name)
    for text in (" " * 3_000_000 + "a", "\n " * 1_500_000 + "x", "a" * 3_000_000, "1" * 3_000_000, "'" * 3_000_000):
        for shift in ("", "\x00"):
            assert tokenizer.encode(shift + text)
