"""The checkpoint that `ckpt=` goes on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every so many seconds or optimizer steps, and at the end.

    Args:
        dirpath: the folder of `last.ckpt`.
        every_seconds: how much work a stop may cost; a save of optimizer and weights is 40 MB and more, a third of a
            second, which a cached epoch of a few seconds would feel.
        every_n_steps: besides, after each multiple of so many optimizer steps; None: by time alone.

    Lightning's ModelCheckpoint saves either by steps or by epochs, and its `last` only beside a better one; what
    resuming needs is simply the newest state. Nothing is written on Ctrl-C: a step that was cut in two is not a state
    to go on from, and repeating the steps since the last checkpoint gives the same weights bit for bit.
    """

    def __init__(self, dirpath: str | Path, every_seconds: float = 30.0, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"callbacks.last.every_n_steps={every_n_steps}: choose a whole number from 1 on.")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_seconds, self.every_n_steps = every_seconds, every_n_steps
        self._saved_step = 0
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if step != self._saved_step and (due or self._late(trainer)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs or self._late(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _late(self, trainer: Trainer) -> bool:
        return trainer.strategy.broadcast(time.monotonic() - self._saved_at > self.every_seconds)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        trainer.save_checkpoint(self.path)
