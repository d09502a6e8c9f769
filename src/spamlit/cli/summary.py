"""The last lines of a run: its metrics and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from spamlit.training.metrics import METRICS


def print_summary(folder: Path, metrics: Mapping[str, float]) -> None:
    """A table of the splits' metrics, and the paths of the bundle, the report and the TensorBoard command."""
    console = Console(soft_wrap=True)
    table = Table()
    table.add_column("split")
    for name in METRICS:
        table.add_column(name, justify="right")
    for split in ("train", "val", "test"):
        if f"{split}/loss" in metrics:
            table.add_row(split, *(f"{metrics[f'{split}/{name}']:.4f}" for name in METRICS))
    console.print(table)
    if "reserve/fpr" in metrics:
        console.print(f"reserve: {metrics['reserve/fpr']:.2%} of {metrics['reserve/n']:,.0f} ham taken for spam")
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console.print(f"classifier   {shown / 'classifier'}", highlight=False)
    if (folder / "report.html").exists():
        console.print(f"report       {shown / 'report.html'}", highlight=False)
    console.print(f"TensorBoard  tensorboard --logdir {shown / 'tensorboard'}", highlight=False)
    console.print(f'predict      spamlit predict --run {shown} "text"', highlight=False)
