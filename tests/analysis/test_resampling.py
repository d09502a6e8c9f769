"""The bootstrap covers what it says, pairs what is paired, and is quick; McNemar's p is the binomial's."""

import time

import numpy as np
import pandas as pd
import pytest

from spamlit.analysis.resampling import bounds, check_paired, mcnemar, paired_bounds, resampled
from spamlit.analysis.scores import METRICS, scores


def sample(n, seed, ids=None, skill=0.35):
    rng = np.random.default_rng(seed)
    spam = np.arange(n) % 5 == 0
    probability = np.clip(rng.normal(0.4 + skill * (2 * spam - 1) * 0.6, 0.25), 0, 1)
    ids = np.arange(n) if ids is None else ids
    return pd.DataFrame(
        {"id": ids, "label": np.where(spam, "spam", "ham"), "probability": probability, "threshold": 0.5}
    )


def test_intervals_cover_the_truth():
    """Of 200 tests of 300 messages about 95 % of the intervals hold the recall and the F1 of the whole population."""
    truth = scores(sample(200_000, 99))
    inside = {"recall": 0, "f1": 0}
    for seed in range(200):
        found = resampled({0: sample(300, seed)}, resamples=300)
        for name in inside:
            low, high = bounds(found[name])
            inside[name] += low <= truth[name] <= high
    assert all(0.89 <= hits / 200 <= 0.99 for hits in inside.values()), inside


def test_a_thousand_rows_two_thousand_times_in_well_under_a_second():
    start = time.process_time()
    found = resampled({0: sample(1000, 0)})
    assert time.process_time() - start < 1.5  # 0.3 s on a quiet machine
    assert all(len(values) == 2000 for values in found.values())


def test_pairs_are_drawn_together():
    """A system against itself differs by nothing; a better one by more than chance, on overlapping tests too."""
    tests = {0: sample(400, 0), 1: sample(400, 1, ids=np.arange(400) + 200)}
    ours = resampled(tests, resamples=200)
    again = {seed: test.sample(frac=1, random_state=0) for seed, test in tests.items()}
    same = paired_bounds(ours, resampled(again, resamples=200))
    assert all(same[name] == pytest.approx((0, 0)) for name in METRICS)
    better = {seed: test.assign(probability=lambda t: (t["label"] == "spam") * 0.9) for seed, test in tests.items()}
    assert paired_bounds(resampled(better, resamples=200), ours)["f1"].low > 0


def test_a_message_in_two_tests_is_drawn_for_both():
    """So repeating a test under another seed does not narrow the interval."""
    test = sample(300, 3)
    once, twice = (resampled(tests, resamples=400) for tests in ({0: test}, {0: test, 1: test}))
    assert bounds(twice["f1"]) == pytest.approx(bounds(once["f1"]))


def test_each_label_keeps_its_number():
    found = resampled({0: sample(50, 0).assign(probability=1.0)}, resamples=50)
    assert found["precision"] == pytest.approx(np.full(50, 0.2))


def test_mcnemar_is_exact():
    """Ten messages that only one side has right, nine of them ours: p = 2 · (1 + 10) / 2^10."""
    labels = ["spam"] * 20
    right, wrong = 0.9, 0.1
    ours = pd.DataFrame({"id": range(20), "label": labels, "probability": [right] * 19 + [wrong], "threshold": 0.5})
    theirs = ours.assign(probability=[wrong] * 9 + [right] * 11)
    assert mcnemar({0: ours}, {0: theirs}) == (9, 1, pytest.approx(22 / 1024))
    assert mcnemar({0: ours, 1: ours}, {0: theirs, 1: theirs}).ours_only == 9  # each message once
    assert mcnemar({0: ours}, {0: ours}) == (0, 0, 1.0)


def test_what_cannot_be_paired_is_refused():
    test = sample(20, 0)
    check_paired({0: test}, {0: test[::-1]})
    with pytest.raises(ValueError, match="split seeds"):
        check_paired({0: test}, {1: test})
    with pytest.raises(ValueError, match="split seed 3"):
        check_paired({3: test}, {3: test[1:]})
