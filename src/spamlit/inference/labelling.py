"""Whole files through the Predictor: read, labelled and written some rows at a time, by any engine in the same way.

What a row gets depends on its file alone: the rows of a chunk are computed together, and the file says where chunks
begin. So every engine writes the same bytes, given the same number of threads.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from spamlit.assets import atomic_write, sha256_file
from spamlit.inference.tables import SUFFIXES, Answer, Columns, Table, TableError, kind_of, open_table
from spamlit.training.run_folder import find_bundle, read_json, write_json

if TYPE_CHECKING:
    from spamlit.inference.predictor import Prediction, Predictor

LONGEST_TEXT = 100_000
"""Characters of a message that are looked at: far more than any backbone's context."""
SETTINGS = ".spamlit.json"
"""In a folder of labelled files: what they were labelled with."""
_SURROGATE = re.compile("[\ud800-\udfff]")

Report = Callable[[int], None]
"""Called with the number of rows that were labelled since the last call."""
Track = Callable[[str, int | None], AbstractContextManager[Report]]
"""Called with a file's name and its number of rows, where that is known."""


@dataclass(frozen=True)
class Options:
    """How files are labelled.

    Attributes:
        run: a run folder, a bundle folder, or `latest`.
        columns: what is read and added.
        threshold, unsure: as `Predictor.classify` takes them.
        precision: as `Predictor.load` takes it.
        threads: of PyTorch; None: as it likes.
    """

    run: str
    columns: Columns = field(default_factory=Columns)
    threshold: float | None = None
    unsure: tuple[float, float] | None = None
    precision: str = "fp32"
    threads: int | None = None

    def load(self) -> Predictor:
        """The Predictor."""
        import torch

        from spamlit.inference.predictor import Predictor

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return Predictor.load(self.run, precision=self.precision)


@dataclass(frozen=True)
class Job:
    """A file to label, the file to write, and the format of both."""

    source: Path
    target: Path
    kind: str

    @property
    def done(self) -> bool:
        """Whether the labelled file is there, and no older than its source."""
        return self.target.is_file() and self.target.stat().st_mtime >= self.source.stat().st_mtime


Counts = Counter[str]
"""`messages`, `spam`, `ham`, and each flag."""


def label_file(
    source: Path | None, target: Path | None, kind: str, options: Options, load: Callable[[], Predictor], track: Track
) -> Counts:
    """Labels a file: reads it once to see that all of it can be read, once more to label it, and writes it whole.

    Args:
        source: read; None is standard input, which is read once.
        target: written in one step, when all of it is there; None is standard output, as it comes.
        kind: the format of both.
        options: how.
        load: gives the Predictor; called when the file was found sound.
        track: shows how far it is.

    Raises:
        TableError: a file that cannot be read; nothing was written.
        OSError: the same, or the labelled file cannot be written.
    """
    n_rows = None
    if source is not None:
        with open_table(source, kind, options.columns) as table:
            n_rows = sum(len(table.values(chunk)) for chunk in table.chunks())
    with open_table(source, kind, options.columns) as table:
        predictor = load()
        with track(str(source or "standard input"), n_rows) as report, _opened(target) as stream:
            return label_table(table, stream, predictor, options, report)


@contextmanager
def _opened(target: Path | None) -> Iterator[BinaryIO]:
    if target is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with atomic_write(target) as temporary, temporary.open("wb") as stream:
            yield stream


def label_table(table: Table, target: BinaryIO, predictor: Predictor, options: Options, report: Report) -> Counts:
    """Labels a table chunk by chunk; no more than one is held.

    Raises:
        TableError: a record that cannot be read.
    """
    counts: Counts = Counter()
    with table.writer(target) as write:
        for chunk in table.chunks():
            answers = label_values(predictor, table.values(chunk), options.threshold, options.unsure)
            write(chunk, answers)
            counts.update({"messages": len(answers)})
            counts.update(answer.label for answer in answers if answer.label)
            counts.update(flag for answer in answers if answer.flag for flag in answer.flag.split(";"))
            report(len(answers))
    return counts


def label_values(
    predictor: Predictor, values: Sequence[object], threshold: float | None, unsure: tuple[float, float] | None
) -> list[Answer]:
    """An answer for whatever a cell may hold.

    No value has the flag `missing`, one that is not a string `not text`: neither label nor probability. Strings get the
    Predictor's answer; those with bytes that are not UTF-8 (which are read as U+FFFD), or with a NUL, are flagged.
    """
    read = [_readable(value) for value in values]
    found = iter(predictor.classify([text for text, _ in read if text is not None], threshold=threshold, unsure=unsure))
    return [Answer(None, None, flags[0]) if text is None else _answer(next(found), flags) for text, flags in read]


def _readable(value: object) -> tuple[str | None, list[str]]:
    if value is None:
        return None, ["missing"]
    if not isinstance(value, str):
        return None, ["not text"]
    text = _SURROGATE.sub("\ufffd", value[:LONGEST_TEXT])
    flags = {"truncated": len(value) > LONGEST_TEXT, "not UTF-8": text != value[:LONGEST_TEXT], "NUL": "\0" in text}
    return text, [flag for flag, raised in flags.items() if raised]


def _answer(prediction: Prediction, flags: list[str]) -> Answer:
    """In each format with the same digits: six that count."""
    merged = dict.fromkeys([*filter(None, prediction.flag.split(";")), *flags])
    return Answer(prediction.label, float(f"{prediction.probability:.6g}"), ";".join(merged))


def find_jobs(sources: Sequence[Path], folder: Path, kind: str | None) -> list[Job]:
    """What there is to label: files into a folder, where they keep their names.

    Raises:
        TableError: a format that cannot be told, two files of one name, or one in the folder itself.
    """
    jobs: dict[str, Job] = {}
    for source in sources:
        if source.name in jobs:
            raise TableError(f"{jobs[source.name].source} and {source} would both become {folder / source.name}.")
        if source.parent.resolve() == folder.resolve():
            raise TableError(f"{source} lies in {folder} itself; choose another folder with --output.")
        jobs[source.name] = Job(source, folder / source.name, tell_kind(kind, source))
    return list(jobs.values())


def find_sources(inputs: Sequence[str]) -> list[Path]:
    """The files that names and globs mean, each once.

    Raises:
        TableError: a pattern that nothing matches.
    """
    sources: dict[Path, None] = {}
    for pattern in inputs:
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # pathlib has none from the root
        if not found:
            raise TableError(f"--input {pattern}: there is no such file, and no file's name matches.")
        sources |= dict.fromkeys(path for path in map(Path, found) if not path.is_dir())
    if not sources:
        raise TableError(f"--input {inputs[0]} is a folder; name files, as in '{Path(inputs[0]) / '*.csv'}'.")
    return list(sources)


def tell_kind(kind: str | None, *paths: Path) -> str:
    """The format that was given, or that the first telling name says.

    Raises:
        TableError: none of them says.
    """
    said = kind or next(filter(None, map(kind_of, paths)), None)
    if said is None:
        names = " or ".join(map(str, paths)) or "standard input"
        raise TableError(f"{names}: the name does not say the format ({' '.join(SUFFIXES)} do); give --format.")
    return said


def check_target(source: Path | None, target: Path | None, kind: str, columns: Columns) -> None:
    """Refuses what cannot be written.

    Raises:
        TableError: with the fix.
    """
    if columns.safe and kind not in ("csv", "tsv"):
        raise TableError(f"--safe-csv is for csv and tsv; spreadsheets run no formulas of {kind}.")
    if target is None:
        if kind == "parquet":
            raise TableError("Parquet is not for standard output; name a file with --output.")
        return
    if not target.parent.is_dir():
        raise TableError(f"--output {target}: there is no folder {target.parent}.")
    if not os.access(target.parent, os.W_OK):
        raise TableError(f"--output {target}: the folder {target.parent} cannot be written to; choose another.")
    if target.exists() and not target.is_file():  # it would be replaced, be it /dev/null
        raise TableError(f"--output {target} is no file; choose another, or leave it out for standard output.")
    if (told := kind_of(target)) not in (None, kind):
        raise TableError(
            f"--output {target}: the name says {told}, and the input is {kind}; give them the same format."
        )
    if source is not None and target.exists() and target.samefile(source):
        raise TableError(f"--output {target} is the input; choose another file.")


def claim_folder(folder: Path, options: Options) -> None:
    """Makes a folder for labelled files, or sees that those there were labelled in the same way.

    Raises:
        TableError: they were labelled with another classifier or other options.
        RunNotFoundError: no such run.
    """
    given = json.loads(json.dumps(asdict(options))) | {"bundle": sha256_file(find_bundle(options.run) / "config.json")}
    for how in ("run", "threads"):
        del given[how]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SETTINGS).exists():
        write_json(folder / SETTINGS, given)
    elif (before := read_json(folder / SETTINGS)) != given:
        other = ", ".join(key for key in given if before.get(key) != given[key])
        raise TableError(f"{folder} holds files labelled with another {other}. Choose another folder, or remove it.")


def label_files(
    jobs: Iterable[Job], options: Options, load: Callable[[], Predictor], track: Track
) -> Iterator[tuple[Job, Counts | str]]:
    """The local engine: files one after another; for one that cannot be read, why (the others go on)."""
    once = cache(load)
    for job in jobs:
        try:
            yield job, label_file(job.source, job.target, job.kind, options, once, track)
        except TableError as error:
            yield job, str(error)
