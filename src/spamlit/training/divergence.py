"""What stops a run whose figures are no finite numbers any more: the messages it came with, and what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.strategies import Strategy
from torch import Tensor

from spamlit.data.splits import SplitName, Splits
from spamlit.training.checkpoint import CheckpointError, read_checkpoint

SHOWN = 20
"""Ids in a message, at most."""


class DivergedError(FloatingPointError):
    """A batch came to something that is no finite number.

    Args:
        what: came to it.
        split: of the batch.
        rows: (B,) of the batch in its split; -1 is a filler.
        steps: optimizer steps that were sound, as far as is known.
    """

    def __init__(self, what: str, split: SplitName, rows: Tensor, steps: int) -> None:
        super().__init__(what)
        self.split, self.steps = split, steps
        self.rows = [row for row in rows.tolist() if row >= 0]


@contextmanager
def told_by_id(splits: Splits, checkpoints: Path, rates: Mapping[str, float]) -> Iterator[None]:
    """Says it to the person at the command line, when the figures of what is done here diverge.

    Args:
        splits: the messages.
        checkpoints: the run's folder of them.
        rates: the learning rates, by key.

    Raises:
        FloatingPointError: with the ids of the messages, the last good checkpoint and what to choose.
    """
    try:
        yield
    except DivergedError as error:
        ids = getattr(splits, error.split)["id"].iloc[error.rows]
        shown = ", ".join(map(str, ids[:SHOWN])) + (" …" if len(ids) > SHOWN else "")
        good = last_good(checkpoints, error.steps)
        left = f"The last good checkpoint is {good[0]} (step {good[1]})" if good else "There is no good checkpoint yet"
        lower = " or ".join(f"{key} below {rate:g}" for key, rate in rates.items())
        raise FloatingPointError(
            f"{error}, with the batch of these messages of {error.split}.csv, by id: {shown}. {left}. "
            f"Start again with {lower}, or with trainer.gradient_clip_val=1."
        ) from error


def check_finite(
    values: Tensor, what: str, split: SplitName, rows: Tensor, steps: int, strategy: Strategy | None = None
) -> None:
    """Stops what would go on with infinities or NaNs.

    Args:
        values: of this process.
        what: they are, for the message.
        split: of the batch.
        rows: (B,) of this process's batch in its split.
        steps: optimizer steps that were sound.
        strategy: of several processes, which must call it together: one's trouble stops all, and each knows all rows.

    Raises:
        DivergedError: `values` has one.
    """
    finite = values.isfinite().all()
    if strategy is not None:
        finite = strategy.reduce(finite.float(), reduce_op="mean") == 1.0
    if not finite:
        if strategy is not None:
            rows = strategy.all_gather(rows).flatten()
        raise DivergedError(f"{what} is {'infinite' if values.isinf().any() else 'NaN'}", split, rows, steps)


def last_good(checkpoints: Path, steps: int) -> tuple[Path, int] | None:
    """The newest checkpoint that was validated (`best.ckpt`) or has at most so many steps, and its number of steps."""
    found = []
    for path in checkpoints.glob("*.ckpt"):
        with suppress(CheckpointError):
            step = read_checkpoint(path).get("global_step", steps + 1)
            if path.stem == "best" or step <= steps:
                found.append((step, path))
    return max(found)[::-1] if found else None
