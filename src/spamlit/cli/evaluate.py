"""`spamlit evaluate`: what a classifier is worth on labelled messages."""

from __future__ import annotations

from pathlib import Path

import click

from spamlit.cli.imports import lasting_imports


@click.command()
@click.option("--run", default="latest", show_default=True, help="Run folder, bundle folder, or `latest`.")
@click.option(
    "--input",
    "table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labelled messages, CSV or TSV with a header; default: the run's own test split.",
)
@click.option("--text-column", default="text", show_default=True)
@click.option("--label-column", default="label", show_default=True)
@click.option("--positive", default="spam", show_default=True, help="The label that means spam.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; default: evaluation/ and the messages' name, in the run.",
)
@click.option(
    "--disguise", is_flag=True, help="Classify nine disguises of each message too, and harmless changes of the ham."
)
def command(
    run: str,
    table: Path | None,
    text_column: str,
    label_column: str,
    positive: str,
    output: Path | None,
    *,
    disguise: bool,
) -> None:
    """Classify labelled messages and write metrics with intervals, predictions and a page on every mistake.

    The page explains all mistakes word by word: about a second each with SmolLM2-135M on two cores.

    \b
    spamlit evaluate --run latest --input mine.csv --text-column message --label-column kind --positive junk
    spamlit evaluate --run latest --disguise
    """
    with lasting_imports():
        from rich.console import Console
        from rich.table import Table

        from spamlit.analysis.evaluate import evaluate, other_messages
        from spamlit.analysis.report import run_name
        from spamlit.data.sms import read_csv_messages
        from spamlit.data.splits import FITTED, read_split
        from spamlit.inference.predictor import Predictor
        from spamlit.training.run_folder import find_bundle

    bundle = find_bundle(run)
    if table is not None:
        name = f"input-{table.stem}" if table.stem in FITTED else table.stem
        messages = read_csv_messages(table, text_column=text_column, label_column=label_column, positive=positive)
    else:
        name = "test"
        if not (bundle.parent / "test.csv").is_file():
            raise ValueError(f"{bundle} has no test.csv beside it: name the labelled messages with --input FILE.")
        messages = read_split(bundle.parent / "test.csv")
    folder = output or bundle.parent / "evaluation" / name
    known = other_messages(bundle, but=None if table else "test")
    found = evaluate(
        Predictor.load(bundle), messages, known, folder, name=name, of=run_name(bundle.parent), disguise=disguise
    )
    shown = Table()
    for heading in ("metric", "value", "95 % interval"):
        shown.add_column(heading, justify="left" if heading == "metric" else "right")
    for metric, share in found.figures.items():
        shown.add_row(metric, f"{share.value:.4f}", f"{share.low:.4f} to {share.high:.4f}")
    Console(soft_wrap=True).print(shown)
    if disguise:
        mean = found.robustness["disguised"]["mean"]
        click.echo(f"disguised    recall {mean['recall_before']:.4f}, disguised {mean['recall_after']:.4f}")
        click.echo(f"disguised    false positives {mean['fpr_before']:.4f}, disguised {mean['fpr_after']:.4f}")
    click.echo(f"{len(messages)} messages, written to {folder}")
    click.echo(f"report       {folder / 'report.html'}")
