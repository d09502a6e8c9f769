"""The configuration as plain values: below `training` nobody knows of Hydra."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from spamlit.model.head import HeadSettings
from spamlit.model.lora import LoRA
from spamlit.training.decision import Policy, check_band, read_policy


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A group as an ordinary dict: below `training` nobody knows of Hydra."""
    content = OmegaConf.to_container(cfg, resolve=True)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def lora_settings(cfg: DictConfig) -> LoRA:
    """The group `model.lora`.

    Raises:
        ValueError: a value that LoRA does not take.
    """
    return LoRA(**{str(key): value for key, value in cfg.model.lora.items()})


def head_settings(cfg: DictConfig) -> HeadSettings:
    """The group `model.head`.

    Raises:
        ValueError: a value that makes no head.
    """
    return HeadSettings(**{str(key): value for key, value in cfg.model.head.items()})


def threshold_policy(cfg: DictConfig) -> Policy:
    """`threshold`.

    Raises:
        ValueError: no policy.
    """
    policy: Policy = value(cfg, "threshold")
    read_policy(policy)
    return policy


def unsure_band(cfg: DictConfig) -> tuple[float, float] | None:
    """`unsure`.

    Raises:
        ValueError: no band.
    """
    return check_band(value(cfg, "unsure"))


def value(cfg: DictConfig, key: str) -> Any:
    """What a key holds, lists and mappings as Python's own."""
    content = cfg[key]
    return OmegaConf.to_container(content, resolve=True) if OmegaConf.is_config(content) else content


def hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The choices of a run, flat: `model.trainable`, `optimizer.lr`, …"""
    chosen = {}
    for group in ("data", "backbone", "model", "optimizer", "scheduler"):
        for key, value in cfg[group].items():
            if isinstance(value, str | int | float | bool) and not str(key).startswith("_"):
                chosen[f"{group}.{key}"] = value
    chosen |= {f"data.generated.{label}": count for label, count in cfg.data.generated.items() if count}
    chosen["data.extra"] = ",".join(cfg.data.extra)
    if cfg.model.layers is not None:
        chosen["model.layers"] = ",".join(map(str, cfg.model.layers))
    if cfg.model.head.hidden is not None:
        chosen |= {f"model.head.{key}": value for key, value in asdict(head_settings(cfg)).items()}
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
