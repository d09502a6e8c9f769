"""How a message is spelled, as a vector: hashed n-grams of the bytes behind its token ids. Nothing in it is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SIZES = (2, 3, 4, 5)
"""Bytes of an n-gram."""
WIDTH = 16
"""Bytes of a token that are looked at; few have more."""
_SPACE = 32
_MIX = 0x9E3779B97F4A7C1  # odd; multiplying by it spreads codes over 64 bits


def spellings(ranks: Mapping[bytes, int], vocab_size: int) -> Tensor:
    """What each token id stands for, folded: small letters, every digit 0, every white space a space.

    Args:
        ranks: Each token's bytes and id; other ids (special tokens) stand for nothing.
        vocab_size: V.

    Returns:
        (V, WIDTH) uint8, 0 behind a token's end.

    >>> spellings({b"Win": 0, b" 42": 1}, 3)[:, :4].tolist()
    [[119, 105, 110, 0], [32, 48, 48, 0], [0, 0, 0, 0]]
    """
    fold = bytes(
        _SPACE if chr(byte).isspace() and byte < 128 else ord("0") if chr(byte) in "0123456789" else byte
        for byte in bytes(range(256)).lower()
    )
    table = torch.zeros(vocab_size, WIDTH, dtype=torch.uint8)
    for token, rank in ranks.items():
        folded = token.translate(fold)[:WIDTH]
        table[rank, : len(folded)] = torch.tensor(list(folded), dtype=torch.uint8)
    return table


def spelled(tokens: Tensor, lengths: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The bytes of each row's tokens, one after the other between two spaces.

    Args:
        tokens: (B, T) ids, right-padded.
        lengths: (B,) real tokens per row, at least 1.
        table: (V, WIDTH) of `spellings`.

    Returns:
        (B, N) int64, and how many of each row's N count, (B,).
    """
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (B, T)
    codes = (table[tokens].long() * real[..., None]).flatten(1)  # (B, T·WIDTH)
    at = (codes != 0).long().cumsum(dim=1)  # of each byte, from 1 on
    counts = at[:, -1]  # (B,)
    edge = torch.zeros_like(tokens[:, :1])
    row = torch.cat([edge, torch.zeros_like(codes), edge], dim=1).scatter(1, at * (codes != 0), codes)  # (B, N)
    ends = torch.cat([edge, counts[:, None] + 1], dim=1)
    return row.scatter(1, ends, torch.full_like(ends, _SPACE)), counts + 2


def hashed_ngrams(codes: Tensor, lengths: Tensor, buckets: int) -> Tensor:
    """Signed, damped counts of the n-grams of each row, a vector of length 1 (feature hashing, Weinberger et al. 2009).

    An n-gram's hash names its bucket and whether it counts up or down there, so that those that share a bucket cancel
    out on average.

    Args:
        codes: (B, N) int64.
        lengths: (B,) of each row, at least 2.
        buckets: D, size of the vector.

    Returns:
        (B, D) float32.

    >>> hashed_ngrams(torch.tensor([[32, 104, 105, 32, 0]]), torch.tensor([4]), 256).count_nonzero().item()
    6
    """
    found = torch.zeros(len(codes), buckets, device=codes.device)
    at = torch.arange(codes.shape[1], device=codes.device)
    hashed = codes
    for size in SIZES:  # at each position the hash of the n-gram that begins there
        hashed = (hashed * 31 + codes.roll(1 - size, dims=1) + size) * _MIX
        hashed = hashed ^ ((hashed >> 29) & 0x7FFFFFFFF)
        sign = ((hashed >> 40) & 1) * 2 - 1
        whole = at + size <= lengths[:, None]  # (B, N)
        found.scatter_add_(1, (hashed >> 8) % buckets, torch.where(whole, sign, 0).to(found.dtype))
    damped = found.sign() * found.abs().log1p()
    length = torch.linalg.vector_norm(damped, dim=1, keepdim=True)
    unit: Tensor = damped / length.clamp(min=1e-6)
    return unit
