"""Shares of messages with intervals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2_000


class Share(NamedTuple):
    """A share of a number of things and the ends of its interval; NaN where there is nothing to count."""

    value: float
    low: float
    high: float


def wilson(found: int, total: int, confidence: float = CONFIDENCE) -> Share:
    """``found / total`` and Wilson's score interval, which holds for few messages and for shares near 0 and 1.

    >>> wilson(0, 10)
    Share(value=0.0, low=0.0, high=0.277...)
    """
    if not total:
        return Share(math.nan, math.nan, math.nan)
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), found / total
    scale = 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return Share(share, middle - half if found else 0.0, middle + half if found < total else 1.0)


def f1_interval(tp: int, fp: int, fn: int, tn: int, confidence: float = CONFIDENCE, seed: int = 0) -> Share:
    """F1 and its stratified bootstrap's percentile interval; with the threshold fixed, resampling draws these counts.

    >>> f1_interval(tp=18, fp=1, fn=2, tn=29)
    Share(value=0.923..., low=0.8..., high=1.0)
    """
    spam, ham = tp + fn, fp + tn
    if not spam:
        return Share(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    hits = rng.binomial(spam, tp / spam, RESAMPLES)
    alarms = rng.binomial(ham, fp / max(1, ham), RESAMPLES)
    low, high = np.quantile(2 * hits / (hits + alarms + spam), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Share(2 * tp / (2 * tp + fp + fn), float(low), float(high))
