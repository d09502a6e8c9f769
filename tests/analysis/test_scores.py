"""Figures are those of scikit-learn and of a calculator, for one sample and for many weighted ones."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from spamlit.analysis.scores import METRICS, f1_threshold, scores, weighted_scores

REFERENCES = {
    "precision": lambda y, p, t, w: metrics.precision_score(y, p >= t, sample_weight=w, zero_division=0.0),
    "recall": lambda y, p, t, w: metrics.recall_score(y, p >= t, sample_weight=w, zero_division=0.0),
    "f1": lambda y, p, t, w: metrics.f1_score(y, p >= t, sample_weight=w, zero_division=0.0),
    "mcc": lambda y, p, t, w: metrics.matthews_corrcoef(y, p >= t, sample_weight=w),
    "accuracy": lambda y, p, t, w: metrics.accuracy_score(y, p >= t, sample_weight=w),
    "auprc": lambda y, p, t, w: metrics.average_precision_score(y, p, sample_weight=w),
    "brier": lambda y, p, t, w: metrics.brier_score_loss(y, p, sample_weight=w),
}


def frame(spam, probability, threshold=0.5):
    return pd.DataFrame({"label": np.where(spam, "spam", "ham"), "probability": probability, "threshold": threshold})


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_they_are_scikit_learn_s(seed, threshold):
    """With ties, under weights, whatever the order of the rows."""
    rng = np.random.default_rng(seed)
    spam = np.append(rng.random(40) < 0.3, [True, False])
    probability = np.round(np.clip(rng.random(42) * 0.6 + spam * 0.4, 0, 1), 1)
    weights = rng.integers(0, 4, size=(3, 42)).astype(float)
    weights[:, -2:] = 1
    found = weighted_scores(frame(spam, probability, threshold), weights)
    assert tuple(found) == METRICS
    for name, reference in REFERENCES.items():
        expected = [reference(spam, probability, threshold, row) for row in weights]
        assert found[name] == pytest.approx(expected, abs=1e-9), name
    shuffled = rng.permutation(42)
    again = weighted_scores(frame(spam, probability, threshold).iloc[shuffled], weights[:, shuffled])
    assert all(again[name] == pytest.approx(found[name]) for name in METRICS)


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(1)
    some = frame(rng.random(30) < 0.4, np.round(rng.random(30), 2))
    times = rng.integers(1, 4, size=30)
    weighted = weighted_scores(some, times[None].astype(float))
    repeated = scores(some.loc[some.index.repeat(times)])
    for name in set(METRICS) - {"ece"}:  # whose bins hold rows, not weights
        assert weighted[name][0] == pytest.approx(repeated[name])


def test_recall_within_the_limit_of_false_positives():
    """1,000 ham allow five false positives: the sixth stands above 20 of the 100 spam."""
    ham = np.linspace(0.0, 0.5, 1000)
    ham[-6:] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7]
    spam = np.concatenate([np.full(80, 0.99), np.full(20, 0.6)])
    found = scores(frame([True] * 100 + [False] * 1000, np.concatenate([spam, ham])))
    assert found["recall_at_fpr"] == 0.8
    assert found["fp_per_1000"] == 7  # those six, and one at 0.5
    assert scores(frame([True, False], [0.1, 0.9]))["recall_at_fpr"] == 0


def test_calibration_error_by_hand():
    """Ten bins of ten messages: each is said 0.05, 0.15, … and has one spam more in ten."""
    said = np.repeat(np.arange(10) / 10 + 0.05, 10)
    spam = np.concatenate([np.arange(10) < k for k in range(10)])
    assert scores(frame(spam, said))["ece"] == pytest.approx(0.05)
    assert scores(frame(spam, np.full(100, 0.45)))["ece"] == pytest.approx(0.0)


def test_the_threshold_is_the_best_there_is():
    rng = np.random.default_rng(0)
    for _ in range(30):
        spam = rng.random(50) < 0.3
        some = frame(spam, np.round(rng.random(50) * 0.7 + spam * 0.3, 2))
        chosen = scores(some.assign(threshold=f1_threshold(some)))["f1"]
        assert chosen == max(scores(some.assign(threshold=t))["f1"] for t in some["probability"])
    assert f1_threshold(frame([False, False, True, True], [0.1, 0.3, 0.4, 0.9])) == pytest.approx(0.35)
    assert f1_threshold(frame([False, True], [0.13, 0.13])) == 0.5
