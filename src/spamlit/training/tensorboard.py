"""What the loggers show at the end of a run: hyperparameters with final metrics; in TensorBoard also pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import binary_confusion_matrix

from spamlit.training.module import Predictions

LABELS = ("ham", "spam")


def log_results(
    loggers: Iterable[Logger],
    *,
    hyperparameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    predictions: Mapping[str, Predictions],
    texts: Mapping[str, Sequence[str]],
    threshold: float,
    step: int,
) -> None:
    """Writes a finished run's results to each logger there is; Weights & Biases' run ends with that.

    Args:
        loggers: the trainer's; TensorBoard's gets curves, confusion matrices and mistakes besides.
        hyperparameters: flat names and values.
        metrics: final metrics, shown beside the hyperparameters.
        predictions: by split; `validation` and `test` are drawn.
        texts: by split, in the order that `Predictions.rows` counts.
        threshold: least spam probability that counts as spam.
        step: optimizer steps taken.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(hyperparameters))
            logger.log_metrics(dict(metrics), step=step)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
            continue
        logger.log_hyperparams(dict(hyperparameters), dict(metrics), step=step)
        writer = logger.experiment
        for split in ("validation", "test"):
            rows = predictions[split]
            writer.add_pr_curve(split, rows.labels, rows.probability, global_step=step)
            writer.add_figure(f"confusion matrix/{split}", confusion_figure(rows, threshold), global_step=step)
            writer.add_text(f"misclassified/{split}", mistakes_table(rows, texts[split], threshold), global_step=step)
        logger.save()


def confusion_figure(rows: Predictions, threshold: float) -> Figure:
    """Counts of truth (rows) by decision (columns)."""
    counts = binary_confusion_matrix((rows.probability >= threshold).int(), rows.labels)  # (2, 2)
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts.numpy(), cmap="Blues")
    for truth in range(2):
        for decision in range(2):
            dark = counts[truth, decision] > counts.max() / 2
            count = str(int(counts[truth, decision]))
            axes.text(decision, truth, count, ha="center", va="center", color="white" if dark else "black")
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=LABELS, yticklabels=LABELS, xlabel="decided", ylabel="true")
    return figure


def mistakes_table(rows: Predictions, texts: Sequence[str], threshold: float) -> str:
    """The misclassified messages as a Markdown table, the surest mistakes first."""
    wrong = (rows.probability >= threshold).int() != rows.labels
    order = _surest_first(rows.probability[wrong], threshold)
    lines = ["| true | spam probability | message |", "|---|---|---|"]
    for i in torch.nonzero(wrong).flatten()[order].tolist():
        text = texts[int(rows.rows[i])].replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {LABELS[int(rows.labels[i])]} | {rows.probability[i]:.4f} | {text} |")
    return "\n".join(lines) if len(lines) > 2 else "None."


def _surest_first(probability: Tensor, threshold: float) -> Tensor:
    return (probability - threshold).abs().argsort(descending=True)
