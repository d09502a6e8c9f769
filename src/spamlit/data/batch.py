"""The unit that loaders give and models take: a padded batch that says how long each message is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

IGNORED = -100  # the label of a filler row: cross-entropy's `ignore_index`
FILLER = -1  # the index of a filler row


class Example(NamedTuple):
    """One message: its token ids (at least one), its label (0 ham, 1 spam), its row in the split."""

    tokens: Sequence[int]
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Batch(NamedTuple):
    """Messages of one step.

    Attributes:
        tokens: (B, T) int64, padded on the right.
        lengths: (B,) int64, how many of the T ids are the message's; at least 1. Nothing else tells padding from text.
        labels: (B,) int64, 0 ham, 1 spam, -100 for a filler row.
        index: (B,) int64, the row in the split, -1 for a filler row.
    """

    tokens: Tensor
    lengths: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]


def collate(examples: Sequence[Example], pad_id: int, length: int | None = None) -> Batch:
    """Pad examples on the right to ``length``, or to the longest of them.

    >>> batch = collate([Example([5, 6], 1, 0), Example([7], 0, 1)], pad_id=9)
    >>> batch.tokens.tolist(), batch.lengths.tolist()
    ([[5, 6], [7, 9]], [2, 1])

    Raises:
        ValueError: No examples, one without tokens, or one longer than ``length``.
    """
    lengths = [len(example.tokens) for example in examples]
    if not lengths or min(lengths) == 0:
        raise ValueError("a batch needs at least one example, and each example at least one token")
    width = max(lengths) if length is None else length
    if max(lengths) > width:
        raise ValueError(f"an example of {max(lengths)} tokens does not fit in a batch of length {width}; truncate it")
    rows = [[*example.tokens, *[pad_id] * (width - n)] for example, n in zip(examples, lengths, strict=True)]
    return Batch(
        tokens=torch.tensor(rows, dtype=torch.long),  # (B, T)
        lengths=torch.tensor(lengths, dtype=torch.long),  # (B,)
        labels=torch.tensor([example.label for example in examples], dtype=torch.long),  # (B,)
        index=torch.tensor([example.index for example in examples], dtype=torch.long),  # (B,)
    )


class Messages(Dataset[Example]):
    """Encoded messages by row number; row -1 is the filler that makes the batches of all processes equally large."""

    def __init__(self, tokens: Sequence[Sequence[int]], labels: Sequence[int], pad_id: int) -> None:
        self.tokens = tokens
        self.labels = labels
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Example:
        if index == FILLER:
            return Example([self.pad_id], IGNORED, FILLER)
        return Example(self.tokens[index], self.labels[index], index)
