"""How many steps there are, and learning-rate schedules over them.

A schedule is a partial from the configuration, called with the optimizer and the number of steps.
"""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """The base rate throughout, after a linear warm-up over the share `warmup` of `total_steps`."""
    return _scheduler(optimizer, total_steps, warmup, decay=False)


def linear(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """From the base rate linearly to zero at `total_steps`, after a linear warm-up over the share `warmup`."""
    return _scheduler(optimizer, total_steps, warmup, decay=True)


def rate(step: int, total_steps: int, warmup_steps: int, decay: bool) -> float:
    """The factor on the base rate at a step (counted from 0).

    >>> [rate(step, 4, 0, decay=True) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    >>> [rate(step, 4, 2, decay=False) for step in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps)) if decay else 1.0


def _scheduler(optimizer: Optimizer, total_steps: int, warmup: float, *, decay: bool) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: rate(step, total_steps, round(warmup * total_steps), decay))


def epoch_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of one epoch, with `batches` in it."""
    limit = trainer.limit_train_batches
    taken = int(batches * limit) if isinstance(limit, float) else min(batches, limit or batches)
    return math.ceil(taken / trainer.accumulate_grad_batches)


def total_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of the whole training, with `batches` in an epoch."""
    steps = (trainer.max_epochs or 1) * epoch_steps(trainer, batches)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
