"""`spamlit compare`: the runs of a sweep in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

WIDE = 140
"""Columns of a file or a pipe, which nobody has set."""


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Default: compare.csv in the first folder.")
@click.option(
    "--baseline",
    multiple=True,
    metavar="KEY=VALUE",
    help="What the others are compared with, where there are several seeds; default: the best on validation.",
)
def command(folders: tuple[Path, ...], csv_path: Path | None, baseline: tuple[str, ...]) -> None:
    """Tabulate all runs below FOLDERS, best validation F1 first, and write the table as CSV.

    Where runs differ in their seeds only, a second table has their means with 95 % intervals, and the differences to
    the baseline: paired, where the seeds are the same.

    spamlit compare outputs/multirun/2026-11-22/10-30-00 --baseline model.trainable=head
    """
    show(folders, csv_path or folders[0] / "compare.csv", baseline)


def show(folders: Sequence[Path], csv_path: Path, baseline: Sequence[str] = ()) -> None:
    """Prints and writes the table of all finished runs below the folders, and that of their means over seeds.

    Raises:
        ValueError: no finished run, or no such baseline.
    """
    from rich.console import Console

    from spamlit.analysis.compare import rich_groups, rich_table, runs_table, seed_groups, write_table

    runs = runs_table(folders)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(soft_wrap=True, width=max(console.width, WIDE))
    console.print(rich_table(runs))
    write_table(runs, csv_path)
    click.echo(f"{len(runs)} runs, written to {csv_path}")
    groups = seed_groups(runs, baseline)
    if groups is not None:
        path = csv_path.with_name(f"{csv_path.stem}-groups.csv")
        console.print(rich_groups(groups))
        write_table(groups, path)
        click.echo(f"means over seeds with 95 % intervals (Student's t), written to {path}")
