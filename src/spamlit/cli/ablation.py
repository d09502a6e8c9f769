"""`spamlit ablation`: our runs of the ablation table beside the published figures."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def command(folder: Path) -> None:
    """Write ablation.md, .csv and .png of the rows that ran below FOLDER, each beside its published figures.

    spamlit ablation outputs/ablation/smollm2-135m
    """
    from spamlit.analysis.ablation import ablation_table, markdown, write_ablation
    from spamlit.cli.train import CONF

    table = ablation_table(folder, CONF / "experiment")
    click.echo(markdown(table))
    click.echo(f"written: {', '.join(map(str, write_ablation(table, folder)))}")
