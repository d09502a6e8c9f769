"""Pooling: what each choice reads, with and without padding."""

import pytest
import torch

from spamlit.model.pooling import POOLINGS, pool


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (
            [3, 3],
            {
                "last_nonpad": [3, 30],
                "mean_nonpad": [2, 20],
                "mean_nonfirst": [2.5, 25],
                "first": [1, 10],
                "last": [3, 30],
                "mean": [2, 20],
            },
        ),
        (
            [2, 3],
            {
                "last_nonpad": [2, 30],
                "mean_nonpad": [1.5, 20],
                "mean_nonfirst": [2, 25],
                "first": [1, 10],
                "last": [3, 30],
                "mean": [2, 20],
            },
        ),
        (
            [1, 1],
            {
                "last_nonpad": [1, 10],
                "mean_nonpad": [1, 10],
                "mean_nonfirst": [1, 10],
                "first": [1, 10],
                "last": [3, 30],
                "mean": [2, 20],
            },
        ),
    ],
    ids=["no padding", "some padding", "all but one padding"],
)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool(lengths, expected, pooling):
    hidden = torch.tensor([[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]])
    assert pool(hidden, torch.tensor(lengths), pooling).flatten().tolist() == expected[pooling]


def test_mean_over_real_tokens_ignores_even_nan_in_the_padding():
    hidden = torch.tensor([[[1.0], [3.0], [float("nan")]]])
    assert pool(hidden, torch.tensor([2]), "mean_nonpad").item() == 2.0
