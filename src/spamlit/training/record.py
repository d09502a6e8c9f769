"""run.json: what a run was."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import spamlit
from spamlit.assets import sha256_file
from spamlit.data.additions import extra_path
from spamlit.data.datamodule import SMSDataModule
from spamlit.model.weights import weights_sha256
from spamlit.training.decision import BINS, calibration
from spamlit.training.module import SpamModule
from spamlit.training.prefix_cache import PrefixCache
from spamlit.training.run_folder import stored_overrides
from spamlit.training.schedule import epoch_steps
from spamlit.training.settings import hyperparameters, plain, threshold_policy, unsure_band

LIBRARIES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "tiktoken", "pandas", "numpy", "gguf")


class Timing:
    """Seconds of each part of a run; the first one of a process counts from the process's start, its imports included.

    >>> timing = Timing()
    >>> with timing("fit"):
    ...     pass
    >>> sorted(timing.seconds)
    ['fit', 'startup']
    """

    _first = True

    def __init__(self) -> None:
        now = time.monotonic()
        self.started = spamlit.STARTED if Timing._first else now
        Timing._first = False
        self.seconds: dict[str, float] = {"startup": round(now - self.started, 3)}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - start, 3)

    def total(self) -> dict[str, float]:
        """All parts, what lies between them (`other`) and the `total`."""
        total = round(time.monotonic() - self.started, 3)
        return {**self.seconds, "other": round(total - sum(self.seconds.values()), 3), "total": total}


def versions() -> dict[str, str]:
    """Python's and the libraries' versions."""
    return {"python": platform.python_version(), "spamlit": spamlit.__version__} | {n: version(n) for n in LIBRARIES}


def git_revision(folder: Path) -> str | None:
    """The commit that the code stands at, with `-dirty` where it was changed since; None outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """`cpu (2 threads)`, or the GPU's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads, {platform.machine()})"


def describe(**parts: Any) -> dict[str, Any]:
    """run.json's content: what is the same for every run, and the parts that the recipe knows."""
    return {**parts, "versions": versions(), "git": git_revision(Path(__file__).parent)}


def run_record(
    cfg: DictConfig, module: SpamModule, data: SMSDataModule, caches: Sequence[PrefixCache], timing: Timing
) -> dict[str, Any]:
    """run.json."""
    total, trained = module.classifier.parameter_counts()
    return describe(
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
        prefix={"cached": bool(caches), "computed": max((cache.computed for cache in caches), default=0)},
        decision=decision_record(cfg, module),
        hyperparameters=hyperparameters(cfg),
        overrides=stored_overrides(Path(cfg.run_dir)),
        seeds={"seed": cfg.seed, "data": cfg.data.seed, "head": cfg.seed},
        device=device_name(module.device),
        precision=str(cfg.trainer.precision),
        epochs=module.trainer.current_epoch,
        steps=module.trainer.global_step,
        steps_per_epoch=epoch_steps(module.trainer, len(data.train_dataloader())),
        timing=timing.total(),
    )


def decision_record(cfg: DictConfig, module: SpamModule) -> dict[str, Any]:
    """How scores become decisions, and how good the probabilities are with and without the temperature."""
    decision = module.decision
    return {
        "policy": threshold_policy(cfg),
        **asdict(decision),
        "unsure": unsure_band(cfg),
        "bins": BINS,
        "calibration": {
            split: calibration(outputs.logits, outputs.labels, decision.temperature)
            for split, outputs in module.outputs.items()
            if split in ("validation", "test")
        },
    }
