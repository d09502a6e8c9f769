"""The recipe, top to bottom: data, model, frozen prefix, trainer, fit, test, and what a run leaves behind."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hydra
import pandas as pd
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch.distributed.fsdp import FSDPModule

from spamlit.assets import atomic_write
from spamlit.data.datamodule import SMSDataModule
from spamlit.data.splits import SplitName, write_splits
from spamlit.model.bundle import save_bundle
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.head import Perceptrons
from spamlit.model.lora import merged
from spamlit.model.spelling import spellings
from spamlit.model.weights import load_backbone, prepared_path, weights_sha256
from spamlit.training import record
from spamlit.training.checkpoint import AtomicCheckpointIO, read_checkpoint
from spamlit.training.checks import check
from spamlit.training.decision import decide
from spamlit.training.divergence import told_by_id
from spamlit.training.generated import make_writer
from spamlit.training.model_card import model_card
from spamlit.training.module import Predictions, SpamModule
from spamlit.training.prefix_stores import make_below_cache, make_prefix_cache
from spamlit.training.run_folder import write_results
from spamlit.training.schedule import total_steps
from spamlit.training.settings import (
    head_settings,
    hyperparameters,
    lora_settings,
    plain,
    threshold_policy,
    unsure_band,
    value,
)
from spamlit.training.tensorboard import log_results

log = logging.getLogger(__name__)

COMPARED = (
    "model.trainable",
    "optimizer.lr",
    "model.pooling",
    "backbone.name",
    "trainer.max_epochs",
    "data.split",
    "seed",
)
FINAL = ("val/f1", "val/accuracy", "test/f1", "test/accuracy", "reserve/fpr")
"""What TensorBoard's table of hyperparameters shows: it has room for few columns. Their tags are not the curves'."""
RUN_KEYS = ("generated", "prefix_cache", "prefix_on_device", "prefix_limit_gb", "score_train", "reserve")
"""Keys of the group `data` that the recipe reads, not the data module."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test", "reserve")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its metrics (metrics.json) and the objects it was made with."""

    folder: Path
    metrics: dict[str, float]
    module: SpamModule
    data: SMSDataModule
    trainer: Trainer


def train(cfg: DictConfig) -> Run:
    """Trains, evaluates and writes the run folder.

    Args:
        cfg: the composed `conf/train.yaml`.

    Raises:
        ValueError: values that do not fit together, before anything is loaded.
        AssetError: data or weights that cannot be had.
        FloatingPointError: a loss, a gradient or a logit that is NaN or infinite.
        KeyboardInterrupt: Ctrl-C; the last checkpoint is what `ckpt=` goes on from.
    """
    timing = record.Timing()
    check(cfg)
    quiet()
    folder = Path(cfg.run_dir)
    seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = make_trainer(cfg)
    with timing("assets"):
        data = make_data(cfg)
        data.prepare_data()
    with timing("prepare"):
        data.write = make_writer(cfg, data.tokenizer)
        data.setup()  # first: it may refuse
    with timing("assets"):
        backbone = load_backbone(**plain(cfg.backbone), seed=cfg.seed)
    with timing("prepare"):
        classifier = make_classifier(cfg, backbone)
        if trainer.is_global_zero:
            write_splits(data.splits, folder)
    with timing("prefix"):
        splits = evaluated_splits(cfg, data)
        cache = make_prefix_cache(cfg, classifier, data, splits)
        below = make_below_cache(cfg, classifier, data, splits)
    module = SpamModule(
        classifier,
        hydra.utils.instantiate(cfg.optimizer),
        hydra.utils.instantiate(cfg.scheduler),
        total_steps=total_steps(trainer, len(data.train_dataloader())),
        prefix=cache,
        class_weights=data.class_weights,
        ignore_index=cfg.model.ignore_index,
        sources=data.sources,
        below=below,
        as_written=data.as_written,
    )
    block = {} if cfg.model.head.block is None else {"model.head.block": cfg.model.head.block}
    sound = partial(told_by_id, data.splits, folder / "checkpoints", {"optimizer.lr": cfg.optimizer.lr, **block})
    with timing("fit"), sound():
        prepare_head(module, data)
        fit(trainer, module, data, cfg)
    with timing("test"), sound():
        load_evaluated(module, cfg)
        with merged(classifier):
            choose_decision(trainer, module, data, cfg)
            test(trainer, module, data, splits)
    metrics = module.results
    if trainer.is_global_zero:
        with timing("write"):
            write_predictions(module.predictions, data, folder)
            write_bundle(cfg, module, data, folder)
            log_run(cfg, trainer, module, data)
        write_results(
            folder, record.run_record(cfg, module, data, [each for each in (cache, below) if each], timing), metrics
        )
    return Run(folder, metrics, module, data, trainer)


def quiet() -> None:
    """Silences what Lightning says to everyone and that does not hold here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # frozen blocks are in eval mode on purpose; the collection is in memory, so workers would only cost
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", message=r"The '\w+' does not have many workers")
    # a library of a library
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # a resumed run writes into its own folder
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")


def make_data(cfg: DictConfig) -> SMSDataModule:
    """The data module for the backbone's vocabulary and context."""
    backbone = CONFIGS[cfg.backbone.name]
    settings = {key: value for key, value in plain(cfg.data).items() if key not in RUN_KEYS}
    data: SMSDataModule = hydra.utils.instantiate(settings, tokenizer=backbone.tokenizer, context=backbone.context)
    return data


def make_trainer(cfg: DictConfig) -> Trainer:
    """The Lightning trainer with the configured callbacks and loggers (`~logger`: none)."""
    callbacks: list[Callback]
    callbacks, loggers = (
        [hydra.utils.instantiate(each) for each in (OmegaConf.select(cfg, group) or {}).values() if each is not None]
        for group in ("callbacks", "logger")
    )
    trainer: Trainer = hydra.utils.instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
    )
    return trainer


def make_classifier(cfg: DictConfig, backbone: GPT) -> Classifier:
    """The backbone with its new head, and what is to be trained of it."""
    classifier = Classifier(
        backbone,
        pooling=cfg.model.pooling,
        layers=value(cfg.model, "layers"),
        causal=cfg.model.causal,
        head_bias=cfg.model.head_bias,
        head=head_settings(cfg),
        dropout=cfg.model.dropout,
        head_seed=cfg.seed,
    )
    adapters = lora_settings(cfg) if cfg.model.trainable == "lora" else None
    classifier.set_trainable(cfg.model.trainable, cfg.model.last_k, adapters)
    return classifier


def evaluated_splits(cfg: DictConfig, data: SMSDataModule) -> tuple[SplitName, ...]:
    """What is evaluated at the end: validation and test, and training messages and reserve if they are wanted."""
    wanted = {"train": cfg.data.score_train, "reserve": cfg.data.reserve}
    return tuple(split for split in SPLITS if data.labels(split) and wanted.get(split, True))


@torch.no_grad()
def prepare_head(module: SpamModule, data: SMSDataModule) -> None:
    """What a head of perceptrons knows before training: spellings, what a gate counts, what its vectors are like."""
    classifier = module.classifier
    if not isinstance(classifier.head, Perceptrons):
        return
    device = classifier.head.mean.device
    if classifier.head.settings.spelling is not None:
        classifier.head.spellings.copy_(spellings(data.tokenizer.ranks, len(classifier.head.spellings)))
    if classifier.head.settings.sources:
        classifier.head.balance(data.sources.to(device), torch.tensor(data.labels("train"), device=device))
    prefix = module.prefix or classifier.prefix
    total = square = torch.zeros(1, dtype=torch.float64)
    for batch in data.eval_dataloader("train"):
        tokens, lengths = batch.tokens.to(device), batch.lengths.to(device)
        hidden = prefix(tokens, lengths)
        hidden = hidden.float() if hidden.is_floating_point() else hidden  # a prefix kept under bf16
        vectors = classifier.vectors(hidden, lengths, tokens).cpu().double()  # (B, D)
        total, square = total + vectors.sum(dim=0), square + vectors.square().sum(dim=0)
    n = len(data.labels("train"))
    classifier.head.standardise(total / n, (square / n - (total / n).square()).clamp(min=0).sqrt())


def fit(trainer: Trainer, module: SpamModule, data: SMSDataModule, cfg: DictConfig) -> None:
    """Trains, from the run's last checkpoint where there is one to go on from; then all processes have all weights."""
    if cfg.model.trainable == "none":
        return
    last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    resumed = last if cfg.ckpt and last.is_file() else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    except SystemExit as stop:  # how Lightning ends a program after Ctrl-C
        raise KeyboardInterrupt from stop
    if isinstance(module.classifier, FSDPModule):
        module.gather(make_classifier(cfg, load_backbone(**plain(cfg.backbone), seed=cfg.seed)))


def load_evaluated(module: SpamModule, cfg: DictConfig) -> None:
    """The weights that are tested and bundled: `evaluate=best` or the last ones, or the average kept beside them."""
    best = Path(cfg.run_dir) / "checkpoints" / "best.ckpt"
    if cfg.evaluate == "best" and best.is_file():
        checkpoint = read_checkpoint(best)
        module.load_trained(checkpoint.get("average", checkpoint["state_dict"]))
    elif module.average is not None:
        module.load_trained(module.average)


def choose_decision(trainer: Trainer, module: SpamModule, data: SMSDataModule, cfg: DictConfig) -> None:
    """The temperature and threshold of the test and the bundle, from one pass over validation where one is needed."""
    policy = threshold_policy(cfg)
    if policy == "argmax" and not cfg.calibrate:
        return
    test(trainer, module, data, ("validation",))
    _, logits, labels = module.outputs["validation"]
    chosen = module.decision = decide(logits, labels, policy, calibrate=cfg.calibrate)
    if trainer.is_global_zero and not chosen.attained:
        log.warning(
            "threshold=%s is more than %d ham and %d spam of validation can promise: the nearest is %.4f, with the "
            "threshold %.4f. More messages would help: data.balance=none, or another data.fractions.",
            policy, (labels == 0).sum(), (labels == 1).sum(), chosen.estimate, chosen.threshold,
        )  # fmt: skip


def test(trainer: Trainer, module: SpamModule, data: SMSDataModule, splits: Sequence[SplitName]) -> None:
    """Outputs, predictions and figures of some splits."""
    module.test_splits = splits
    trainer.test(module, [data.eval_dataloader(split) for split in splits], verbose=False)


def write_predictions(predictions: dict[str, Predictions], data: SMSDataModule, folder: Path) -> None:
    """predictions.csv: what the run said of every message of every split."""
    tables = []
    for split, rows in predictions.items():
        table = getattr(data.splits, split).iloc[rows.rows.numpy()][["id", "label"]]
        tables.append(table.assign(split=split, probability=rows.probability.numpy()))
    with atomic_write(folder / "predictions.csv") as temporary:
        pd.concat(tables).to_csv(temporary, index=False)


def write_bundle(cfg: DictConfig, module: SpamModule, data: SMSDataModule, folder: Path) -> None:
    """classifier/: what predicts, with its tokenizer and model card."""
    settings = {
        "labels": ["ham", "spam"],
        "threshold": module.decision.threshold,
        "threshold_policy": threshold_policy(cfg),
        "temperature": module.decision.temperature,
        "unsure": unsure_band(cfg),
        "max_length": data.max_length,
        "normalise": data.normalise,
        "tokenizer": data.tokenizer.name,
        "weights": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
        "trainable": cfg.model.trainable,
    }
    random = cfg.backbone.weights != "pretrained"
    frozen = None if random else prepared_path(cfg.backbone.name, source=plain(cfg.backbone).get("source"))
    card = model_card(cfg, module, data)
    save_bundle(folder / "classifier", module.classifier, settings, data.tokenizer.save, frozen, card)


def log_run(cfg: DictConfig, trainer: Trainer, module: SpamModule, data: SMSDataModule) -> None:
    """The final figures and pictures to the loggers."""
    log_results(
        trainer.loggers,
        hyperparameters={name: value for name, value in hyperparameters(cfg).items() if name in COMPARED},
        metrics={f"final/{name}": module.results[name] for name in FINAL if name in module.results},
        predictions=module.predictions,
        texts={split: data.texts(split) for split in SPLITS},
        threshold=module.decision.threshold,
        step=trainer.global_step,
    )
