"""The optimizer: a partial from the configuration, called with the parameters to train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import AdamW

Decay = Literal["all", "matrices"]
DECAYS: tuple[str, ...] = get_args(Decay)


def adamw(
    parameters: Iterable[nn.Parameter], *, weight_decay: float = 0.01, decay: Decay = "all", **settings: Any
) -> AdamW:
    """AdamW that lets all parameters decay, or matrices alone.

    Args:
        parameters: What is trained.
        weight_decay: Of those that decay.
        decay: ``all``, or ``matrices``: biases and norms are left alone. These are the parameter groups of the Hugging
            Face Trainer, for models whose vectors are biases and norms, as here.
        settings: Of `torch.optim.AdamW`.

    Raises:
        ValueError: Another `decay`.
    """
    if decay not in DECAYS:
        raise ValueError(f"optimizer.decay={decay}: choose one of {', '.join(DECAYS)}")
    parameters = list(parameters)
    decaying = [each for each in parameters if decay == "all" or each.ndim >= 2]
    others = [each for each in parameters if decay == "matrices" and each.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], **settings)
