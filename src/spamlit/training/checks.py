"""Overrides that cannot work together, refused before anything is loaded."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec

import torch
from omegaconf import DictConfig, OmegaConf

from spamlit.data.additions import check_additions
from spamlit.data.generated import check_generated
from spamlit.data.normalise import check_normalisation
from spamlit.model.classifier import TRAINABLES, trained_blocks
from spamlit.model.config import CONFIGS
from spamlit.model.lora import LoRA
from spamlit.model.pooling import POOLINGS, READS_PADDING, read_layers
from spamlit.model.weights import WEIGHTS
from spamlit.training.optimizer import DECAYS
from spamlit.training.settings import head_settings, lora_settings, threshold_policy, unsure_band, value

EXTRAS = ("wandb", "mlflow")
"""Loggers whose package is an extra of the same name."""


def check(cfg: DictConfig) -> None:
    """Looks for values and combinations that a run would only trip over later.

    Raises:
        ValueError: with the key, the value and what to choose.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ValueError(f"{missing[0]} is not set: give it on the command line, {missing[0]}=…")
    _choice("backbone.name", cfg.backbone.name, tuple(CONFIGS))
    _choice("model.trainable", cfg.model.trainable, TRAINABLES)
    backbone = CONFIGS[cfg.backbone.name].cut(cfg.backbone.n_layer)
    trained_blocks(cfg.model.trainable, cfg.model.last_k, backbone.n_layer)
    _choice("model.pooling", cfg.model.pooling, POOLINGS)
    _check_layers(value(cfg.model, "layers"), backbone.n_layer)
    _choice("evaluate", cfg.evaluate, ("best", "last"))
    _choice("backbone.weights", cfg.backbone.weights, WEIGHTS)
    _choice("optimizer.decay", cfg.optimizer.get("decay", "all"), DECAYS)
    if cfg.data.padding == "longest" and cfg.model.pooling in READS_PADDING:
        raise ValueError(
            f"model.pooling={cfg.model.pooling} reads padding, so its result would depend on the batch under "
            "data.padding=longest: choose data.padding=fixed, or model.pooling=last_nonpad."
        )
    check_normalisation(cfg.data.normalise)
    extra = cfg.data.extra
    check_additions(cfg.data.obfuscate, list(extra) if OmegaConf.is_list(extra) else extra)
    check_generated(value(cfg.data, "generated"))
    _positive("optimizer.lr", cfg.optimizer.lr)
    if not 0 <= cfg.scheduler.get("warmup", 0) < 1:
        raise ValueError(f"scheduler.warmup={cfg.scheduler.warmup} is not a share of the steps: choose 0 ≤ warmup < 1.")
    _check_head(cfg)
    _check_lora(cfg)
    _check_decision(cfg)
    if cfg.threads is not None and (not isinstance(cfg.threads, int) or cfg.threads < 1):
        raise ValueError(f"threads={cfg.threads}: choose a whole number from 1 on, or null for as many as cores.")
    for name in OmegaConf.select(cfg, "logger") or {}:
        if name in EXTRAS and find_spec(str(name)) is None:
            raise ValueError(f'logger={name} needs a package that is not here: pip install "spamlit[{name}]".')
    _check_shares(cfg.data.batch_size, cfg.trainer)
    _check_length(cfg.trainer, trains=cfg.model.trainable != "none")
    _check_trainer(cfg.trainer, fused=cfg.optimizer.get("fused", False))


def _check_layers(layers: object, n_layer: int) -> None:
    if layers is not None and not isinstance(layers, list):
        raise ValueError(f"model.layers={layers}: choose a list of block counts, as in [10,22,26].")
    read_layers(layers, n_layer)


def _check_head(cfg: DictConfig) -> None:
    head = head_settings(cfg)
    if head.hidden is not None and not cfg.model.head_bias:
        raise ValueError(f"model.head_bias=false goes with a linear head, not model.head.hidden={head.hidden}.")
    if head.block is not None and cfg.model.trainable not in ("none", "head"):
        raise ValueError(
            f"model.head.block={head.block} trains a block beside frozen ones: choose model.trainable=head, not "
            f"{cfg.model.trainable}, or model.head.block=null."
        )
    if head.block is not None and cfg.model.pooling in READS_PADDING:
        raise ValueError(
            f"model.head.block={head.block} reads no padding, model.pooling={cfg.model.pooling} does: choose "
            "model.pooling=mean_nonfirst, or model.head.block=null."
        )
    if head.sources and not cfg.data.extra:
        raise ValueError("model.head.sources=true tells added messages from the data's own: give data.extra=[modern].")


def _check_lora(cfg: DictConfig) -> None:
    lora, default = lora_settings(cfg), LoRA()
    if cfg.model.trainable == "lora":
        lora.check_fits(CONFIGS[cfg.backbone.name])
    elif lora != default:
        changed = next(key for key in asdict(default) if getattr(lora, key) != getattr(default, key))
        raise ValueError(
            f"model.lora.{changed}={getattr(lora, changed)} has no effect with model.trainable={cfg.model.trainable}: "
            "choose model.trainable=lora, or leave it out."
        )


def _check_decision(cfg: DictConfig) -> None:
    threshold_policy(cfg)
    unsure_band(cfg)
    if not isinstance(cfg.calibrate, bool):
        raise ValueError(f"calibrate={cfg.calibrate}: choose true or false.")


def _check_shares(batch_size: object, trainer: DictConfig) -> None:
    """`devices=auto` is left to the data module, which knows how many they are."""
    if not all(isinstance(count, int) and count > 0 for count in (trainer.devices, trainer.num_nodes)):
        return
    processes = trainer.devices * trainer.num_nodes
    if isinstance(batch_size, int) and batch_size % processes:
        raise ValueError(
            f"data.batch_size={batch_size} counts all processes together and cannot be divided by {processes}: choose "
            "a multiple, or fewer trainer.devices."
        )


def _check_length(trainer: DictConfig, *, trains: bool) -> None:
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if trains and trainer[key] == 0:
            raise ValueError(
                f"trainer.{key}=0 leaves nothing to train on: choose another number, or model.trainable=none to test "
                "what is not trained yet."
            )


def _check_trainer(trainer: DictConfig, *, fused: bool) -> None:
    if trainer.gradient_clip_val and fused and "mixed" in str(trainer.precision):
        raise ValueError(
            f"trainer.gradient_clip_val={trainer.gradient_clip_val}: Lightning does not clip for a fused optimizer in "
            f"{trainer.precision}. Choose optimizer.fused=false."
        )
    if trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator} needs an NVIDIA GPU and a CUDA build of torch; this torch "
            f"({torch.__version__}) sees none. Choose trainer=cpu, or install torch with CUDA."
        )


def _positive(key: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{key}={value}: choose a number above 0.")


def _choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{key}={value}: choose one of {', '.join(choices)}.")
