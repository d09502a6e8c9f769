"""`spamlit compare`: the runs of a sweep in one table."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Default: compare.csv in the first folder.")
def command(folders: tuple[Path, ...], csv_path: Path | None) -> None:
    """Tabulate all runs below FOLDERS, best validation F1 first, and write the table as CSV.

    spamlit compare outputs/multirun/2026-11-22/10-30-00
    """
    from rich.console import Console

    from spamlit.analysis.compare import rich_table, runs_table, write_table

    table = runs_table(folders)
    path = csv_path or folders[0] / "compare.csv"
    write_table(table, path)
    Console(soft_wrap=True).print(rich_table(table))
    click.echo(f"{len(table)} runs, written to {path}")
