"""The ablation table: our runs of its rows beside the published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from spamlit.analysis.statistics import Interval, mean_interval
from spamlit.assets import atomic_write
from spamlit.training.run_folder import HOW, given_overrides, read_json, stored_overrides

ROWS = "ablation/row"
SPLITS = ("train", "val", "test")
FIGURES = {**{split: f"{split}/accuracy" for split in SPLITS}, "test F1": "test/f1", "minutes": "minutes"}
"""Our columns, and where their values come from; accuracies and F1 in per cent, as published."""
EXPECTED = {"experiment", "backbone", "seed", *HOW}
"""Keys of a run's command line that the table says elsewhere."""


def ablation_table(folder: Path, experiments: Path) -> pd.DataFrame:
    """One row a published row that was run: what it changes, its published figures, our means over seeds.

    Runs of one row with other backbones or overrides are rows of their own.

    Args:
        folder: of the sweep's runs.
        experiments: conf/experiment.

    Returns:
        Columns `row`, `changes`, `published train|val|test|minutes`, `backbone`, `runs`, and of each of `FIGURES` the
        mean and half the width of its 95 % interval (`… ±`; NaN for a single run); of the minutes of training the most:
        a run that finds the frozen blocks' output on disk, kept by an earlier one, does not say what they cost.

    Raises:
        ValueError: no finished run of any row.
    """
    runs = pd.DataFrame(_runs(folder))
    if runs.empty:
        raise ValueError(f"no finished run of a row below {folder}: make them with `make ablation`.")
    rows = []
    for _, same in runs.groupby(["experiment", "backbone", "overrides"]):
        run = same.iloc[0]
        row: dict[str, Any] = {"row": int(run["experiment"].removeprefix(ROWS))}
        changed = changes(experiments / f"{run['experiment']}.yaml")
        other = [f"backbone={run['backbone']}"] if _other_backbone(changed, run["backbone"]) else []
        here = ", ".join([*other, *run["overrides"]])
        row["changes"] = f"{changed} (here {here})" if here else changed
        row |= {f"published {name}": run["published"].get(name) for name in (*SPLITS, "minutes")}
        row |= {"backbone": run["backbone"], "runs": len(same)}
        for name in FIGURES:
            row[name], row[f"{name} ±"] = mean_interval(same[name].tolist())
        row["minutes"], row["minutes ±"] = same["minutes"].max(), math.nan
        rows.append(row)
    return pd.DataFrame(rows).sort_values("row", ignore_index=True)


def changes(experiment: Path) -> str:
    """What a row's file sets on top of the lesson, as overrides: `model.trainable=all`."""
    content: Any = OmegaConf.to_container(OmegaConf.load(experiment))
    content.pop("published", None)
    based = list(_defaults(content.pop("defaults")))
    return ", ".join([*based, *_overrides(content, "")]) or "nothing: the lesson"


def _other_backbone(changed: str, backbone: str) -> bool:
    """Whether a row whose file chooses a backbone was run with another one."""
    return "backbone=" in changed and f"backbone={backbone}" not in changed.split(", ")


def _defaults(entries: Iterable[str | dict[str, str]]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, dict):  # override /backbone: gpt2-medium
            yield from (f"{key.removeprefix('override /')}={value}" for key, value in entry.items())
        elif entry not in ("_self_", "/experiment/lesson"):
            yield f"experiment={entry.removeprefix('/experiment/')}"


def _overrides(content: Any, path: str) -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _overrides(value, f"{path}{key}.")
        else:
            yield f"{path}{key}={value}".replace("'", "").replace(" ", "")


def _runs(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("metrics.json")):
        run = path.parent
        chosen = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.runtime.choices
        if not str(chosen.get("experiment")).startswith(ROWS):
            continue
        timing = read_json(run / "run.json")["timing"]
        figures = read_json(path) | {"minutes": (timing["prefix"] + timing["fit"]) / 60}
        percent = {name: 100 * figures[key] for name, key in FIGURES.items() if name != "minutes"}
        published = OmegaConf.to_container(OmegaConf.load(run / ".hydra" / "config.yaml").published)
        yield {
            "experiment": chosen.experiment,
            "published": published,
            "backbone": chosen.backbone,
            "overrides": _beyond_the_row(run),
            "minutes": figures["minutes"],
            **percent,
        }


def _beyond_the_row(run: Path) -> tuple[str, ...]:
    """What a run's command line set on top of its row, its backbone and its seed."""
    given = given_overrides(run)
    texts = (stored_overrides(run) or []) if given is None else given
    return tuple(sorted(text.lstrip("+") for text in texts if text.split("=", 1)[0].lstrip("+") not in EXPECTED))


def write_ablation(table: pd.DataFrame, folder: Path) -> list[Path]:
    """ablation.csv, ablation.md and ablation.png in a folder; their paths."""
    paths = [folder / f"ablation.{kind}" for kind in ("csv", "md", "png")]
    with atomic_write(paths[0]) as temporary:
        table.to_csv(temporary, index=False)
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(markdown(table), encoding="utf-8")
    with atomic_write(paths[2]) as temporary:
        _plot(table, temporary)
    return paths


def markdown(table: pd.DataFrame) -> str:
    """The table with published figures on the left, and ours, mean ± half the 95 % interval, on the right."""
    published = [f"published {name}" for name in (*SPLITS, "minutes")]
    head = ["row", "changes", *published, f"runs of {', '.join(table['backbone'].unique())}", *FIGURES]
    lines = ["| " + " | ".join(head) + " |", "|---:|---|" + "---:|" * (len(head) - 2)]
    for row in table.to_dict("records"):
        theirs = ["" if row[name] is None else f"{row[name]:.2f}" for name in published]
        ours = [Interval(row[name], row[f"{name} ±"]).shown(2) for name in FIGURES]
        lines.append("| " + " | ".join([str(row["row"]), row["changes"], *theirs, str(row["runs"]), *ours]) + " |")
    return "\n".join(lines) + "\n"


def _plot(table: pd.DataFrame, path: Path) -> None:
    """Test accuracy by row: published, and ours with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    at = range(len(table))
    axis.errorbar(
        at, table["test"], table["test ±"].fillna(0.0), fmt="o", capsize=3, label="here, mean over seeds, 95 %"
    )
    axis.plot(at, table["published test"], "x", color="tab:gray", label="published, one seed")
    axis.set_xticks(at, [str(row) for row in table["row"]])
    axis.set_xlabel("row")
    axis.set_ylabel("test accuracy, %")
    axis.grid(axis="y", alpha=0.3)
    axis.legend()
    figure.savefig(path, format="png", dpi=120)
