"""The figures that every split is judged by; spam (1) is the positive class."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
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


class SpamMetrics(nn.Module):
    """Accuracy, precision, recall, F1, area under the precision-recall curve and Matthews' correlation.

    Args:
        threshold: Least probability that is spam, as everywhere here; torchmetrics' own would not be spam yet.
        sync: Whether all processes' rows count.

    >>> import torch
    >>> metrics = SpamMetrics()
    >>> metrics.update(torch.tensor([0.9, 0.2, 0.5]), torch.tensor([1, 0, 0]))
    >>> {name: round(value.item(), 3) for name, value in metrics.compute().items()}["precision"]
    0.5
    """

    def __init__(self, threshold: float = THRESHOLD, *, sync: bool = True) -> None:
        super().__init__()
        self.threshold = threshold
        of_decisions: dict[str, Metric | MetricCollection] = {
            "accuracy": BinaryAccuracy(sync_on_compute=sync),
            "precision": BinaryPrecision(sync_on_compute=sync),
            "recall": BinaryRecall(sync_on_compute=sync),
            "f1": BinaryF1Score(sync_on_compute=sync),
            "mcc": BinaryMatthewsCorrCoef(sync_on_compute=sync),
        }
        self.of_decisions = MetricCollection(of_decisions, compute_groups=False)
        self.auprc = BinaryAveragePrecision(sync_on_compute=sync)

    def update(self, probability: Tensor, labels: Tensor) -> None:
        """Takes spam probabilities (N,) and labels (N,) in {0, 1}.

        In float32: under bf16 the probabilities near one would collapse to the same number, and the curve with them.
        """
        self.of_decisions.update((probability >= self.threshold).long(), labels)
        self.auprc.update(probability, labels)

    def compute(self) -> dict[str, Tensor]:
        """All of them, by name and in the order of `METRICS`."""
        found = {**self.of_decisions.compute(), "auprc": self.auprc.compute()}
        return {name: found[name] for name in METRICS if name in found}

    def reset(self) -> None:
        """Forgets what came."""
        self.of_decisions.reset()
        self.auprc.reset()


def split_figures(logits: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """`METRICS` of a whole split, from logits (N, 2) and labels (N,), wherever its rows were computed.

    >>> import torch
    >>> figures = split_figures(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), threshold=0.5)
    >>> figures["recall"], round(figures["loss"], 4)
    (0.5, 0.8133)
    """
    metrics = SpamMetrics(threshold, sync=False)
    metrics.update(logits.softmax(dim=-1)[:, 1], labels)
    loss = F.cross_entropy(logits, labels)
    return {"loss": loss.item()} | {name: value.item() for name, value in metrics.compute().items()}
