"""Means and differences of a few repeated measurements, with Student's t intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev, variance
from typing import NamedTuple

from scipy.special import stdtrit  # scipy.stats, which has it too, takes a second to import

from spamlit.training.intervals import CONFIDENCE, Share, wilson

__all__ = ["CONFIDENCE", "Interval", "Share", "difference", "mean_interval", "t_quantile", "wilson"]


class Interval(NamedTuple):
    """A mean and the half width of its interval; NaN where there are too few values to tell."""

    mean: float
    half: float

    def shown(self, digits: int, sign: str = "") -> str:
        """For people.

        >>> Interval(0.953, 0.0263).shown(3), Interval(0.5, math.nan).shown(2, "+")
        ('0.953 ± 0.026', '+0.50')
        """
        half = "" if math.isnan(self.half) else f" ± {self.half:.{digits}f}"
        return f"{self.mean:{sign}.{digits}f}{half}"


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of independent values and its two-sided t interval.

    >>> mean_interval([0.95, 0.96, 0.98])
    Interval(mean=0.963..., half=0.037...)
    """
    if len(values) < 2:
        return Interval(fmean(values) if values else math.nan, math.nan)
    return Interval(fmean(values), t_quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values)))


def difference(ours: Mapping[str, float], theirs: Mapping[str, float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of ours minus mean of theirs: of the pairs, where they share two seeds or more; else after Welch.

    Args:
        ours: seed → value.
        theirs: seed → value.
        confidence: of the interval.

    >>> difference({"1": 0.91, "2": 0.95, "3": 0.93}, {"1": 0.90, "2": 0.93, "3": 0.90})
    Interval(mean=0.0199..., half=0.0248...)
    """
    if not ours or not theirs:
        return Interval(math.nan, math.nan)
    shared = sorted(ours.keys() & theirs.keys())
    if len(shared) >= 2:
        return mean_interval([ours[seed] - theirs[seed] for seed in shared], confidence)
    mean = fmean(ours.values()) - fmean(theirs.values())
    if len(ours) < 2 or len(theirs) < 2:
        return Interval(mean, math.nan)
    parts = [(variance(group.values()) / len(group), len(group) - 1) for group in (ours, theirs)]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Interval(mean, 0.0)
    freedom = total**2 / sum(part**2 / n for part, n in parts)  # Welch and Satterthwaite
    return Interval(mean, t_quantile(freedom, confidence) * math.sqrt(total))


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The t for which |T| ≤ t with this probability.

    >>> [round(t_quantile(n), 3) for n in (1, 2, 4, 9, 30)]
    [12.706, 4.303, 2.776, 2.262, 2.042]
    """
    return float(stdtrit(freedom, (1 + confidence) / 2))
