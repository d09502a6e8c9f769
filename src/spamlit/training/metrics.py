"""The figures that every split is judged by; spam (1) is the positive class."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAveragePrecision,
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    BinaryPrecision,
    BinaryRecall,
)

from spamlit.training.decision import THRESHOLD

METRICS = ("loss", "accuracy", "precision", "recall", "f1", "auprc", "mcc")


def spam_metrics(threshold: float = THRESHOLD, *, sync: bool = True) -> MetricCollection:
    """Accuracy, precision, recall, F1, area under the precision-recall curve and Matthews' correlation.

    Feed it with float32 spam probabilities (N,) and labels (N,) in {0, 1}: under bf16 the probabilities near one would
    collapse to the same number, and the curve with them. Over all processes' rows, unless `sync` is False.

    >>> import torch
    >>> metrics = spam_metrics()
    >>> metrics.update(torch.tensor([0.9, 0.2, 0.6]), torch.tensor([1, 0, 0]))
    >>> {name: round(value.item(), 3) for name, value in metrics.compute().items()}["precision"]
    0.5
    """
    return MetricCollection(
        {
            "accuracy": BinaryAccuracy(threshold, sync_on_compute=sync),
            "precision": BinaryPrecision(threshold, sync_on_compute=sync),
            "recall": BinaryRecall(threshold, sync_on_compute=sync),
            "f1": BinaryF1Score(threshold, sync_on_compute=sync),
            "auprc": BinaryAveragePrecision(sync_on_compute=sync),
            "mcc": BinaryMatthewsCorrCoef(threshold, sync_on_compute=sync),
        },
        compute_groups=False,
    )


def split_figures(logits: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """`METRICS` of a whole split, from logits (N, 2) and labels (N,), wherever its rows were computed.

    >>> import torch
    >>> figures = split_figures(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), threshold=0.5)
    >>> figures["recall"], round(figures["loss"], 4)
    (0.5, 0.8133)
    """
    metrics = spam_metrics(threshold, sync=False)
    metrics.update(logits.softmax(dim=-1)[:, 1], labels)
    loss = F.cross_entropy(logits, labels)
    return {"loss": loss.item()} | {name: value.item() for name, value in metrics.compute().items()}
