"""Reliability: what the diagram draws is counted right, with and without temperature."""

import numpy as np
import pandas as pd
import pytest

from spamlit.analysis.figures import before_temperature, reliability_figure

RNG = np.random.default_rng(0)
PROBABILITY = RNG.uniform(size=2_000)
SPAM = (RNG.uniform(size=2_000) < PROBABILITY).astype(float)
ROWS = pd.DataFrame({"label": np.where(SPAM == 1, "spam", "ham"), "probability": PROBABILITY})


def test_temperature_is_undone() -> None:
    log_odds = np.array([-30.0, -2, 0, 3, 12])
    tempered = 1 / (1 + np.exp(-log_odds / 2.5))
    assert before_temperature(tempered, 2.5) == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-6)


@pytest.mark.parametrize(("temperature", "lines"), [(1.0, 2), (3.0, 3)])
def test_both_are_drawn_where_a_temperature_was_chosen(temperature: float, lines: int) -> None:
    [axes] = reliability_figure(ROWS, temperature).axes
    assert len(axes.lines) == lines  # the diagonal is one
    errors = [float(line.get_label().split("error ")[1].rstrip(")")) for line in axes.lines[1:]]
    assert errors[0] < 0.05
    assert temperature == 1 or errors[1] > 0.1


def test_the_order_of_equal_probabilities_plays_no_part() -> None:
    rows = pd.DataFrame({"label": ["spam"] * 45 + ["ham"] * 55, "probability": 0.45})
    [axes] = reliability_figure(rows, 1.0).axes
    assert axes.lines[1].get_label() == "as decided (error 0.000)"
    assert set(axes.lines[1].get_ydata().tolist()) == {0.45}
