"""Which rows form which batch: a pure function of (seed, epoch), so that a run can stop and go on at any batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from spamlit.data.batch import FILLER, Batch, Example, Messages

Order = Literal["shuffled", "buckets", "torch", "lesson", "sequential", "longest_first"]

BUCKET_BATCHES = 32  # how many batches of the shuffled order are sorted by length together
LESSON_EVAL_EVERY = 50  # steps


def order_rows(lengths: Sequence[int], order: Order, seed: int, epoch: int, batch_size: int = 1) -> list[int]:
    """The order of an epoch's rows, before it is cut into batches.

    ``shuffled`` and ``buckets`` start from a permutation drawn from (seed, epoch); ``torch`` is the order of
    ``DataLoader(shuffle=True)`` when its epochs are the only use of the global generator after
    ``torch.manual_seed(seed)``; ``lesson`` counts the draws that the lesson's evaluations make in between (loss every
    50 steps, accuracy every epoch, over both loaders): the published run's order. ``sequential`` and ``longest_first``
    (ties in file order) are the same in every epoch.

    Args:
        lengths: Each row's tokens.
        order: See above.
        seed: From 0.
        epoch: From 0.
        batch_size: Matters to ``lesson``, whose evaluations fall on steps (full batches).
    """
    n = len(lengths)
    if order == "sequential":
        return list(range(n))
    if order == "longest_first":
        return sorted(range(n), key=lambda row: -lengths[row])
    if order in ("torch", "lesson"):
        draws = _draws_before(epoch, n // batch_size if order == "lesson" else None)
        return _torch_permutation(n, seed, draws)
    permutation: list[int] = np.random.default_rng([seed, epoch]).permutation(n).tolist()
    return permutation


def _draws_before(epoch: int, lesson_steps: int | None) -> int:
    """How many numbers earlier epochs took from the global generator: each shuffled iterator two, each other one."""
    if lesson_steps is None:
        return 2 * epoch
    evaluations = math.ceil(epoch * lesson_steps / LESSON_EVAL_EVERY)  # losses, at steps 0, 50, 100, …
    return 2 * epoch + 3 * evaluations + 3 * epoch


def _torch_permutation(n: int, seed: int, draws_before: int) -> list[int]:
    """What `torch.utils.data.RandomSampler` yields: its seed is the second number its iterator draws."""
    stream = torch.Generator().manual_seed(seed)
    draws = [int(torch.empty((), dtype=torch.int64).random_(generator=stream)) for _ in range(draws_before + 2)]
    permutation: list[int] = torch.randperm(n, generator=torch.Generator().manual_seed(draws[-1])).tolist()
    return permutation


def make_batches(
    lengths: Sequence[int], *, batch_size: int, order: Order, seed: int = 0, epoch: int = 0, drop_last: bool = False
) -> list[list[int]]:
    """The epoch's batches of row numbers.

    With ``order="buckets"``, windows of 32 batches of the shuffled order are sorted by length and cut into batches, and
    the epoch's full batches are shuffled again: rows of a batch are alike in length, and lengths come in random order.
    The incomplete batch comes last; ``drop_last`` drops rows of the shuffled order, whatever their length.

    >>> make_batches([3, 1, 2], batch_size=2, order="longest_first")
    [[0, 2], [1]]
    """
    rows = order_rows(lengths, order, seed, epoch, batch_size)
    if drop_last:
        rows = rows[: len(rows) // batch_size * batch_size]
    if order == "buckets":
        window = batch_size * BUCKET_BATCHES
        rows = [
            row
            for start in range(0, len(rows), window)
            for row in sorted(rows[start : start + window], key=lambda row: lengths[row])
        ]
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    if order == "buckets":
        full = len(rows) // batch_size
        places = np.random.default_rng([seed, epoch, 1]).permutation(full)
        batches = [batches[place] for place in places] + batches[full:]
    return batches


class BatchSampler(Sampler[list[int]]):
    """One process's share of each batch, epoch by epoch.

    ``batch_size`` is the global one: of a global batch, process ``rank`` of ``world_size`` takes every
    ``world_size``-th row from ``rank`` on. Where that leaves some process a row short, it gets a filler (row -1): all
    have the same number of batches, and of rows in each.

    Lightning calls `set_epoch` through the attribute `sampler`. `skip` batches are left out of the next iteration.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        order: Order,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        same_every_epoch: bool = False,
    ) -> None:
        if order not in get_args(Order):
            raise ValueError(f"data.order={order} is not known; choose from {', '.join(get_args(Order))}")
        if batch_size < 1:
            raise ValueError(f"a batch size of {batch_size} is too small; use 1 or more")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        self.lengths = lengths
        self.batch_size = batch_size
        self.order: Order = order
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.same_every_epoch = same_every_epoch
        self.epoch = 0
        self.skip = 0

    @property
    def sampler(self) -> BatchSampler:
        """Itself: Lightning looks for `set_epoch` at ``loader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, of the iterations to come."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        batches = make_batches(
            self.lengths,
            batch_size=self.batch_size,
            order=self.order,
            seed=self.seed,
            epoch=0 if self.same_every_epoch else self.epoch,
            drop_last=self.drop_last,
        )
        skip, self.skip = self.skip, 0
        for batch in batches[skip:]:
            share = batch[self.rank :: self.world_size]
            rows = math.ceil(len(batch) / self.world_size)
            yield share + [FILLER] * (rows - len(share))

    def identity(self) -> dict[str, Any]:
        """What decides the batches, the processes aside: two samplers that agree here draw the same."""
        return {
            "rows": len(self.lengths),
            "batch_size": self.batch_size,
            "order": self.order,
            "seed": self.seed,
            "drop_last": self.drop_last,
        }


def private_generator() -> torch.Generator:
    """For a loader's own draws (its workers' seeds), so that it leaves the global generator, and dropout, alone."""
    return torch.Generator().manual_seed(0)


class ResumableLoader(DataLoader[Example]):
    """A `DataLoader` over a `BatchSampler` that knows how far it is, and goes on from there.

    `state_dict` counts the batches handed out (not those that workers fetched ahead). After `load_state_dict`, the
    first iteration begins behind them, if it is of the epoch they belong to; every other one begins at its start.
    ``len`` is always the whole epoch's. Lightning saves and restores the state with its checkpoints.
    """

    def __init__(self, dataset: Messages, batch_sampler: BatchSampler, **kwargs: Any) -> None:
        super().__init__(dataset, batch_sampler=batch_sampler, generator=private_generator(), **kwargs)
        self._batches = batch_sampler
        self._epoch = 0
        self._seen = 0
        self._resuming = False

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing is drawn before the first `next`. Lightning makes the iterator before it sets the epoch.
        epoch = self._batches.epoch
        start = self._seen if self._resuming and epoch == self._epoch else 0
        self._epoch, self._seen, self._resuming = epoch, start, False
        self._batches.skip = start
        for batch in super().__iter__():
            self._seen += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches handed out in it, and what decides the order."""
        return {"epoch": self._epoch, "batches": self._seen, "identity": self._batches.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches of ``state``.

        Raises:
            ValueError: The state belongs to other data or another order, with which going on makes no sense.
        """
        mine = self._batches.identity()
        other = {key: (was, mine.get(key)) for key, was in state["identity"].items() if mine.get(key) != was}
        if other:
            changes = ", ".join(f"{key} was {was} and is {now}" for key, (was, now) in other.items())
            raise ValueError(f"cannot resume in the middle of other training data: {changes}")
        self._epoch, self._seen, self._resuming = state["epoch"], state["batches"], True
