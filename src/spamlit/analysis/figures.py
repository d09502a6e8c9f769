"""The figures of the pages, as inline SVG."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.functional.classification import binary_precision_recall_curve

from spamlit.training.decision import reliability

Scalars = dict[str, tuple[list[int], list[float]]]
"""Steps and values by name."""


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


def precision_recall_figure(rows: pd.DataFrame, threshold: float) -> Figure:
    """The precision-recall curve of `rows` (``label``, ``probability``) with the decision threshold marked."""
    labels = torch.tensor((rows["label"] == "spam").to_numpy(dtype="int64"))
    probability = torch.tensor(rows["probability"].to_numpy(dtype="float32"))
    precision, recall, thresholds = binary_precision_recall_curve(probability, labels)
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.step(recall, precision, where="post")
    chosen = int((thresholds < threshold).sum())  # first threshold that is at least ours
    axes.plot(recall[chosen], precision[chosen], "o", label=f"threshold {threshold:.3g}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    return figure


def reliability_figure(rows: pd.DataFrame, temperature: float) -> Figure:
    """Share of spam against mean probability, bin by bin, as decided and, where it changed them, before temperature.

    Args:
        rows: ``label`` and ``probability``.
        temperature: That the log-odds behind the probabilities were divided by; 1: none.
    """
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle=":")
    spam = torch.from_numpy((rows["label"] == "spam").to_numpy(dtype="int64"))
    probability = rows["probability"].to_numpy(dtype="float64")
    drawn = [("as decided", "o-", probability)]
    if temperature != 1:
        drawn.append(("before temperature", "s--", before_temperature(probability, temperature)))
    for name, style, values in drawn:
        bins = reliability(torch.tensor(values), spam)
        label = f"{name} (error {bins.error:.3f})"
        axes.plot(bins.probability, bins.share, style, markersize=4, label=label)
    axes.set(xlabel="spam probability", ylabel="share of spam", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left", fontsize="small")
    return figure


def before_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """What the probabilities were before their log-odds were divided by the temperature.

    >>> before_temperature(np.array([0.5, 0.75]), 2.0).round(6).tolist()
    [0.5, 0.9]
    """
    clipped = probability.clip(1e-12, 1 - 1e-12)
    log_odds = temperature * (np.log(clipped) - np.log1p(-clipped))
    return np.asarray(1 / (1 + np.exp(-log_odds)))


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
