"""The checkpoint that `ckpt=` goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every `every_n_steps` optimizer steps, after each epoch and at the end.

    Lightning's ModelCheckpoint saves either by steps or by epochs, and its `last` only beside a better one; what
    resuming needs is simply the newest state. Nothing is written on Ctrl-C: a step that was cut in two is not a state
    to go on from, and repeating the steps since the last checkpoint gives the same weights bit for bit.
    """

    def __init__(self, dirpath: str | Path, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"callbacks.last.every_n_steps={every_n_steps}: choose a whole number from 1 on.")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._saved_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._saved_step:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self.path)
