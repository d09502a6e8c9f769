"""The optimizer: a partial from the configuration, called with the parameters to train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import AdamW

Decay = Literal["all", "matrices"]
DECAYS: tuple[str, ...] = get_args(Decay)


def adamw(
    parameters: Iterable[nn.Parameter | dict[str, Any]],
    *,
    weight_decay: float = 0.01,
    decay: Decay = "all",
    **settings: Any,
) -> AdamW:
    """AdamW that lets all parameters decay, or matrices alone.

    Args:
        parameters: What is trained, or groups of it as `torch.optim` takes them, with other settings than the decay.
        weight_decay: Of those that decay.
        decay: ``all``, or ``matrices``: biases and norms are left alone. These are the parameter groups of the Hugging
            Face Trainer, for models whose vectors are biases and norms, as here.
        settings: Of `torch.optim.AdamW`.

    Raises:
        ValueError: Another `decay`.
    """
    if decay not in DECAYS:
        raise ValueError(f"optimizer.decay={decay}: choose one of {', '.join(DECAYS)}")
    groups: list[dict[str, Any]] = []
    for each in _groups(parameters):
        decaying = [parameter for parameter in each["params"] if decay == "all" or parameter.ndim >= 2]
        others = [parameter for parameter in each["params"] if decay == "matrices" and parameter.ndim < 2]
        groups += [{**each, "params": decaying, "weight_decay": weight_decay}]
        groups += [{**each, "params": others, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], **settings)


def _groups(parameters: Iterable[nn.Parameter | dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameters without a group make the first."""
    plain, groups = [], []
    for each in parameters:
        if isinstance(each, dict):
            groups.append(each)
        else:
            plain.append(each)
    return [{"params": plain}, *groups]
