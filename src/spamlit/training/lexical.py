"""The linear part of a head of perceptrons: logistic regressions on hashed n-grams, fitted before the networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from spamlit.data.datamodule import SMSDataModule
from spamlit.model.head import Perceptrons
from spamlit.model.logistic import fit_logistic

STRENGTH = 100.0
"""Inverse of the regularisation, as scikit-learn's C."""
STEPS = 200


@torch.no_grad()
def fit_lexical(head: Perceptrons, data: SMSDataModule) -> None:
    """Of the data's own training messages spam or not; with sources, of all whether they were added.

    The latter as the gate learns it (`Perceptrons.balance`). Nothing of it is random.
    """
    rows, index = _ngrams(head, data)
    spam = np.array(data.labels("train"))[index]
    fitted = []
    if head.settings.sources:
        sources = data.sources.numpy()[index]
        own = np.flatnonzero(sources == 0)
        fitted.append(fit_logistic(rows[own], spam[own], strength=STRENGTH, steps=STEPS))
        counts = head.kind_weights.cpu().numpy()[sources, spam]
        fitted.append(fit_logistic(rows, sources, strength=STRENGTH, counts=counts, steps=STEPS))
    else:
        fitted.append(fit_logistic(rows, spam, strength=STRENGTH, steps=STEPS))
    head.lexical.copy_(torch.from_numpy(np.stack([each.weights for each in fitted])))
    head.constants.copy_(torch.tensor([each.constant for each in fitted]))


def _ngrams(head: Perceptrons, data: SMSDataModule) -> tuple[csr_array, NDArray[np.int64]]:
    """The n-grams of the training rows, and which rows they are."""
    parts, index = [], []
    for batch in data.eval_dataloader("train"):
        parts.append(csr_array(head.ngrams(batch.tokens, batch.lengths).numpy()))
        index.append(batch.index.numpy())
    return vstack(parts, format="csr"), np.concatenate(index)
