"""Which training messages a message is worded like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from spamlit.analysis.wording import wording
from spamlit.data.sms import group_key

NEAR_REPEAT = 0.6
"""Cosine from which on two messages are near-repeats: mostly the same words."""


class Neighbour(NamedTuple):
    """A training message, and how alike it is worded."""

    id: int
    label: str
    text: str
    similarity: float
    """cosine of TF-IDF character n-grams, 0 to 1"""
    repeat: str
    """`repeat` (the same but for case, digits, punctuation), `near-repeat`, or empty"""


def neighbours(texts: Sequence[str], train: pd.DataFrame, n: int = 3) -> list[list[Neighbour]]:
    """The `n` training messages (``id``, ``label``, ``text``) nearest to each text in wording, the nearest first."""
    train = train.drop_duplicates("id")
    if not texts or train.empty:
        return [[] for _ in texts]
    rows = wording([*train["text"], *texts])
    similarity = (rows[: len(train)] @ rows[len(train) :].T).toarray().T  # (Q, N)
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :n]
    return [
        [_neighbour(text, train.iloc[at], float(similarity[q, at])) for at in best[q]] for q, text in enumerate(texts)
    ]


def _neighbour(text: str, row: pd.Series, similarity: float) -> Neighbour:
    same = group_key(text) == group_key(row["text"])
    repeat = "repeat" if same else "near-repeat" if similarity >= NEAR_REPEAT else ""
    return Neighbour(int(row["id"]), str(row["label"]), str(row["text"]), min(1.0, similarity), repeat)
