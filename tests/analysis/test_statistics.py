"""Intervals cover what they should; pairs are used where there are pairs."""

import math
import random

import pytest

from spamlit.analysis.statistics import difference, mean_interval, t_quantile, wilson

TABLE = {(1, 0.95): 12.7062, (2, 0.95): 4.3027, (3, 0.9): 2.3534, (4, 0.99): 4.6041, (7, 0.95): 2.3646}


@pytest.mark.parametrize(("freedom", "confidence"), TABLE)
def test_quantiles_are_those_of_the_tables(freedom, confidence):
    assert t_quantile(freedom, confidence) == pytest.approx(TABLE[freedom, confidence], abs=5e-5)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = random.Random(0)
    intervals = [mean_interval([rng.gauss(1, 2) for _ in range(4)]) for _ in range(4000)]
    assert sum(abs(mean - 1) <= half for mean, half in intervals) / 4000 == pytest.approx(0.95, abs=0.012)


def test_pairs_see_through_what_the_seeds_share():
    base = {str(seed): value for seed, value in enumerate([0.80, 0.95, 0.88, 0.91])}
    better = {seed: value + 0.01 for seed, value in base.items()}
    assert difference(better, base) == pytest.approx((0.01, 0.0), abs=1e-9)
    others = {f"other {seed}": value for seed, value in base.items()}
    mean, half = difference(better, others)
    assert mean == pytest.approx(0.01)
    assert half == pytest.approx(t_quantile(6) * math.sqrt(2) * 0.0635085 / 2, rel=1e-5)  # Welch, equal variances


def test_one_value_has_no_interval():
    assert math.isnan(mean_interval([0.9]).half)
    mean, half = difference({"1": 0.9}, {"1": 0.8})
    assert mean == pytest.approx(0.1)
    assert math.isnan(half)


def test_only_shared_seeds_make_pairs():
    assert difference({"1": 0.9, "2": 0.8, "9": 0.0}, {"1": 0.8, "2": 0.7, "5": 9.0}).mean == pytest.approx(0.1)


def test_wilson_s_interval_is_that_of_the_literature_and_covers():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20."""
    for found, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        share = wilson(found, total)
        assert share == pytest.approx((found / total, low, high), abs=5e-5)
    assert all(math.isnan(value) for value in wilson(0, 0))
