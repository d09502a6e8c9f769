"""How checkpoints are written, and the one that `ckpt=` goes on from."""

from __future__ import annotations

import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from spamlit.assets import atomic_write

SHARE = 0.05
"""Of the time of training, at most, that `last.ckpt` may take."""


_UNSOUND = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError),
    *(ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What zipfile and torch raise for bytes that are no checkpoint."""
_RESUMED = {"callbacks", "epoch", "global_step", "loops", "lr_schedulers", "optimizer_states", "rng"}
"""What going on needs, beside the weights."""


class CheckpointError(ValueError):
    """A file that is no sound checkpoint; the message says which, why, and what to do."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, whose checksums hold; nothing in it is executed.

    `torch.load` alone does not look at the checksums that `torch.save` writes.

    Raises:
        CheckpointError: damaged, or holding more than tensors and plain values.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CheckpointError("its parts are compressed, as torch does not write them")  # could grow endlessly
            if any(info.external_attr for info in archive.infolist()):  # torch would not read the part, and say nothing
                raise CheckpointError("its parts have attributes, as torch does not write them")
            if (damaged := archive.testzip()) is not None:
                raise CheckpointError(f"the checksum of its part {damaged} does not hold")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNSOUND as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint: {reason}. Nothing of it was used. Copy it again, or train again."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is no checkpoint of a run: it has no state_dict.")
    return content


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes straight to the disk, and names the file when it is whole and durable.

    Lightning's own writes into a growing buffer in memory first, and copies it: for all weights of GPT-2 124M with
    their optimizer state (1.5 GB) 15 s instead of 2 to 6, and 3 GB more at the peak.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves what `torch.load(..., weights_only=True)` can read.

        Raises:
            OSError: the disk is full or read-only; an earlier file of that name stays.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # given a path, torch would say "unexpected pos" of a full disk
        with atomic_write(Path(path)) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # what ended the writing, before torch closed its archive
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads what `read_checkpoint` finds sound: on the CPU, from where Lightning moves it, and without code."""
        content = read_checkpoint(Path(path))
        if missing := sorted(_RESUMED - content.keys()):
            raise CheckpointError(f"{path} is no checkpoint to go on from: it has no {', '.join(missing)}.")
        return content


class KeptCheckpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint, for which all that it kept lies in its own folder.

    Lightning's forgets the best one where a run goes on in a folder that was moved, and overwrites it with a worse one;
    and it would take a stranger's word for which file to remove.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None, "conf/callbacks names it"

        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        paths = {key: here(value) for key, value in state_dict.items() if key.endswith("_path")}
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": kept, "dirpath": self.dirpath})


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` every so many seconds or optimizer steps, and at the end.

    Args:
        dirpath: the folder of `last.ckpt`.
        every_seconds: how much work a stop may cost; more where saving takes so long (gigabytes, where all weights are
            trained) that it would take more than a twentieth of the time.
        every_n_steps: besides, after each multiple of so many optimizer steps; None: by time alone.

    Lightning's ModelCheckpoint saves either by steps or by epochs, and its `last` only beside a better one; what
    resuming needs is simply the newest state. Nothing is written on Ctrl-C: a step that was cut in two is not a state
    to go on from, and repeating the steps since the last checkpoint gives the same weights bit for bit.

    Where a step is followed by a validation, the file waits for its end. From a state in between Lightning would go on
    without that validation, and with the best loss of the one before.
    """

    def __init__(self, dirpath: str | Path, every_seconds: float = 30.0, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"callbacks.last.every_n_steps={every_n_steps}: choose a whole number from 1 on.")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_seconds, self.every_n_steps = every_seconds, every_n_steps
        self._saved_step = 0
        self._waiting = False
        self._saved_at = time.monotonic()
        self._save_took = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if step != self._saved_step and (due or self._late(trainer)):
            self._waiting = _validates_next(trainer)
            if not self._waiting:
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._waiting:
            self._waiting = False
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs or self._late(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _late(self, trainer: Trainer) -> bool:
        since = time.monotonic() - self._saved_at
        return trainer.strategy.broadcast(since > max(self.every_seconds, self._save_took / SHARE))

    def _save(self, trainer: Trainer) -> None:
        started = time.monotonic()
        trainer.save_checkpoint(self.path)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._save_took = self._saved_at - started


def _validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the step whose `on_train_batch_end` this is."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
