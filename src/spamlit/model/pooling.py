"""Which positions and layers are read, and how they become one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from spamlit.model.attention import pick

Pooling = Literal["last_nonpad", "mean_nonpad", "mean_nonfirst", "first", "last", "mean"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
READS_PADDING = ("last", "mean")


def read_layers(layers: Sequence[int] | None, n_layer: int) -> tuple[int, ...]:
    """After how many blocks states are read; None: after the last one.

    >>> read_layers([10, 22, 26], 26), read_layers(None, 12)
    ((10, 22, 26), (12,))

    Raises:
        ValueError: not ascending numbers from 1 on that end with the backbone's depth.
    """
    if layers is None:
        return (n_layer,)
    whole = all(isinstance(each, int) for each in layers)
    if not whole or list(layers) != sorted({*layers, n_layer}) or layers[0] < 1:
        raise ValueError(
            f"model.layers={list(layers)}: choose block counts from 1 on, ascending, that end with the backbone's "
            f"depth, {n_layer}. Blocks beyond the last layer are not needed: backbone.n_layer=… leaves them out."
        )
    return tuple(layers)


def pooled_position(n_tokens: int, lengths: Tensor, pooling: str) -> Tensor | None:
    """The one position that a pooling reads in each row.

    Args:
        n_tokens: T, padding included.
        lengths: (B,) real tokens per row, at least 1.
        pooling: One of `POOLINGS`.

    Returns:
        (B,) int64, or None for the means.

    >>> pooled_position(5, torch.tensor([2, 5]), "last_nonpad")
    tensor([1, 4])
    """
    if pooling == "last_nonpad":
        return lengths - 1
    if pooling == "first":
        return torch.zeros_like(lengths)
    if pooling == "last":
        return torch.full_like(lengths, n_tokens - 1)
    return None


def pool(hidden: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Reduce the positions of each row to one vector.

    Args:
        hidden: (B, T, C), right-padded.
        lengths: (B,) real tokens per row, at least 1.
        pooling: ``last_nonpad``, ``mean_nonpad``, ``mean_nonfirst`` and ``first`` read real tokens only; ``last``
            (position T - 1) and ``mean`` (over all T) take padding for text, as the lesson does. ``mean_nonfirst``
            leaves out the first token, on which attention dumps what it has no use for, unless it is the only one.

    Returns:
        (B, C).

    Raises:
        ValueError: Unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"model.pooling={pooling}: choose one of {', '.join(POOLINGS)}")
    position = pooled_position(hidden.shape[1], lengths, pooling)
    if position is not None:
        return pick(hidden, position[:, None]).squeeze(1)  # (B, T, C) -> (B, 1, C) -> (B, C)
    if pooling == "mean":
        return hidden.mean(dim=1)  # (B, T, C) -> (B, C)
    first = (lengths > 1).long() if pooling == "mean_nonfirst" else torch.zeros_like(lengths)
    at = torch.arange(hidden.shape[1], device=hidden.device)  # (T,)
    read = (at >= first[:, None]) & (at < lengths[:, None])  # (B, T)
    total = hidden.masked_fill(~read[..., None], 0.0).sum(dim=1)  # (B, T, C) -> (B, C)
    return total / (lengths - first)[:, None].to(hidden.dtype)


def pool_beginnings(hidden: Tensor, pooling: str) -> Tensor:
    """`pool` of every beginning of each row: at [:, t] that of the first t + 1 tokens.

    Args:
        hidden: (B, T, C) of a causal model, right-padded.
        pooling: One that reads real tokens only.

    Returns:
        (B, T, C); where a row has ended, without meaning.
    """
    if pooling == "last_nonpad":
        return hidden
    if pooling == "first":
        return hidden[:, :1].expand_as(hidden)
    count = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]  # (T, 1)
    total = hidden.cumsum(dim=1)
    if pooling == "mean_nonpad":
        return total / count
    without = (total - hidden[:, :1]) / (count - 1).clamp(min=1)
    return torch.where(count > 1, without, hidden)
