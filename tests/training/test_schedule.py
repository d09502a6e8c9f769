"""Learning rates by step."""

from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from spamlit.training.schedule import constant, linear

STEPS, RATE = 40, 0.5


def rates(schedule: Callable[[torch.optim.Optimizer], LambdaLR]) -> list[float]:
    """The rate of each step, and the one behind the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, seen = schedule(optimizer), []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.33, 0.99])
def test_they_are_those_of_the_hugging_face_trainer(warmup: float) -> None:
    n = round(warmup * STEPS)
    assert rates(lambda o: linear(o, STEPS, warmup)) == pytest.approx(
        rates(lambda o: get_linear_schedule_with_warmup(o, n, STEPS))
    )
    assert rates(lambda o: constant(o, STEPS, warmup)) == pytest.approx(
        rates(lambda o: get_constant_schedule_with_warmup(o, n))
    )


def test_the_ends() -> None:
    decaying = rates(lambda o: linear(o, STEPS))
    assert (decaying[0], decaying[-1]) == (RATE, 0.0)
    assert rates(lambda o: constant(o, STEPS)) == [RATE] * (STEPS + 1)


def test_the_rate_is_never_negative_behind_the_last_step() -> None:
    assert rates(lambda o: linear(o, STEPS // 2))[-1] == 0.0
