"""Intervals over messages: the bootstrap, alone and paired, and McNemar's test.

A system's *tests* are its predictions frames (see `scores`) by split seed. The seeds' test splits overlap, so what is
drawn is the message: it is in every test that holds it as often as it was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from spamlit.analysis.scores import METRICS, Array, weighted_scores
from spamlit.data.sms import LABELS

RESAMPLES = 2_000
TOGETHER = 500
"""Resamples held in memory at once: 500 of 1,000 messages are 4 MB."""

Tests = Mapping[int, pd.DataFrame]


class Bounds(NamedTuple):
    """A percentile interval."""

    low: float
    high: float


class McNemar(NamedTuple):
    """How many messages only one of two systems has right, and the exact two-sided p of so uneven a division."""

    ours_only: int
    theirs_only: int
    p: float


def resampled(tests: Tests, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Array]:
    """Metrics, each the mean over the split seeds, of stratified resamples of the messages.

    The draws depend on the messages' ids and labels and on `seed` alone: systems with the same tests get the same
    resamples, so that the difference of two results is the paired bootstrap's.

    Args:
        tests: predictions by split seed.
        resamples: how many, R.
        seed: of the draws.

    Returns:
        (R,) values of each of `METRICS`.
    """
    messages = pd.concat([test[["id", "label"]] for test in tests.values()]).drop_duplicates("id").sort_values("id")
    places = [pd.Index(messages["id"]).get_indexer(pd.Index(test["id"])) for test in tests.values()]
    parts = []
    for counts in _draws(messages["label"].to_numpy(), resamples, np.random.default_rng(seed)):
        each = [weighted_scores(test, counts[:, at]) for test, at in zip(tests.values(), places, strict=True)]
        parts.append({name: np.mean([found[name] for found in each], axis=0) for name in METRICS})
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def bounds(values: Array, confidence: float = 0.95) -> Bounds:
    """The percentile interval of resampled values.

    >>> bounds(np.arange(1001) / 1000)
    Bounds(low=0.025, high=0.975)
    """
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Bounds(float(low), float(high))


def paired_bounds(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, Bounds]:
    """Intervals of the differences ours minus theirs, of what `resampled` gave for the same tests and seed."""
    return {name: bounds(ours[name] - theirs[name]) for name in METRICS}


def mcnemar(ours: Tests, theirs: Tests) -> McNemar:
    """McNemar's exact test on the decisions; a message in several tests counts once, in the first of them."""
    right = [
        pd.concat([test.assign(right=_right(test))[["id", "right"]] for test in tests.values()])
        .drop_duplicates("id")
        .set_index("id")["right"]
        for tests in (ours, theirs)
    ]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return McNemar(*only, float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0)


def check_paired(ours: Tests, theirs: Tests) -> None:
    """Two systems must have been tested on the same messages.

    Raises:
        ValueError: other seeds, or other messages or labels of one.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"not the same split seeds: {sorted(ours)} and {sorted(theirs)}")
    for seed in ours:
        keys = [test[["id", "label"]].sort_values("id", ignore_index=True) for test in (ours[seed], theirs[seed])]
        if not keys[0].equals(keys[1]):
            raise ValueError(f"split seed {seed}: not the same test messages, so there are no pairs to compare")


def _right(test: pd.DataFrame) -> pd.Series[bool]:
    right: pd.Series[bool] = (test["probability"] >= test["threshold"]) == (test["label"] == "spam")
    return right


def _draws(labels: NDArray[np.object_], resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """(≤ TOGETHER, N) counts of how often each message was drawn, as many of each label as there are."""
    for start in range(0, resamples, TOGETHER):
        n = min(TOGETHER, resamples - start)
        counts = np.zeros((n, len(labels)))
        for label in LABELS:
            where = np.flatnonzero(labels == label)
            if len(where):
                drawn = rng.integers(len(where), size=(n, len(where))) + len(where) * np.arange(n)[:, None]
                counts[:, where] = np.bincount(drawn.ravel(), minlength=n * len(where)).reshape(n, -1)
        yield counts
