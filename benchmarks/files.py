"""Large files through `spamlit predict`: memory, rows and order, what a kill leaves, and what Ray's workers write.

    python -m benchmarks.files memory --run RUN              100,000 messages, the peak of resident memory
    python -m benchmarks.files kill --run RUN --rows 20000   SIGKILL half-way, into a file
    python -m benchmarks.files ray --run RUN --rows 4000     both engines, three formats; the second one killed half-way

The table is the collection, then its messages two hundred times each, eight of them changed, with columns of quotes,
commas and line ends. Whatever does not hold is an error; the figures are kept in files.json beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from benchmarks.common import ROOT, measure
from pyarrow import parquet

from spamlit.assets import fetch
from spamlit.data.sms import parse

HEADER = ["id", "note", "text", "paid"]
ADDED = ["label", "probability", "flag"]
FORMATS = ("csv", "parquet", "jsonl")
COPIES, CHANGED = 200, 8
LIMIT_GB = 1.5


def messages() -> Iterator[str]:
    """The collection, then without end: one of its messages two hundred times, eight of them with other words."""
    texts = parse(fetch("SMSSpamCollection"))["text"].tolist()
    yield from texts
    draw = random.Random(0)
    while True:
        text, *others = draw.choices(texts, k=1 + CHANGED)
        yield from [text] * (COPIES - CHANGED)
        yield from (f"{text} {other}"[: max(len(text), 60)] + f" {draw.randrange(100)}" for other in others)


def rows(begin: int, end: int) -> list[list[str]]:
    """Records of `HEADER`, numbered."""
    notes = ['say "hi", he said', "two\nlines", "", "£ 中文 😀"]
    found = enumerate(islice(messages(), begin, end), begin)
    return [[str(i), notes[i % 4], text, f"{i % 700}.50"] for i, text in found]


def write(path: Path, records: Sequence[Sequence[str]]) -> None:
    """A table in the format that the name says."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEADER, *records])
    elif path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(HEADER, record, strict=True)), ensure_ascii=False) for record in records]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        parquet.write_table(pa.table(dict(zip(HEADER, zip(*records, strict=True), strict=True))), path)


def check(source: Path, labelled: Path) -> int:
    """Sees that a labelled CSV file has every record of its source, in order, and an answer to each; how many."""
    n = 0
    with source.open(newline="", encoding="utf-8") as before, labelled.open(newline="", encoding="utf-8") as after:
        for given, made in zip(csv.reader(before), csv.reader(after), strict=True):
            assert made[: len(given)] == given, f"record {n} became {made}"
            label, probability, flag = made[len(given) :]
            sound = (
                label in ("spam", "ham") and 0 <= float(probability) <= 1 if n else [label, probability, flag] == ADDED
            )
            assert sound, f"record {n} became {made}"
            n += 1
    return n - 1


def command(given: argparse.Namespace, *options: object) -> list[str]:
    """`spamlit predict`."""
    start = [sys.executable, "-m", "spamlit", "predict", "--run", given.run]
    return [*start, "--precision", given.precision, "--threads", str(given.threads), *map(str, options)]


def memory(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Labels the table and measures the process."""
    source, target = work / "big.csv", work / "labelled.csv"
    records = rows(0, given.rows)
    write(source, records)
    distinct = len({record[2] for record in records})
    del records
    found = measure(command(given, "--input", source, "--output", target), work / "log")
    assert check(source, target) == given.rows
    peak = found.peak_mb / 1000
    assert peak <= LIMIT_GB, f"{peak:.2f} GB of memory, more than {LIMIT_GB}"
    return {
        "rows": given.rows,
        "distinct": distinct,
        "seconds": found.seconds,
        "peak_gb": peak,
        "anonymous_gb": found.anonymous_mb / 1000,
    }


def kill(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Ends the process when half of the output is written, and looks at what is there."""
    source, folder = work / "big.csv", work / "out"
    folder.mkdir()
    write(source, rows(0, given.rows))
    process = subprocess.Popen(command(given, "--input", source, "--output", folder / "labelled.csv"), cwd=ROOT)
    while sum(path.stat().st_size for path in folder.iterdir()) < source.stat().st_size / 2:
        assert process.poll() is None, "the process ended by itself"
        time.sleep(0.1)
    process.kill()
    process.wait()
    left = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert left, "the process was killed before it wrote anything"
    assert all(name.startswith(".") and name.endswith(".tmp") for name in left), left
    assert not list(folder.glob("*.csv"))
    return {"rows": given.rows, "bytes_written": sum(left.values()), "left": list(left)}


def ray(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Labels files of three formats with both engines, the second one killed when half of its files are there."""
    inputs = work / "in"
    inputs.mkdir()
    each = given.rows // (2 * len(FORMATS))
    for number in range(2 * len(FORMATS)):
        write(inputs / f"{number}.{FORMATS[number % 3]}", rows(number * each, (number + 1) * each))
    seconds = {}
    for engine in ("local", "ray"):
        options = ["--engine", engine, "--workers", "2", "--input", f"{inputs}/*", "--output", f"{work / engine}/"]
        started = time.monotonic()
        if engine == "ray":
            _kill_after(command(given, *options), work / engine, len(FORMATS))
        before = {path: path.stat().st_mtime_ns for path in finished(work / engine)}
        subprocess.run(command(given, *options), cwd=ROOT, check=True)
        seconds[engine] = time.monotonic() - started
        assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished file was written again"
    written = [{path.name: path.read_bytes() for path in finished(work / engine)} for engine in ("local", "ray")]
    assert written[0] == written[1], "the engines differ"
    assert len(written[0]) == 2 * len(FORMATS)
    for path in inputs.glob("*.csv"):
        assert check(path, work / "ray" / path.name) == each
    return {"files": len(written[1]), "rows_each": each, "finished_before_the_kill": len(before), "seconds": seconds}


def _kill_after(started: Sequence[str], folder: Path, n: int) -> None:
    process = subprocess.Popen(started, cwd=ROOT)
    while len(finished(folder)) < n:
        assert process.poll() is None, "the process ended by itself"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(finished(folder)) < 2 * len(FORMATS), "it had ended before it was killed; give more --rows"


def finished(folder: Path) -> list[Path]:
    """Files that could be taken for results."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


WAYS = {"memory": memory, "kill": kill, "ray": ray}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WAYS)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("files.json"))
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="spamlit-files-"))
    try:
        found = WAYS[given.what](given, work)
    finally:
        shutil.rmtree(work)
    found = {"run": given.run, "precision": given.precision, "threads": given.threads, **found}
    print(given.what, json.dumps(found), flush=True)
    kept = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps({**kept, given.what: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
