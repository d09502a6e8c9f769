"""`spamlit predict`: label messages with a trained classifier."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spamlit.cli.imports import lasting_imports

if TYPE_CHECKING:
    from spamlit.inference.labelling import Counts, Options, Report
    from spamlit.inference.predictor import Predictor

STANDARD = "-"
FORMATS = ("csv", "tsv", "jsonl", "parquet", "text")


def read_band(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """`LOW,HIGH`, two numbers; whether they are a band is the Predictor's to say."""
    if value is None:
        return None
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not LOW,HIGH, as in 0.3,0.7") from None
    return low, high


@click.command(
    epilog="Exit codes: 0 all was labelled; 1 a disk, a file or the network did not do its part; 2 an input or an "
    "option that cannot be; 130 Ctrl-C. Completion of options and file names: docs/predict.md."
)
@click.option("--run", default="latest", show_default=True, help="Run folder, bundle folder, or `latest`.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Least probability that is spam; default: the bundle's.")
@click.option(
    "--unsure",
    callback=read_band,
    metavar="LOW,HIGH",
    help="Flag what has a probability in between; default: the bundle's own band, if it has one.",
)
@click.option(
    "--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="int8 is faster."
)
@click.option("--percent", is_flag=True, help="Show the probabilities of TEXTS as percentages.")
@click.option(
    "--input",
    "inputs",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="File of messages, or a quoted glob of files; `-` is standard input. May be given several times.",
)
@click.option(
    "--output",
    type=click.Path(),
    metavar="FILE",
    default=STANDARD,
    help="Labelled file; for several files a folder, where finished ones are skipped; default: standard output.",
)
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), help="Of input and output; default: what the file's name says."
)
@click.option("--column", default="text", show_default=True, help="Column, or key, with the messages.")
@click.option("--prefix", default="", help="Before the names of the added columns: label, probability, flag.")
@click.option("--safe-csv", is_flag=True, help="Put an apostrophe before cells that a spreadsheet takes for formulas.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="Of the Ray engine: models at once."
)
@click.option("--threads", type=click.IntRange(1), help="Of each model; default: PyTorch's, or the workers' share.")
@click.argument("texts", nargs=-1)
def command(
    run: str,
    threshold: float | None,
    unsure: tuple[float, float] | None,
    precision: str,
    percent: bool,
    inputs: tuple[str, ...],
    output: str,
    kind: str | None,
    column: str,
    prefix: str,
    safe_csv: bool,
    engine: str,
    workers: int,
    threads: int | None,
    texts: tuple[str, ...],
) -> None:
    """Label each of TEXTS, or the messages of files.

    Of TEXTS, label, spam probability and text are printed, one a line. A file comes back with every column and row as
    it was, in order, and the columns label (spam or ham), probability (of spam, 0 to 1) and flag (empty, or why the
    row deserves a look: empty, missing, not text, not UTF-8, NUL, truncated, unsure). It appears when it is complete.

    \b
    spamlit predict --run latest "You have been selected to receive a cash prize"
    spamlit predict --input mine.csv --column message --output labelled.csv
    spamlit predict --input - --format text < messages.txt
    spamlit predict --engine ray --workers 4 --input 'inbox/*.parquet' --output labelled/
    """
    from spamlit.inference.labelling import Options
    from spamlit.inference.tables import Columns

    if bool(texts) == bool(inputs):
        raise click.UsageError("Give messages, or files of messages with --input (- is standard input).")
    if texts and output != STANDARD:
        raise click.UsageError("--output is for messages of files (--input).")
    if inputs and percent:
        raise click.UsageError("--percent is for messages on the command line; files hold probabilities from 0 to 1.")
    columns = Columns(text=column, prefix=prefix, safe=safe_csv)
    options = Options(run, columns, threshold=threshold, unsure=unsure, precision=precision, threads=threads)
    if texts:
        _show(texts, options, percent=percent)
    else:
        _label(inputs, output, kind, options, workers=workers if engine == "ray" else None)


def _show(texts: tuple[str, ...], options: Options, *, percent: bool) -> None:
    answers = _load(options).classify(texts, threshold=options.threshold, unsure=options.unsure)
    for text, answer in zip(texts, answers, strict=True):
        flag = f"  [{answer.flag}]" if answer.flag else ""
        probability = f"{answer.probability:.2%}" if percent else f"{answer.probability:.4f}"
        click.echo(f"{answer.label}  {probability}  {text}{flag}")


def _label(inputs: tuple[str, ...], output: str, kind: str | None, options: Options, *, workers: int | None) -> None:
    from spamlit.inference.labelling import check_target, find_sources, label_file, tell_kind
    from spamlit.inference.tables import SUFFIXES, kind_of
    from spamlit.training.run_folder import find_bundle

    find_bundle(options.run)  # before anything is read
    target = None if output == STANDARD else Path(output)
    if STANDARD in inputs:
        if len(inputs) > 1 or workers:
            raise click.UsageError("standard input comes alone, and to the local engine.")
        sources = []
    else:
        sources = find_sources(inputs)
    if len(sources) > 1 or workers or (target and (target.is_dir() or output.endswith(os.sep))):
        if target is None or not sources or not _names_a_folder(output):
            raise click.UsageError(f"--output {output}: several files, or the Ray engine, need a folder to write to.")
        _label_folder(sources, target, kind, options, workers)
        return
    if target and target.suffix and not (kind or kind_of(target)):
        endings = " ".join(SUFFIXES)
        raise click.UsageError(
            f"--output {output}: {target.suffix} is none of {endings}; choose one, or give --format."
        )
    source = sources[0] if sources else None
    chosen = tell_kind(kind, *filter(None, (source, target)))
    check_target(source, target, chosen, options.columns)
    _tell(str(source or "standard input"), label_file(source, target, chosen, options, lambda: _load(options), _track))


def _names_a_folder(output: str) -> bool:
    from spamlit.inference.tables import kind_of

    path = Path(output)
    return path.is_dir() or (not path.exists() and (output.endswith(os.sep) or kind_of(path) is None))


def _label_folder(sources: list[Path], folder: Path, kind: str | None, options: Options, workers: int | None) -> None:
    from spamlit.inference.labelling import check_target, claim_folder, find_jobs, label_files

    jobs = find_jobs(sources, folder, kind)
    claim_folder(folder, options)
    for job in jobs:
        check_target(job.source, job.target, job.kind, options.columns)
    open_jobs = [job for job in jobs if not job.done]
    if len(open_jobs) < len(jobs):
        click.echo(f"{len(jobs) - len(open_jobs)} of {len(jobs)} files are finished already", err=True)
    if not open_jobs:
        return
    if workers:
        from spamlit.inference import ray_engine

        results = ray_engine.label_files(open_jobs, options, workers=workers)
    else:
        results = label_files(open_jobs, options, lambda: _load(options), _track)
    failed = 0
    for job, found in results:
        if isinstance(found, str):
            failed += 1
            click.echo(f"error: {found}", err=True)
        else:
            _tell(str(job.target), found)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} files could not be read; the others are in {folder}.")


def _load(options: Options) -> Predictor:
    with lasting_imports():
        import spamlit.inference.predictor  # noqa: F401  # torch with it
    return options.load()


def _tell(name: str, counts: Counts) -> None:
    """How many messages of which kind, on standard error."""
    flags = {flag: n for flag, n in counts.items() if flag not in ("messages", "spam", "ham")}
    flagged = "".join(f", {n:,} {flag}" for flag, n in sorted(flags.items()))
    click.echo(f"{name}: {counts['messages']:,} messages, {counts['spam']:,} spam{flagged}", err=True)


@contextmanager
def _track(name: str, n_rows: int | None) -> Iterator[Report]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich import progress
    from rich.console import Console

    bars: list[Any] = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn()]
    bars.append(progress.TimeRemainingColumn())
    with progress.Progress(*bars, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=n_rows)
        yield lambda done: bar.advance(task, done)
