"""Runs side by side, and their means over seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from spamlit.analysis.statistics import difference, mean_interval
from spamlit.assets import atomic_write
from spamlit.training.run_folder import HOW, given_overrides, read_json, stored_overrides

SEED = "seed"
GROUP_SHOWN = ("val/f1", "test/f1", "test/accuracy", "reserve/fpr")
DIFFERENCES = ("val/f1", "test/f1")
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
    """What fits a terminal: the run below what all have in common, what it overrode, the figures of `SHOWN`."""
    shown = Table()
    for name in (columns := _columns(table)):
        shown.add_column(name, justify="right" if name in SHOWN else "left", overflow="fold")
    common = os.path.commonpath([Path(run).parent for run in table["run"]])
    named = table.assign(run=[str(Path(run).relative_to(common)) for run in table["run"]])
    for row in named[columns].itertuples(index=False):
        shown.add_row(*(_text(value) for value in row))
    return shown


def seed_groups(table: pd.DataFrame, baseline: Sequence[str] = ()) -> pd.DataFrame | None:
    """Means over the runs that differ in nothing but their seed; None where no two do.

    Args:
        table: of `runs_table`.
        baseline: `key=value` of the one group that the others are compared with; by default the first.

    Returns:
        A row a group, the best mean validation F1 first: its overrides, `runs`, of each figure the mean (its own name)
        and the half width of the 95 % interval (`… ±`), and the difference to the baseline (`… Δ`, `… Δ±`), which is
        paired where two or more seeds are the same.

    Raises:
        ValueError: no group, or several, that fit the baseline.
    """
    keys = [name for name in _overridden(table) if name != SEED]
    figures = [str(name) for name in table if "/" in str(name) or name == "seconds"]
    groups = [runs for _, runs in table.groupby(keys, dropna=False, sort=False)] if keys else [table]
    if SEED not in table or len(groups) == len(table):
        return None
    groups.sort(key=lambda runs: (-runs["val/f1"].mean(), runs["val/loss"].mean()))
    choices = [runs[keys].iloc[0].to_dict() for runs in groups]
    by_seed = [runs.groupby(SEED)[figures].mean() for runs in groups]
    reference = _baseline(choices, baseline)

    def of_seed(group: int, figure: str) -> dict[str, float]:
        return {str(seed): float(value) for seed, value in by_seed[group][figure].dropna().items()}

    rows = []
    for i, (runs, choice) in enumerate(zip(groups, choices, strict=True)):
        row = choice | {"runs": len(runs)}
        for name in figures:
            row[name], row[f"{name} ±"] = mean_interval(runs[name].dropna().tolist())
            if i != reference:
                row[f"{name} Δ"], row[f"{name} Δ±"] = difference(of_seed(i, name), of_seed(reference, name))
        rows.append(row)
    return pd.DataFrame(rows)


def rich_groups(groups: pd.DataFrame) -> Table:
    """The means with their intervals, and the differences of F1, for a terminal."""
    shown = Table()
    keys = [str(name) for name in groups.columns[: groups.columns.get_loc("runs")]]
    for name in (*keys, "runs"):
        shown.add_column(name, justify="right" if name == "runs" else "left", overflow="fold")
    figures = [name for name in GROUP_SHOWN if name in groups]
    changes = [f"{name} Δ" for name in DIFFERENCES if f"{name} Δ" in groups]
    for name in (*figures, *changes):
        shown.add_column(name, justify="right")
    for row in groups.to_dict("records"):
        means = [f"{_text(row[name])}{_half(row[f'{name} ±'])}" for name in figures]
        differences = ["" if pd.isna(row[name]) else f"{row[name]:+.4f}{_half(row[f'{name}±'])}" for name in changes]
        shown.add_row(*(_text(row[key]) for key in keys), str(row["runs"]), *means, *differences)
    return shown


def _half(value: float) -> str:
    return "" if pd.isna(value) else f" ± {value:.4f}"


def _baseline(choices: Sequence[dict[Any, Any]], wanted: Sequence[str]) -> int:
    """The number of the one choice that has all the wanted `key=value`s; the first where nothing is wanted."""
    pairs = [text.partition("=")[::2] for text in wanted]
    fitting = [i for i, choice in enumerate(choices) if all(str(choice.get(key)) == value for key, value in pairs)]
    if not wanted or len(fitting) == 1:
        return fitting[0]
    there = "; ".join(",".join(f"{key}={value}" for key, value in choice.items()) for choice in choices)
    raise ValueError(f"--baseline {' '.join(wanted)} fits {len(fitting)} of the groups, not one: {there}.")


def _overridden(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if "/" not in str(name) and name not in ("run", "seconds")]


def _columns(table: pd.DataFrame) -> list[str]:
    return ["run", *_overridden(table), *(name for name in SHOWN if name in table)]


def _row(run: Path) -> dict[str, Any]:
    given = given_overrides(run)
    overrides = _overrides((stored_overrides(run) or []) if given is None else given)
    seconds = read_json(run / "run.json")["timing"]["total"] if (run / "run.json").exists() else None
    return {"run": str(run), **overrides, **read_json(run / "metrics.json"), "seconds": seconds}


def _overrides(stored: Sequence[str]) -> dict[str, str]:
    """`key=value` of each override, under `= key` so that it cannot be taken for a metric."""
    pairs = (text.lstrip("+~").partition("=") for text in stored)
    return {f"= {key}": value for key, _, value in pairs if key not in HOW}


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4f}"
    return str(value)
