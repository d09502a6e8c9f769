"""The figures that every split is judged by; spam (1) is the positive class."""

from __future__ import annotations

from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    BinaryPrecision,
    BinaryRecall,
)

THRESHOLD = 0.5
"""Least spam probability that counts as spam until something better is chosen on validation."""

METRICS = ("loss", "accuracy", "precision", "recall", "f1", "auprc", "mcc")


def spam_metrics(threshold: float = THRESHOLD) -> MetricCollection:
    """Accuracy, precision, recall, F1, area under the precision-recall curve and Matthews' correlation.

    Feed it with float32 spam probabilities (N,) and labels (N,) in {0, 1}: under bf16 the probabilities near one would
    collapse to the same number, and the curve with them.

    >>> import torch
    >>> metrics = spam_metrics()
    >>> metrics.update(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1, 0, 0]))
    >>> {name: round(value.item(), 3) for name, value in metrics.compute().items()}["precision"]
    0.5
    """
    return MetricCollection(
        {
            "accuracy": BinaryAccuracy(threshold),
            "precision": BinaryPrecision(threshold),
            "recall": BinaryRecall(threshold),
            "f1": BinaryF1Score(threshold),
            "auprc": BinaryAveragePrecision(),
            "mcc": BinaryMatthewsCorrCoef(threshold),
        },
        compute_groups=False,
    )
