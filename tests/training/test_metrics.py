"""A probability at the threshold is spam, in metrics.json as in every answer."""

import pytest
import torch

from spamlit.training.decision import Decision
from spamlit.training.metrics import METRICS, SpamMetrics, split_figures


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_probability_at_the_threshold_is_spam(threshold: float) -> None:
    metrics = SpamMetrics(threshold)
    metrics.update(torch.tensor([threshold, 0.0]), torch.tensor([1, 0]))
    assert metrics.compute()["recall"] == 1


def test_a_split_is_judged_as_its_messages_are() -> None:
    logits, labels = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2
    threshold = Decision().probability(logits)[7].item()
    figures = split_figures(logits, labels, threshold)
    right = (Decision().probability(logits) >= threshold) == (labels == 1)
    assert figures["accuracy"] == pytest.approx(right.float().mean().item())
    assert set(figures) == set(METRICS)
