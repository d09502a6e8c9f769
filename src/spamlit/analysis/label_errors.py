"""Messages whose label is probably wrong: a model that has not seen a message disagrees with its label, surely.

Confident learning (Northcutt et al. 2021): of all messages, divided into folds, each is judged by a logistic regression
that learnt from the other folds; one is suspected where its probability of the other label is at least as high as that
label's own messages get on average. The model reads the wording alone (`wording`), so that it neither needs the network
nor shares what the network has learnt by heart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spamlit.analysis.wording import BUCKETS, Floats, Wording, wording
from spamlit.data.sms import with_groups

FOLDS = 5
STRENGTH = 10.0
"""Inverse of the regularisation, as scikit-learn's C."""


def suspected_labels(messages: pd.DataFrame) -> pd.DataFrame:
    """The messages whose label is suspected, the most suspicious first.

    Args:
        messages: ``label`` and ``text`` of each, and any other columns. Repeats are in one fold, or one would vouch for
            the label of its twin.

    Returns:
        Those rows with ``out_of_fold``, the spam probability according to the other folds.
    """
    messages = with_groups(messages).reset_index(drop=True)
    table = messages.assign(out_of_fold=out_of_fold(messages))
    spam = table["label"] == "spam"
    other = table["out_of_fold"].where(~spam, 1 - table["out_of_fold"])  # probability of the label that is not given
    usual = {label: table.loc[spam == label, "out_of_fold"].mean() for label in (True, False)}
    limit = pd.Series(np.where(spam, 1 - usual[False], usual[True]), table.index)
    order = other[(other >= limit) & (other > 0.5)].sort_values(ascending=False, kind="stable").index
    return table.loc[order]


def out_of_fold(messages: pd.DataFrame) -> Floats:
    """Spam probability (N,) of each message (``label``, ``text``, ``group``) by a model of the other folds."""
    rows = wording(messages["text"].tolist())
    spam = (messages["label"] == "spam").to_numpy(dtype="float64")
    folds = _folds(messages)
    found = np.zeros(len(messages))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = _fitted(rows, spam, ~out)[out]
    return found


def _folds(messages: pd.DataFrame) -> NDArray[np.int64]:
    """A fold (N,) for each message: groups shuffled, then dealt out label by label."""
    groups = messages.drop_duplicates("group").sample(frac=1, random_state=0).sort_values("label", kind="stable")
    fold = pd.Series(np.arange(len(groups)) % FOLDS, groups["group"].to_numpy())
    return messages["group"].map(fold).to_numpy(dtype="int64")


def _fitted(rows: Wording, spam: Floats, known: NDArray[np.bool_]) -> Floats:
    """Spam probabilities (N,) by L2-regularised logistic regression on the messages that are `known` (N,)."""
    weights = torch.zeros(BUCKETS + 1, dtype=torch.float64)  # the bias is the last
    weights.grad = torch.zeros_like(weights)
    optimizer = torch.optim.LBFGS([weights], max_iter=30, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> float:
        values = weights.numpy()
        logits = rows.times(values[:-1]) + values[-1]
        missing = STRENGTH * known * (expit(logits) - spam)  # derivative by the logits
        gradient = np.append(rows.transposed_times(missing) + values[:-1], missing.sum())
        weights.grad = torch.from_numpy(gradient)
        losses = np.logaddexp(0, logits) - spam * logits
        return float(STRENGTH * losses[known].sum() + (values[:-1] ** 2).sum() / 2)

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    values = weights.numpy()
    return expit(rows.times(values[:-1]) + values[-1])


def expit(x: Floats) -> Floats:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
