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
Scalars = dict[str, tuple[list[int], list[float]]]
"""Steps and values by name."""


def write_report(run: Path) -> Path:
    """Writes `report.html` and `curves.png` into a finished run folder and gives the path of the first.

    Raises:
        FileNotFoundError: the run has not finished: metrics.json, run.json, predictions.csv or a split is missing.
    """
    threshold = float(read_settings(run / "classifier")["threshold"])
    predictions = pd.read_csv(run / "predictions.csv")
    record = read_json(run / "run.json")
    scalars = read_scalars(run / "tensorboard")
    examples = (
        record["hyperparameters"]["data.batch_size"] * record["hyperparameters"]["trainer.accumulate_grad_batches"]
    )
    curves = curves_figure(scalars, record["steps_per_epoch"], examples)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("spamlit.analysis", "."), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        name="/".join(run.absolute().parts[-2:]),
        metrics=read_json(run / "metrics.json"),
        record=record,
        figures=METRICS,
        threshold=threshold,
        curves=svg(curves),
        splits=[split_section(run, split, predictions, threshold) for split in SPLITS],
    )
    with atomic_write(run / "curves.png") as temporary:
        curves.savefig(temporary, format="png", dpi=150)
    path = run / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def read_scalars(folder: Path) -> Scalars:
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


def curves_figure(scalars: Scalars, steps_per_epoch: int, examples_per_step: int) -> Figure:
    """Loss, and accuracy with validation F1, against epochs (below) and examples seen (above).

    The training accuracy of an epoch is that of its batches as they were trained on.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, scalars, steps_per_epoch, {"train/loss": "training", "val/loss": "validation"}, "loss")
    accuracies = {"train/accuracy": "training", "val/accuracy": "validation", "val/f1": "validation F1"}
    _plot(right, scalars, steps_per_epoch, accuracies, "accuracy")
    per_epoch = steps_per_epoch * examples_per_step
    for axes in (left, right):
        above = axes.secondary_xaxis("top", functions=(lambda x: x * per_epoch, lambda x: x / per_epoch))
        above.set_xlabel("examples seen")
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


def _plot(axes: Axes, scalars: Scalars, steps_per_epoch: int, names: dict[str, str], title: str) -> None:
    for tag, label in names.items():
        steps, values = scalars.get(tag, ([], []))
        if steps:  # Lightning counts them from 0
            epochs = [(step + 1) / steps_per_epoch for step in steps]
            axes.plot(epochs, values, label=label, marker="." if len(steps) < 20 else "")
    axes.set(xlabel="epochs", ylabel=title)
    if axes.lines:
        axes.legend()
