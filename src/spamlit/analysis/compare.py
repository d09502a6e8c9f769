"""Runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from rich.table import Table

from spamlit.assets import atomic_write
from spamlit.training.run_folder import read_json

SHOWN = ("val/f1", "val/accuracy", "val/loss", "test/f1", "test/accuracy", "reserve/fpr", "seconds")


def runs_table(folders: Iterable[Path]) -> pd.DataFrame:
    """One row a finished run below the folders: its folder, what it overrode, all its metrics and its seconds.

    Sorted by validation F1, the best first; a tie goes to the lower validation loss.

    Raises:
        ValueError: there is no finished run.
    """
    folders = list(folders)
    found = sorted({path.parent for folder in folders for path in folder.rglob("metrics.json")})
    if not found:
        raise ValueError(f"no finished run below {', '.join(map(str, folders))}: a finished one has a metrics.json.")
    rows = [_row(run) for run in found]
    table = pd.DataFrame(rows)
    changing = [name for name in table if str(name).startswith("= ") and table[name].nunique(dropna=False) == 1]
    table = table.drop(columns=changing if len(rows) > 1 else []).rename(
        columns=lambda name: str(name).removeprefix("= ")
    )
    return table.sort_values(["val/f1", "val/loss"], ascending=[False, True], ignore_index=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """The whole table as CSV, atomically."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def rich_table(table: pd.DataFrame) -> Table:
    """What fits a terminal: the run, what it overrode, the figures of `SHOWN`."""
    shown = Table()
    for name in (columns := _columns(table)):
        shown.add_column(name, justify="right" if name in SHOWN else "left")
    for row in table[columns].itertuples(index=False):
        shown.add_row(*(_text(value) for value in row))
    return shown


def _columns(table: pd.DataFrame) -> list[str]:
    overrides = [name for name in table if "/" not in str(name) and name not in ("run", "seconds")]
    return ["run", *map(str, overrides), *(name for name in SHOWN if name in table)]


def _row(run: Path) -> dict[str, Any]:
    overrides = _overrides(run / ".hydra" / "overrides.yaml")
    seconds = read_json(run / "run.json")["timing"]["total"] if (run / "run.json").exists() else None
    return {"run": str(run), **overrides, **read_json(run / "metrics.json"), "seconds": seconds}


def _overrides(path: Path) -> dict[str, str]:
    """`key=value` of each override, under `= key` so that it cannot be taken for a metric."""
    stored: Sequence[Any] = list(OmegaConf.load(path)) if path.exists() else []
    pairs = (str(text).lstrip("+~").partition("=") for text in stored)
    return {f"= {key}": value for key, _, value in pairs if key != "ckpt"}


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4f}"
    return str(value)
