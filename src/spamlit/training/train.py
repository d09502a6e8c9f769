"""The recipe, top to bottom: data, model, frozen prefix, trainer, fit, test, and what a run leaves behind."""

from __future__ import annotations

import logging
import math
import os
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from spamlit.assets import sha256_file
from spamlit.data.additions import extra_path
from spamlit.data.datamodule import SMSDataModule
from spamlit.data.splits import SplitName, write_splits
from spamlit.model.bundle import save_bundle
from spamlit.model.classifier import READS_PADDING, Classifier
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.lora import merged
from spamlit.model.weights import load_backbone, prepared_path, weights_sha256
from spamlit.training import record
from spamlit.training.checkpoint import AtomicCheckpointIO
from spamlit.training.checks import check, lora_settings
from spamlit.training.metrics import THRESHOLD
from spamlit.training.module import Predictions, Prefix, SpamModule
from spamlit.training.prefix_cache import PrefixCache
from spamlit.training.run_folder import write_json
from spamlit.training.tensorboard import log_results

GPUS = ("gpu", "cuda")
PREFIX_DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}
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
RUN_KEYS = ("prefix_cache", "prefix_on_device", "prefix_limit_gb", "score_train", "reserve")
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
        backbone = load_backbone(**plain(cfg.backbone), seed=cfg.seed)
    with timing("prepare"):
        data.setup()
        classifier = make_classifier(cfg, backbone)
        if trainer.is_global_zero:
            write_splits(data.splits, folder)
    with timing("prefix"):
        splits = evaluated_splits(cfg, data)
        cache = make_prefix_cache(cfg, classifier, data, splits)
    module = SpamModule(
        classifier,
        hydra.utils.instantiate(cfg.optimizer),
        hydra.utils.instantiate(cfg.scheduler),
        total_steps=total_steps(trainer, len(data.train_dataloader())),
        prefix=cache,
        class_weights=data.class_weights,
        ignore_index=cfg.model.ignore_index,
        test_splits=splits,
    )
    with timing("fit"):
        fit(trainer, module, data, cfg)
    with timing("test"):
        load_evaluated(module, cfg)
        with merged(classifier):
            trainer.test(module, [data.eval_dataloader(split) for split in splits], verbose=False)
    metrics = module.results
    if trainer.is_global_zero:
        with timing("write"):
            write_predictions(module.predictions, data, folder)
            write_bundle(cfg, classifier, data, folder)
            log_run(cfg, trainer, module, data)
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "run.json", run_record(cfg, module, data, cache, timing))
    return Run(folder, metrics, module, data, trainer)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A group as an ordinary dict: below `training` nobody knows of Hydra."""
    content = OmegaConf.to_container(cfg, resolve=True)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


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
    callbacks: list[Callback] = [
        hydra.utils.instantiate(each) for each in (OmegaConf.select(cfg, "callbacks") or {}).values()
    ]
    loggers = [hydra.utils.instantiate(each) for each in (OmegaConf.select(cfg, "logger") or {}).values()]
    trainer: Trainer = hydra.utils.instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
    )
    return trainer


def epoch_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of one epoch, with `batches` in it."""
    limit = trainer.limit_train_batches
    taken = int(batches * limit) if isinstance(limit, float) else min(batches, limit or batches)
    return math.ceil(taken / trainer.accumulate_grad_batches)


def total_steps(trainer: Trainer, batches: int) -> int:
    """Optimizer steps of the whole training, with `batches` in an epoch."""
    steps = (trainer.max_epochs or 1) * epoch_steps(trainer, batches)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def make_classifier(cfg: DictConfig, backbone: GPT) -> Classifier:
    """The backbone with its new head, and what is to be trained of it."""
    classifier = Classifier(
        backbone,
        pooling=cfg.model.pooling,
        causal=cfg.model.causal,
        head_bias=cfg.model.head_bias,
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


def make_prefix_cache(
    cfg: DictConfig, classifier: Classifier, data: SMSDataModule, splits: tuple[SplitName, ...]
) -> PrefixCache | None:
    """The frozen part's output for every message of the run; None where it is to be computed live.

    Where only the head is trained, it is made from the store that training the last block reads, so that a sweep over
    both computes the blocks below once.
    """
    boundary, n_layer = classifier.boundary, classifier.backbone.config.n_layer
    if not cfg.data.prefix_cache or not boundary:
        return None
    needed = dict.fromkeys(("train", *splits))
    messages = [ids for split in needed for ids in data.ids(split)]
    if cfg.model.pooling in READS_PADDING:
        messages = [[*ids, *[data.tokenizer.pad_id] * (data.max_length - len(ids))] for ids in messages]
    if boundary <= n_layer or n_layer == 1:
        cache = prefix_store(cfg, classifier, boundary, classifier.prefix)
        cache.fill(messages)
        return cache
    below = prefix_store(cfg, classifier, n_layer - 1, partial(classifier.states, stop=n_layer - 1))
    pooled = prefix_store(cfg, classifier, boundary, lambda t, n: classifier.pooled(below(t, n), n, start=n_layer - 1))
    if pooled.missing(messages):
        below.fill(messages)
    pooled.fill(messages)
    return pooled


def prefix_store(cfg: DictConfig, classifier: Classifier, boundary: int, compute: Prefix) -> PrefixCache:
    """The store of what leaves the lowest `boundary` blocks, or of the pooled vectors above all of them."""
    pooled = boundary > classifier.backbone.config.n_layer
    dtype = PREFIX_DTYPES.get(str(cfg.trainer.precision), torch.float32)
    gpu = cfg.trainer.accelerator in GPUS
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu")
    return PrefixCache(
        {
            "weights": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
            "boundary": boundary,
            "pooling": cfg.model.pooling if pooled else None,
            "causal": cfg.model.causal,
        },
        as_trained(classifier, compute, device, dtype),
        pooled=pooled,
        padded=cfg.model.pooling in READS_PADDING,
        dtype=dtype,
        device=device if gpu and cfg.data.prefix_on_device else None,
        limit_bytes=int(cfg.data.prefix_limit_gb * 2**30),
    )


def as_trained(classifier: Classifier, compute: Prefix, device: torch.device, dtype: torch.dtype) -> Prefix:
    """`compute` on the device and in the precision that training will have."""
    classifier.to(device)

    def computed(tokens: Tensor, lengths: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(tokens.to(device), lengths.to(device))

    return computed


def fit(trainer: Trainer, module: SpamModule, data: SMSDataModule, cfg: DictConfig) -> None:
    """Trains, from the run's last checkpoint where there is one to go on from."""
    if cfg.model.trainable == "none":
        return
    last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    resumed = last if cfg.ckpt and last.is_file() else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    except SystemExit as stop:  # how Lightning ends a program after Ctrl-C
        raise KeyboardInterrupt from stop


def load_evaluated(module: SpamModule, cfg: DictConfig) -> None:
    """The weights that are tested and bundled: `evaluate=best` or what training ended with."""
    best = Path(cfg.run_dir) / "checkpoints" / "best.ckpt"
    if cfg.evaluate == "best" and best.is_file():
        checkpoint = torch.load(best, map_location="cpu", weights_only=True)
        module.load_trained(checkpoint["state_dict"])


def write_predictions(predictions: dict[str, Predictions], data: SMSDataModule, folder: Path) -> None:
    """predictions.csv: what the run said of every message of every split."""
    tables = []
    for split, rows in predictions.items():
        table = getattr(data.splits, split).iloc[rows.rows.numpy()][["id", "label"]]
        tables.append(table.assign(split=split, probability=rows.probability.numpy()))
    pd.concat(tables).to_csv(folder / "predictions.csv", index=False)


def write_bundle(cfg: DictConfig, classifier: Classifier, data: SMSDataModule, folder: Path) -> None:
    """classifier/: what predicts, with its tokenizer."""
    settings = {
        "labels": ["ham", "spam"],
        "threshold": THRESHOLD,
        "temperature": 1.0,
        "max_length": data.max_length,
        "normalise": data.normalise,
        "tokenizer": data.tokenizer.name,
        "weights": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
        "trainable": cfg.model.trainable,
    }
    random = cfg.backbone.weights != "pretrained"
    frozen = None if random else prepared_path(cfg.backbone.name, source=plain(cfg.backbone).get("source"))
    save_bundle(folder / "classifier", classifier, settings, data.tokenizer.save, frozen)


def log_run(cfg: DictConfig, trainer: Trainer, module: SpamModule, data: SMSDataModule) -> None:
    """The final figures and pictures to the loggers."""
    log_results(
        trainer.loggers,
        hyperparameters={name: value for name, value in hyperparameters(cfg).items() if name in COMPARED},
        metrics={f"final/{name}": module.results[name] for name in FINAL if name in module.results},
        predictions=module.predictions,
        texts={split: data.texts(split) for split in SPLITS},
        threshold=THRESHOLD,
        step=trainer.global_step,
    )


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The choices of a run, flat: `model.trainable`, `optimizer.lr`, …"""
    chosen = {}
    for group in ("data", "backbone", "model", "optimizer", "scheduler"):
        for key, value in cfg[group].items():
            if isinstance(value, str | int | float | bool) and not str(key).startswith("_"):
                chosen[f"{group}.{key}"] = value
    chosen["data.extra"] = ",".join(cfg.data.extra)
    if cfg.model.trainable == "lora":
        lora = lora_settings(cfg)
        chosen |= {f"model.lora.{key}": value for key, value in asdict(lora).items()}
        chosen["model.lora.targets"] = ",".join(lora.targets)
    return chosen | {
        "trainer.max_epochs": cfg.trainer.max_epochs,
        "trainer.accumulate_grad_batches": cfg.trainer.accumulate_grad_batches,
        "trainer.precision": cfg.trainer.precision,
        "seed": cfg.seed,
    }


def run_record(
    cfg: DictConfig, module: SpamModule, data: SMSDataModule, cache: PrefixCache | None, timing: record.Timing
) -> dict[str, Any]:
    """run.json."""
    total, trained = module.classifier.parameter_counts()
    return record.describe(
        data={
            "source": str(data.source),
            "sha256": sha256_file(data.path),
            "counts": data.splits.counts(),
            "train_from": data.splits.origins(),
            "extra": {source: sha256_file(extra_path(source)) for source in data.extra},
            "repeats_dropped": data.splits.dropped,
            "max_length": data.max_length,
        },
        backbone={
            "name": cfg.backbone.name,
            "weights": cfg.backbone.weights,
            "sha256": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
            "n_layer": module.classifier.backbone.config.n_layer,
            "parameters": total,
            "trained": trained,
        },
        prefix={"cached": cache is not None, "computed": cache.computed if cache else 0},
        hyperparameters=hyperparameters(cfg),
        seeds={"seed": cfg.seed, "data": cfg.data.seed, "head": cfg.seed},
        device=record.device_name(module.device),
        precision=str(cfg.trainer.precision),
        epochs=module.trainer.current_epoch,
        steps=module.trainer.global_step,
        steps_per_epoch=epoch_steps(module.trainer, len(data.train_dataloader())),
        timing=timing.total(),
    )
