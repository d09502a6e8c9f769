"""What disguise costs a classifier, and whether harmless changes turn ham into spam.

Anything that gives texts a spam probability can be measured, a Predictor as well as a baseline::

    predictor = Predictor.load("latest")
    scores = lambda texts: [answer.probability for answer in predictor.classify(texts)]
    print(obfuscated_scores(scores, read_split(run / "test.csv"), threshold=predictor.threshold))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from spamlit.data.obfuscate import INVARIANCES, TRANSFORMS, Transform, generator

Scores = Callable[[Sequence[str]], Sequence[float]]
"""Texts to spam probabilities, in order."""
MEAN = "mean"


def obfuscated_scores(scores: Scores, frame: pd.DataFrame, *, threshold: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """Recall on spam and false-positive rate on ham, before and after each transform of the suite.

    A message is disguised the same way in any company and order; ``seed`` decides how.

    Args:
        scores: The classifier.
        frame: Messages with the columns ``label`` and ``text``.
        threshold: The least probability that is spam.
        seed: Of the disguises, from 0.

    Returns:
        A row for each of `TRANSFORMS` and their ``mean``; columns ``changed`` (the share of messages that the transform
        found something to change in), ``recall_before``, ``recall_after``, ``fpr_before``, ``fpr_after``. Rates of a
        label that no message has are NaN.
    """
    table = _decided(scores, frame["text"].tolist(), TRANSFORMS, threshold, seed)
    spam = (frame["label"] == "spam").to_numpy()
    rows = {}
    for name, found in table.groupby("transform", sort=False):
        before, after = found["before"].to_numpy(), found["after"].to_numpy()
        rows[str(name)] = {
            "changed": found["changed"].mean(),
            "recall_before": _share(before[spam]),
            "recall_after": _share(after[spam]),
            "fpr_before": _share(before[~spam]),
            "fpr_after": _share(after[~spam]),
        }
    return _with_mean(rows)


def flipped_ham(scores: Scores, texts: Sequence[str], *, threshold: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """How much ham changes its label when names, numbers, case or a few letters change.

    Args:
        scores: The classifier.
        texts: Ham.
        threshold: The least probability that is spam.
        seed: Of the changes, from 0.

    Returns:
        A row for each of `INVARIANCES` and their ``mean``; columns ``changed`` (as in `obfuscated_scores`), ``flipped``
        (the share of all messages whose label is another one) and ``to_spam`` (those of them that became spam).
    """
    table = _decided(scores, texts, INVARIANCES, threshold, seed)
    rows = {
        str(name): {
            "changed": found["changed"].mean(),
            "flipped": (found["before"] != found["after"]).mean(),
            "to_spam": (~found["before"] & found["after"]).mean(),
        }
        for name, found in table.groupby("transform", sort=False)
    }
    return _with_mean(rows)


def _decided(
    scores: Scores, texts: Sequence[str], transforms: Mapping[str, Transform], threshold: float, seed: int
) -> pd.DataFrame:
    """A row for each transform and text, in order: whether the text changed, and was spam ``before`` and ``after``."""
    changed = {
        name: [transform(text, generator(seed, name, text)) for text in texts] for name, transform in transforms.items()
    }
    distinct = list(dict.fromkeys([*texts, *(text for some in changed.values() for text in some)]))
    spam = {text: p >= threshold for text, p in zip(distinct, scores(distinct), strict=True)}
    rows = [
        (name, now != text, spam[text], spam[now])
        for name, some in changed.items()
        for text, now in zip(texts, some, strict=True)
    ]
    return pd.DataFrame(rows, columns=["transform", "changed", "before", "after"])


def _share(spam: Any) -> float:
    return float(spam.mean()) if len(spam) else math.nan


def _with_mean(rows: dict[str, dict[str, float]]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index")
    table.loc[MEAN] = table.mean()
    return table
