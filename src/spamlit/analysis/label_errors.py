"""Messages whose label is probably wrong: a model that has not seen a message disagrees with its label, surely.

Confident learning (Northcutt et al. 2021): of all messages, divided into folds, each is judged by a logistic regression
that learnt from the other folds; one is suspected where its probability of the other label is at least as high as that
label's own messages get on average. The model reads the wording alone (`wording`), so that it neither needs the network
nor shares what the network has learnt by heart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array, hstack
from scipy.special import expit

from spamlit.analysis.wording import wording
from spamlit.data.sms import with_groups

FOLDS = 5
STRENGTH = 10.0
"""Inverse of the regularisation, as scikit-learn's C."""

Floats = NDArray[np.float64]


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
    rows = rows[:, np.bincount(rows.indices, minlength=rows.shape[1]) > 1]  # what one message alone has teaches nothing
    spam = (messages["label"] == "spam").to_numpy(dtype="float64")
    folds = _folds(messages)
    found = np.zeros(len(messages))
    for fold in sorted(set(folds.tolist())):
        out = folds == fold
        found[out] = expit(_with_constant(rows[out]) @ _fitted(rows[~out], spam[~out]))
    return found


def _folds(messages: pd.DataFrame) -> NDArray[np.int64]:
    """A fold (N,) for each message: groups shuffled, then dealt out label by label."""
    groups = messages.drop_duplicates("group").sample(frac=1, random_state=0).sort_values("label", kind="stable")
    fold = pd.Series(np.arange(len(groups)) % FOLDS, groups["group"].to_numpy())
    return messages["group"].map(fold).to_numpy(dtype="int64")


def _fitted(rows: csr_array, spam: Floats) -> Floats:
    """Weights (D + 1,), the last one the constant's, of an L2-regularised logistic regression on `rows` (N, D)."""
    rows = _with_constant(rows)
    penalised = np.append(np.ones(rows.shape[1] - 1), 0.0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = rows @ weights
        losses = np.logaddexp(0, logits) - spam * logits
        gradient = STRENGTH * (rows.T @ (expit(logits) - spam)) + penalised * weights
        return STRENGTH * losses.sum() + (penalised * weights**2).sum() / 2, gradient

    start = np.zeros(rows.shape[1])
    weights: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 50}).x
    return weights


def _with_constant(rows: csr_array) -> csr_array:
    return hstack([rows, np.ones((rows.shape[0], 1))], format="csr")
