"""Averages of the weights that training passes through."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from spamlit.training.module import SpamModule
from spamlit.training.sharding import placed


class WeightAverage(Callback):
    """Keeps an average of what is trained, for validation, test and the bundle; training goes on with its own weights.

    Args:
        start: the share of the optimizer steps after which weights are averaged, one set a step.
        decay: of an exponential average: what a step leaves of it; None: the plain mean.

    Raises:
        ValueError: a share or a decay outside [0, 1).

    Both checkpoints hold training's weights and, once there is one, the average (`SpamModule.average`). Lightning's
    WeightAveraging would copy the whole module, frozen weights and prefix cache included, and takes a checkpoint's
    `state_dict` for a whole model's.
    """

    def __init__(self, start: float = 0.5, decay: float | None = None) -> None:
        for key, share in {"start": start, "decay": 0 if decay is None else decay}.items():
            if not 0 <= share < 1:
                raise ValueError(f"callbacks.averaging.{key}={share}: choose a share from 0 to below 1.")
        self.start = start
        if decay is None:
            self.update = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        else:
            self.update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = 0
        self._step = 0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        _spam_module(pl_module).average = checkpoint.get("average")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _spam_module(pl_module)
        self._step = trainer.global_step
        if module.average is not None:  # a checkpoint's, in the CPU's memory
            weights = module.classifier.trained_state()
            module.average = {name: placed(value, weights[name]) for name, value in module.average.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the weights into the average once a step of the optimizer, from `start` on."""
        module, step = _spam_module(pl_module), trainer.global_step
        before = round(self.start * module.total_steps)
        if step == self._step or step <= before:  # gradients are being accumulated, or it is too early
            return
        self._step = step
        weights = module.classifier.trained_state()
        if module.average is None or step == before + 1:
            module.average, self._averaged = {name: value.clone() for name, value in weights.items()}, 1
            return
        moving = [name for name, value in weights.items() if value.is_floating_point()]
        self.update([module.average[name] for name in moving], [weights[name] for name in moving], self._averaged)
        self._averaged += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _swap(_spam_module(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _swap(_spam_module(pl_module))

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self._averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averaged = state_dict["averaged"]


def _swap(module: SpamModule) -> None:
    """Exchanges training's weights and their average, if there is one."""
    if module.average is not None:
        weights = {name: value.clone() for name, value in module.classifier.trained_state().items()}
        module.classifier.load_trained_state(module.average)
        module.average = weights


def _spam_module(module: LightningModule) -> SpamModule:
    assert isinstance(module, SpamModule)
    return module
