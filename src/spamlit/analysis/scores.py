"""What a set of predictions is worth: every figure from labels, probabilities and thresholds alone. Spam is positive.

A *predictions frame* has a row a message with the columns ``id``, ``label`` (``"ham"`` or ``"spam"``), ``probability``
(of spam) and ``threshold`` (the least probability that counts as spam; rows may differ in it).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spamlit.training.decision import BINS, choose_threshold

NATURAL = 0.5
"""The threshold of a system that has chosen none."""
FPR_LIMIT = 0.005
"""False positives per ham message that `recall_at_fpr` allows."""

BY_THRESHOLD = ("precision", "recall", "f1", "mcc", "accuracy", "fp_per_1000")
BY_PROBABILITY = ("auprc", "recall_at_fpr", "ece", "brier")
METRICS = (*BY_THRESHOLD, *BY_PROBABILITY)

Array = NDArray[np.float64]


def scores(frame: pd.DataFrame) -> dict[str, float]:
    """Each of `METRICS` of a predictions frame.

    ``fp_per_1000`` counts false positives per 1,000 ham. ``recall_at_fpr`` is the highest recall that any threshold
    reaches with at most `FPR_LIMIT` false positives per ham (0 where none does). ``ece`` is the expected calibration
    error over `BINS` bins of equally many messages. Where a figure would divide by zero it is 0, as in scikit-learn.

    >>> frame = pd.DataFrame({"label": ["spam", "spam", "ham", "ham"], "probability": [0.9, 0.4, 0.6, 0.1]})
    >>> found = scores(frame.assign(threshold=0.5))
    >>> found["precision"], found["recall"], round(found["auprc"], 4), found["fp_per_1000"]
    (0.5, 0.5, 0.8333, 500.0)
    """
    return {name: float(value[0]) for name, value in weighted_scores(frame, np.ones((1, len(frame)))).items()}


def weighted_scores(frame: pd.DataFrame, weights: Array) -> dict[str, Array]:
    """`scores` of many samples of the same messages at once.

    Args:
        frame: N predictions.
        weights: (R, N), how often each message is in each of R samples.

    Returns:
        (R,) values of each of `METRICS`.
    """
    order = np.argsort(-frame["probability"].to_numpy(), kind="stable")
    spam = (frame["label"] == "spam").to_numpy()[order]
    probability = frame["probability"].to_numpy(dtype=np.float64)[order]
    flagged = probability >= frame["threshold"].to_numpy()[order]
    weights = weights[:, order]
    found = _confusion_scores(
        weights @ (spam & flagged),
        weights @ (~spam & flagged),
        weights @ (spam & ~flagged),
        weights @ (~spam & ~flagged),
    )
    found |= _curve_scores(spam, probability, weights)
    found["ece"] = _calibration_error(spam[::-1], probability[::-1], weights[:, ::-1])
    found["brier"] = weights @ (probability - spam) ** 2 / weights.sum(axis=1)
    return {name: found[name] for name in METRICS}


def f1_threshold(frame: pd.DataFrame) -> float:
    """The threshold with the highest F1 on these messages (`choose_threshold`); `NATURAL` where all say the same.

    Args:
        frame: ``label`` and ``probability``.
    """
    if frame["probability"].nunique() < 2:
        return NATURAL
    labels = torch.from_numpy((frame["label"] == "spam").to_numpy(dtype=np.int64))
    return choose_threshold(torch.from_numpy(frame["probability"].to_numpy(dtype=np.float32)), labels, "f1").value


def _confusion_scores(tp: Array, fp: Array, fn: Array, tn: Array) -> dict[str, Array]:
    return {
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "fp_per_1000": 1000 * _ratio(fp, fp + tn),
    }


def _curve_scores(spam: NDArray[np.bool_], probability: Array, weights: Array) -> dict[str, Array]:
    """Average precision, and recall under the limit of false positives; rows by falling probability."""
    ends = np.append(np.flatnonzero(probability[1:] != probability[:-1]), len(probability) - 1)  # equal ones together
    tp = np.cumsum(weights * spam, axis=1)[:, ends]  # (R, N) -> (R, thresholds)
    fp = np.cumsum(weights * ~spam, axis=1)[:, ends]
    recall = _ratio(tp, tp[:, -1:])
    allowed = fp <= FPR_LIMIT * fp[:, -1:]
    return {
        "auprc": (np.diff(recall, axis=1, prepend=0.0) * _ratio(tp, tp + fp)).sum(axis=1),
        "recall_at_fpr": np.where(allowed, recall, 0.0).max(axis=1),
    }


def _calibration_error(spam: NDArray[np.bool_], probability: Array, weights: Array) -> Array:
    """Rows by rising probability; equal ones share their gap, so that their order plays no part."""
    first = np.append(True, probability[1:] != probability[:-1])
    starts, group = np.flatnonzero(first), np.cumsum(first) - 1
    gaps = (
        np.add.reduceat(weights * (probability - spam), starts, axis=1)[:, group] / np.bincount(group)[group]
    )  # (R, N)
    bins = [rows[0] for rows in np.array_split(np.arange(len(spam)), BINS) if len(rows)]
    return _ratio(np.abs(np.add.reduceat(gaps, bins, axis=1)).sum(axis=1), weights.sum(axis=1))


def _ratio(part: Array, whole: Array) -> Array:
    """0 where the whole is 0."""
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.divide(part, whole, out=np.zeros(shape), where=np.broadcast_to(whole > 0, shape))
