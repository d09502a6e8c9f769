"""How scores become decisions: a temperature and a threshold, both chosen on the validation messages.

Neither looks at the test or the reserve. Validation is often small (a hundred messages or two), so a target
(`precision`, `recall`, `fpr`) is held against an estimate with one more mistake in it: of n ham of which k reach a
threshold, the next one does with a probability of at most (k + 1) / (n + 1), however the scores are distributed. So a
share is met on average over splits, not on each. Precision depends on how much spam there is: the estimate is for
validation's own proportion (half and half where ham is undersampled). The ham of the reserve could promise a lower
`fpr`, but it is what the promise is tested on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

THRESHOLD = 0.5
"""Least spam probability that counts as spam until something better is chosen on validation."""

Policy = str | Mapping[str, float]
"""`argmax`, `f1`, or one of `TARGETS` with its number, as in `{"fpr": 0.005}`."""
WORDS = ("argmax", "f1")
TARGETS = ("precision", "recall", "fpr", "cost")
TEMPERATURES = (0.1, 10.0)
"""Least and greatest."""
SPREAD = 0.5
"""Of the temperature's prior, on the logarithm's scale."""
BINS = 10
"""Of the calibration error."""

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Decision:
    """What is made of logits.

    Attributes:
        temperature: what the logits are divided by.
        threshold: the least probability that is spam; a float32 number, which means the same wherever it is compared.
        estimate: of what a target names, on validation and with one more mistake; None without a target.
        attained: whether that estimate meets the target.
    """

    temperature: float = 1.0
    threshold: float = THRESHOLD
    estimate: float | None = None
    attained: bool = True

    def probability(self, logits: Tensor) -> Tensor:
        """Of spam (N,), from logits (N, 2) of ham and spam.

        >>> Decision(temperature=2.0).probability(torch.tensor([[0.0, 2.0]]))
        tensor([0.7311])
        """
        return torch.softmax(logits / self.temperature, dim=-1)[:, 1]  # (N, 2) -> (N,)


class Threshold(NamedTuple):
    """A threshold, the estimate that it was chosen for, and whether that meets the target (`Decision`)."""

    value: float
    estimate: float | None
    attained: bool


def decide(logits: Tensor, labels: Tensor, policy: Policy, *, calibrate: bool) -> Decision:
    """Temperature, then threshold.

    Args:
        logits: (N, 2) of ham and spam, of the validation messages.
        labels: (N,) 0 ham, 1 spam.
        policy: how the threshold is chosen.
        calibrate: whether to choose a temperature; else it is 1.

    Raises:
        ValueError: another policy.
    """
    temperature = fit_temperature(logits, labels) if calibrate else 1.0
    chosen = choose_threshold(Decision(temperature).probability(logits), labels, policy)
    return Decision(temperature, *chosen)


def read_policy(policy: object) -> tuple[str, float]:
    """Name and number of a policy; the number of a word is NaN.

    >>> read_policy({"fpr": 0.005})
    ('fpr', 0.005)

    Raises:
        ValueError: no policy, or a number that it cannot have.
    """
    if isinstance(policy, str) and policy in WORDS:
        return policy, float("nan")
    if not isinstance(policy, Mapping) or len(policy) != 1 or (name := next(iter(policy))) not in TARGETS:
        raise ValueError(
            f"threshold={policy}: choose {', '.join(WORDS)}, or one of {', '.join(TARGETS)} as {{fpr:0.005}}."
        )
    number = policy[name]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
        raise ValueError(f"threshold={{{name}:{number}}}: choose a number above 0.")
    if name != "cost" and number >= 1:
        raise ValueError(f"threshold={{{name}:{number}}}: choose a share above 0 and below 1.")
    return name, float(number)


def check_threshold(threshold: object) -> float:
    """The least probability that is spam.

    Raises:
        ValueError: not a number from 0 to 1.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: choose a probability from 0 to 1.")
    return float(threshold)


def check_band(unsure: object) -> tuple[float, float] | None:
    """The band of probabilities that deserve a look; None: there is none.

    >>> check_band([0.3, 0.7])
    (0.3, 0.7)

    Raises:
        ValueError: not two numbers from 0 to 1, the lower one first.
    """
    if unsure is None:
        return None
    if isinstance(unsure, list | tuple) and len(unsure) == 2:
        numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in unsure)
        if numbers and 0 <= unsure[0] < unsure[1] <= 1:
            return float(unsure[0]), float(unsure[1])
    raise ValueError(f"unsure={unsure}: choose two probabilities from 0 to 1, the lower one first, as in [0.3,0.7].")


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that fits logits (N, 2) to labels (N,) best, within `TEMPERATURES`.

    It minimises the summed cross-entropy (Guo et al., 2017) less the logarithm of a prior, log-normal around 1, with a
    factor of `exp(SPREAD)` for a standard deviation. Otherwise a validation set that is perfectly separated would ask
    for a temperature of zero, for the sake of a nat or less; against many messages the prior is nothing.

    >>> logits = torch.tensor([[0.0, 4.0], [4.0, 0.0]] * 5000)
    >>> labels = torch.tensor([1, 0] * 4000 + [0, 1] * 1000)  # as sure as at 98 %, right at 80 %
    >>> round(fit_temperature(logits, labels), 2)
    2.88
    """
    logits = logits.double()

    def cost(exponent: float) -> float:
        return F.cross_entropy(logits / exp(exponent), labels, reduction="sum").item() + (exponent / SPREAD) ** 2 / 2

    low, high = log(TEMPERATURES[0]), log(TEMPERATURES[1])
    for _ in range(3):  # each grid lies within two steps of the one before
        step = (high - low) / 40
        best = min((low + n * step for n in range(41)), key=cost)
        low, high = max(low, best - step), min(high, best + step)
    return exp(best)


def choose_threshold(probability: Tensor, labels: Tensor, policy: Policy) -> Threshold:
    """The threshold for float32 probabilities (N,) and labels (N,); it lies midway between two adjacent ones.

    - `argmax`: 0.5.
    - `f1`, `cost`: the highest F1, the lowest ``cost * false positives + missed spams``; of equals, the nearest to 0.5.
    - `precision`, `fpr`: of those whose estimate meets the target the one that finds the most spam.
    - `recall`: the one with the fewest false positives.

    Where none meets the target, those come into question whose estimate is nearest to it, and `attained` is False.

    >>> probability, labels = torch.tensor([0.1, 0.2, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])
    >>> choose_threshold(probability, labels, "f1")
    Threshold(value=0.30000001192092896, estimate=None, attained=True)
    >>> choose_threshold(probability, labels, {"fpr": 0.01})  # two ham cannot promise that
    Threshold(value=0.30000001192092896, estimate=0.333..., attained=False)

    Raises:
        ValueError: another policy.
    """
    name, number = read_policy(policy)
    if name == "argmax":
        return Threshold(THRESHOLD, None, True)
    at, hit, alarm = outcomes(probability, labels)
    n_spam, n_ham = int(hit[0]), int(alarm[0])
    if name in ("f1", "cost"):
        f1 = 2 * hit / np.maximum(hit + alarm + n_spam, 1)
        value = f1 if name == "f1" else hit - number * alarm
        best = np.lexsort((-np.abs(at - THRESHOLD), value))[-1]
        return Threshold(float(at[best]), None, True)
    estimates = {"precision": hit / (hit + alarm + 1), "recall": hit / (n_spam + 1), "fpr": (alarm + 1) / (n_ham + 1)}
    sign = -1 if name == "fpr" else 1
    reached = np.minimum(sign * estimates[name], sign * number)  # beyond the target, more is worth nothing
    order = (hit, -alarm, reached) if name == "recall" else (-alarm, hit, reached)
    best = np.lexsort(order)[-1]
    return Threshold(float(at[best]), float(estimates[name][best]), bool(reached[best] == sign * number))


def outcomes(probability: Tensor, labels: Tensor) -> tuple[Numbers, Numbers, Numbers]:
    """All decisions that a threshold can make: ascending thresholds (M,), spam found (M,), false positives (M,).

    Equal probabilities fall on the same side. The first threshold makes everything spam, the last one nothing, unless
    there is a probability of 1.

    >>> outcomes(torch.tensor([0.25, 0.75, 0.75]), torch.tensor([0, 0, 1]))
    (array([0.125, 0.5  , 0.875], dtype=float32), array([1, 1, 0]), array([2, 1, 0]))
    """
    scores, index = np.unique(probability.float().cpu().numpy(), return_inverse=True)
    spam = np.bincount(index, weights=labels.cpu().numpy(), minlength=len(scores)).astype(int)
    ham = np.bincount(index, minlength=len(scores)) - spam
    below = np.concatenate([[np.float32(0)], scores])
    above = np.concatenate([scores, [np.float32(1)]])
    middle = below + (above - below) / 2
    at = np.where(middle > below, middle, above)  # neighbours have nothing between them
    hit, alarm = (np.concatenate([each[::-1].cumsum()[::-1], [0]]) for each in (spam, ham))
    some = len(at) if at[-1] > below[-1] else -1
    return at[:some], hit[:some], alarm[:some]


def calibration(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, dict[str, float]]:
    """Calibration error and Brier score of logits (N, 2), before and after the division by a temperature."""
    found = {}
    for when, decision in {"before": Decision(), "after": Decision(temperature)}.items():
        probability = decision.probability(logits)
        found[when] = {"ece": calibration_error(probability, labels), "brier": brier_score(probability, labels)}
    return found


class Reliability(NamedTuple):
    """Bins of equally many messages (or one more), by rising probability.

    Attributes:
        probability: (bins,), the mean in each.
        share: (bins,), that of spam in each.
        n: (bins,), how many messages.
    """

    probability: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]
    n: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float((self.n * np.abs(self.probability - self.share)).sum() / self.n.sum())


def reliability(probability: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Spam probabilities (N,) against labels (N,); fewer messages than bins are a bin each.

    Equal probabilities count with the share of spam among them, so that the order of rows plays no part.

    >>> found = reliability(torch.tensor([0.1, 0.9, 0.2, 0.8], dtype=torch.float64), torch.tensor([0, 1, 0, 1]), bins=2)
    >>> found.probability.round(6).tolist(), found.share.tolist()
    ([0.15, 0.85], [0.0, 1.0])
    """
    scores, index = np.unique(probability.double().cpu().numpy(), return_inverse=True)
    share = np.bincount(index, weights=labels.cpu().numpy()) / np.bincount(index)
    parts = np.array_split(np.sort(index), min(bins, len(index)))
    return Reliability(
        probability=np.array([scores[part].mean() for part in parts]),
        share=np.array([share[part].mean() for part in parts]),
        n=np.array([len(part) for part in parts]),
    )


def calibration_error(probability: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of spam probabilities (N,) with labels (N,): bins of equally many messages.

    The mean over the bins, weighted by their size, of the distance between the mean probability and the share of spam.
    It is biased upwards: of few messages, not even true probabilities get 0.

    >>> probability = torch.tensor([0.1] * 10 + [0.8] * 10)
    >>> labels = torch.tensor([1] + [0] * 9 + [1] * 7 + [0] * 3)
    >>> round(calibration_error(probability, labels, bins=2), 6)
    0.05
    """
    return reliability(probability, labels, bins).error


def brier_score(probability: Tensor, labels: Tensor) -> float:
    """Mean squared distance of spam probabilities (N,) and labels (N,).

    >>> round(brier_score(torch.tensor([0.9, 0.2]), torch.tensor([1, 0])), 6)
    0.025
    """
    return float((probability.double() - labels.double()).square().mean())
