"""The LightningModule: loss, optimizer, metrics. What is computed lives in `spamlit.model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from spamlit.data.batch import IGNORED, Batch
from spamlit.data.splits import SplitName
from spamlit.model.classifier import Classifier
from spamlit.model.head import Perceptrons
from spamlit.training.decision import Decision, brier_score, calibration_error
from spamlit.training.divergence import check_finite
from spamlit.training.metrics import SpamMetrics, split_figures
from spamlit.training.sharding import shard, whole

Prefix = Callable[[Tensor, Tensor], Tensor]
"""(tokens (B, T), lengths (B,)) -> what enters the lowest trained block: (B, T, C), or (B, C) once pooled."""


class Outputs(NamedTuple):
    """One split's raw results in the split's own order: row numbers (N,), logits (N, 2), labels (N,)."""

    rows: Tensor
    logits: Tensor
    labels: Tensor


class Predictions(NamedTuple):
    """One split's predictions in the split's own order: row numbers (N,), spam probabilities (N,), labels (N,)."""

    rows: Tensor
    probability: Tensor
    labels: Tensor


class SpamModule(LightningModule):
    """Trains a Classifier with cross-entropy and tells how good it is on each split.

    Args:
        classifier: backbone and head, `set_trainable` already called.
        optimizer: called with the parameters to train.
        scheduler: called with the optimizer and `total_steps`.
        total_steps: optimizer steps of the whole training. Given, because Lightning's own `estimated_stepping_batches`
            makes the training loader before a checkpoint is restored, and that loader then starts from the beginning.
        prefix: computes or looks up the frozen part; by default `classifier.prefix`, live.
        class_weights: (2,) weights of the classes in the loss, or None.
        ignore_index: a label that the training loss leaves out, or None.
        sources: (N,) of the training messages, 0 for the data's own and 1 for added ones; for a head that asks.
        below: computes or looks up what a block of the head's own reads; by default `classifier.below`, live.
        as_written: (N,) which training messages such a block learns from.

    Attributes:
        average: of the trained parameters by name, where they are averaged (`averaging.WeightAverage`).
        decision: what the test makes of logits.
        test_splits: names of the dataloaders that `Trainer.test` is given, in order.
        outputs: of the test, by split; with `decision` they give `predictions` and `results`, metrics.json's figures.
    """

    def __init__(
        self,
        classifier: Classifier,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer, int], Any] | None = None,
        *,
        total_steps: int = 0,
        prefix: Prefix | None = None,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        sources: Tensor | None = None,
        below: Prefix | None = None,
        as_written: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold what is trained; load_trained_state is strict about that
        self.classifier = classifier
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.total_steps = total_steps
        self.prefix = prefix
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("sources", sources, persistent=False)
        self.below = below
        self.register_buffer("as_written", as_written, persistent=False)
        self.ignore_index = IGNORED if ignore_index is None else ignore_index
        self.val_metrics = _SplitMetrics()
        self.average: dict[str, Tensor] | None = None
        self.decision = Decision()
        self.test_splits: Sequence[SplitName] = ("test",)
        self._rows: dict[str, list[Outputs]] = {}
        self.outputs: dict[str, Outputs] = {}
        self.predictions: dict[str, Predictions] = {}
        self.results: dict[str, float] = {}
        self._right: list[Tensor] = []
        self._rng: Tensor | None = None
        self._step_rows = torch.empty(0, dtype=torch.long)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, 2) of ham and spam, float32."""
        if self.prefix is None:
            logits: Tensor = self.classifier(batch.tokens, batch.lengths)
            return logits.float()
        hidden = self.prefix(batch.tokens, batch.lengths)
        below = self.below(batch.tokens, batch.lengths) if self.below is not None else None
        return self.classifier.suffix(hidden, batch.lengths, batch.tokens, below).float()

    def configure_model(self) -> None:
        """Under trainer=fsdp, and for training alone: each process keeps a share of the weights."""
        if self.device_mesh is not None and self.trainer.state.fn == TrainerFn.FITTING:
            shard(self.classifier, self.device_mesh)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        labels = batch.labels.masked_fill(batch.labels == self.ignore_index, IGNORED)
        weights = self.class_weights if isinstance(self.class_weights, Tensor) else None
        sources = self.sources[batch.index] if isinstance(self.sources, Tensor) else None
        hidden = (self.prefix or self.classifier.prefix)(batch.tokens, batch.lengths)
        logits, losses = self.classifier.learn(hidden, batch.lengths, labels, sources, weights, batch.tokens)
        if self.classifier.block is not None:
            losses = losses + self._block_losses(batch, labels, weights)
        loss = losses.sum() / self._global_weight(labels, weights)
        self._step_rows = batch.index
        self._check_finite(losses, "the loss of training", "train", batch.index)
        self.log("train/loss", loss.detach(), prog_bar=True, sync_dist=self.trainer.world_size > 1)
        self._right.append((logits.detach().argmax(dim=-1) == labels)[labels != IGNORED])
        return loss

    def _block_losses(self, batch: Batch, labels: Tensor, weights: Tensor | None) -> Tensor:
        """(B,) of a block of the head's own: 0 for rows that it does not learn from."""
        assert isinstance(self.as_written, Tensor)
        counts = self.as_written[batch.index] & (labels != IGNORED)  # (B,)
        tokens, lengths, labels = batch.tokens[counts], batch.lengths[counts], labels[counts]
        if not len(tokens):  # a filler: no step without a gradient, for other processes wait for it
            tokens = torch.full_like(batch.tokens[:1, :1], self.classifier.backbone.config.pad_id)
            lengths, labels = torch.ones_like(batch.lengths[:1]), torch.full_like(batch.labels[:1], IGNORED)
        tokens = tokens[:, : int(lengths.max())]
        losses = self.classifier.learn_block(
            (self.below or self.classifier.below)(tokens, lengths), lengths, labels, weights
        )
        return losses.new_zeros(len(counts)).masked_scatter(counts, losses)

    def on_after_backward(self) -> None:
        """Gradients that would spoil the weights; those of float16 are meant to overflow, and its scaler looks."""
        if self.trainer.scaler is None:
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            total = nn.utils.get_total_norm(gradients, 1.0)  # the largest has no meaning for a share of nothing
            check_finite(total, "a gradient", "train", self._step_rows, self.global_step)

    def _check_finite(self, values: Tensor, what: str, split: SplitName, rows: Tensor) -> None:
        strategy = self.trainer.strategy if self.trainer.world_size > 1 else None
        check_finite(values, what, split, rows, self.global_step - 1, strategy)

    def on_train_epoch_end(self) -> None:
        """Accuracy on the training messages, each as the step found it; without a block of the head's own."""
        if self._right:
            right = torch.cat(self._right).float().mean()
            self.log("train/accuracy", right, sync_dist=self.trainer.world_size > 1)
        self._right = []

    def _global_weight(self, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Weight of the global batch's rows by processes: the divisor that keeps DDP exact; 1 where no row counts."""
        real = labels[labels != IGNORED]
        weight = real.new_tensor(real.numel(), dtype=torch.float32) if weights is None else weights[real].sum()
        if self.trainer.world_size > 1:
            weight = self.trainer.strategy.reduce(weight, reduce_op="sum") / self.trainer.world_size
        return torch.where(weight > 0, weight, 1.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        keep = batch.labels != IGNORED
        logits = self(batch)[keep]
        self._check_finite(logits, "a logit of validation", "validation", batch.index)
        if keep.any():  # not all fillers, as the last batch of one process may be
            self.val_metrics.update(logits, batch.labels[keep])

    def on_validation_epoch_end(self) -> None:
        figures = {f"val/{name}": value.float() for name, value in self.val_metrics.finish().items()}
        self.log_dict(figures, sync_dist=self.trainer.world_size > 1)

    def on_test_epoch_start(self) -> None:
        self._rows = {name: [] for name in self.test_splits}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        keep, split = batch.labels != IGNORED, self.test_splits[dataloader_idx]
        outputs = Outputs(batch.index[keep], self(batch)[keep], batch.labels[keep])
        self._check_finite(outputs.logits, "a logit of the test", split, batch.index)
        self._rows[split].append(outputs)

    def on_test_epoch_end(self) -> None:
        """What all processes found of each split, and what `decision` makes of it."""
        for split, rows in self._rows.items():
            outputs = self.outputs[split] = self._gather(rows)
            probability = self.decision.probability(outputs.logits)
            self.predictions[split] = Predictions(outputs.rows, probability, outputs.labels)
            if split == "reserve":  # ham only: what counts is how much of it is taken for spam
                taken = probability >= self.decision.threshold
                self.results |= {"reserve/fpr": taken.float().mean().item(), "reserve/n": len(taken)}
                continue
            figures = split_figures(outputs.logits / self.decision.temperature, outputs.labels, self.decision.threshold)
            figures["ece"] = calibration_error(probability, outputs.labels)
            figures["brier"] = brier_score(probability, outputs.labels)
            name = "val" if split == "validation" else split
            self.results |= {f"{name}/{figure}": value for figure, value in figures.items()}
        self._rows = {}

    def _gather(self, rows: list[Outputs]) -> Outputs:
        """All processes' rows, by row number."""
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, [column.cpu() for column in columns])
            columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        order = columns[0].argsort()
        return Outputs(*(column[order].cpu() for column in columns))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        trained = {name: parameter for name, parameter in self.classifier.named_parameters() if parameter.requires_grad}
        parameters: list[Any] = list(trained.values())
        head = self.classifier.head
        if isinstance(head, Perceptrons) and head.settings.block is not None:
            block = [parameter for name, parameter in trained.items() if name.startswith("head.block.")]
            others = [parameter for name, parameter in trained.items() if not name.startswith("head.block.")]
            parameters = [{"params": others}, {"params": block, "lr": head.settings.block}]
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of the weights what is trained, and its average; the state of dropout's random numbers in each process."""
        checkpoint["state_dict"] = {f"classifier.{k}": v for k, v in whole(self.classifier.trained_state()).items()}
        if self.average is not None:
            checkpoint["average"] = whole(self.average)
        state = torch.get_rng_state()
        checkpoint["rng"] = self.all_gather(state) if self.trainer.world_size > 1 else state[None]

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """A checkpoint's `state_dict`, or an average, into what is trained; strict, as `load_trained_state` is."""
        self.classifier.load_trained_state({key.removeprefix("classifier."): value for key, value in state.items()})

    def gather(self, classifier: Classifier) -> None:
        """Puts `classifier`, built like the one that was cut up for training, in its place with what it learned."""
        trained = whole(self.classifier.trained_state())
        self.average = self.average and whole(self.average)
        self.classifier = classifier
        classifier.load_trained_state(trained)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:  # where weights are cut up, Lightning has already put them in
            self.load_trained(checkpoint["state_dict"])
        rng = checkpoint["rng"]
        self._rng = rng[min(self.global_rank, len(rng) - 1)].clone()  # torch misreads a view

    def on_train_start(self) -> None:
        if self._rng is not None:
            torch.set_rng_state(self._rng)
            self._rng = None


class _SplitMetrics(nn.Module):
    """Loss and metrics of one split, batch by batch and over all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.metrics = SpamMetrics()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Takes logits (N, 2) and labels (N,)."""
        self.loss.update(F.cross_entropy(logits, labels), weight=len(labels))
        self.metrics.update(logits.softmax(dim=-1)[:, 1], labels)

    def finish(self) -> dict[str, Tensor]:
        """The figures, and a clean slate."""
        values = {"loss": self.loss.compute(), **self.metrics.compute()}
        self.loss.reset()
        self.metrics.reset()
        return values
