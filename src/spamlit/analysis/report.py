"""report.html: what a run did, in one file that needs no network."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import from_numpy
from torchmetrics.functional.classification import binary_precision_recall_curve

from spamlit.assets import atomic_write
from spamlit.data.splits import read_split
from spamlit.model.bundle import read_settings
from spamlit.training.metrics import METRICS
from spamlit.training.module import Predictions
from spamlit.training.run_folder import read_json
from spamlit.training.tensorboard import confusion_figure

SPLITS = ("validation", "test")


def write_report(run: Path) -> Path:
    """Writes `report.html` into a finished run folder and gives its path.

    Raises:
        FileNotFoundError: the run has not finished: metrics.json, run.json, predictions.csv or a split is missing.
    """
    threshold = float(read_settings(run / "classifier")["threshold"])
    predictions = pd.read_csv(run / "predictions.csv")
    record = read_json(run / "run.json")
    scalars = read_scalars(run / "tensorboard")
    environment = jinja2.Environment(loader=jinja2.PackageLoader("spamlit.analysis", "."), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        name="/".join(run.absolute().parts[-2:]),
        metrics=read_json(run / "metrics.json"),
        record=record,
        figures=METRICS,
        threshold=threshold,
        curves=svg(curves_figure(scalars)),
        splits=[split_section(run, split, predictions, threshold) for split in SPLITS],
    )
    path = run / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def read_scalars(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each scalar that TensorBoard holds; of steps that a resumed run repeated, the last."""
    if not folder.is_dir():  # a run without logger
        return {}
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells which file it reads
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        values = {e.step: e.value for e in events.Scalars(tag)}
        found[tag] = (sorted(values), [values[step] for step in sorted(values)])
    return found


def curves_figure(scalars: dict[str, tuple[list[int], list[float]]]) -> Figure:
    """Training and validation loss, and validation F1 and accuracy, by optimizer step."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, scalars, {"train/loss": "training", "val/loss": "validation"}, "loss")
    _plot(right, scalars, {"val/f1": "F1", "val/accuracy": "accuracy"}, "validation")
    return figure


def split_section(run: Path, split: str, predictions: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """What the page shows of one split: confusion matrix, precision-recall curve, mistakes with their texts."""
    rows = predictions[predictions["split"] == split].reset_index(drop=True)
    texts = read_split(run / f"{split}.csv")
    rows = rows.merge(texts[["id", "text"]].drop_duplicates("id"), on="id", how="left")
    decided = (rows["probability"] >= threshold).map({True: "spam", False: "ham"})
    wrong = rows[decided != rows["label"]].assign(sure=lambda table: (table["probability"] - threshold).abs())
    labels = from_numpy((rows["label"] == "spam").to_numpy(dtype="int64", copy=True))
    probability = from_numpy(rows["probability"].to_numpy(dtype="float32", copy=True))
    index = from_numpy(rows.index.to_numpy(copy=True))
    return {
        "name": split,
        "n": len(rows),
        "confusion": svg(confusion_figure(Predictions(index, probability, labels), threshold)),
        "curve": svg(precision_recall_figure(probability, labels, threshold)),
        "wrong": wrong.sort_values("sure", ascending=False).to_dict("records"),
    }


def precision_recall_figure(probability: Any, labels: Any, threshold: float) -> Figure:
    """The precision-recall curve with the decision threshold marked."""
    precision, recall, thresholds = binary_precision_recall_curve(probability, labels)
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.step(recall, precision, where="post")
    chosen = int((thresholds < threshold).sum())  # first threshold that is at least ours
    axes.plot(recall[chosen], precision[chosen], "o", label=f"threshold {threshold:g}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    return figure


def svg(figure: Figure) -> Markup:
    """A figure as inline SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def _plot(axes: Axes, scalars: dict[str, tuple[list[int], list[float]]], names: dict[str, str], title: str) -> None:
    for tag, label in names.items():
        if tag in scalars and scalars[tag][0]:
            axes.plot(*scalars[tag], label=label, marker="." if len(scalars[tag][0]) < 20 else "")
    axes.set(xlabel="step", ylabel=title)
    if axes.lines:
        axes.legend()
