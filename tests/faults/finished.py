"""What a run leaves, in a form that can be compared, and whether what a killed one left could be taken for that."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.faults.outcome import Lost, Wrong

from spamlit.analysis.compare import runs_table
from spamlit.assets import sha256_file
from spamlit.model.bundle import load_bundle
from spamlit.training.prefix_cache import _NUMPY, _read_shard
from spamlit.training.prefix_folders import stores
from spamlit.training.run_folder import RunNotFoundError, find_bundle, is_finished, read_json

RUBBISH = ("*.tmp", "*.part", "*.old")


def outcome(run: Path) -> dict[str, Any]:
    """Metrics, predictions, splits, bundle and the weights of both checkpoints, bit for bit."""
    files = [run / name for name in ("predictions.csv", "train.csv", "validation.csv", "test.csv")]
    files += sorted(path for path in (run / "classifier").iterdir() if path.name != "MODEL_CARD.md")
    return {
        "metrics": read_json(run / "metrics.json"),
        **{str(path.relative_to(run)): sha256_file(path) for path in files},
        **{f"{name} {key}": value for name in ("last", "best") for key, value in _weights(run, name).items()},
    }


def _weights(run: Path, name: str) -> dict[str, str]:
    state = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"]
    return {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in state.items()}


def check_same(run: Path, wanted: dict[str, Any]) -> None:
    """That a run ended as the undisturbed one did."""
    found = outcome(run)
    other = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    if other:
        raise Wrong(f"{run} differs from the undisturbed run in {', '.join(sorted(other))}")


def check_killed(root: Path, run: Path, wanted: dict[str, Any]) -> None:
    """That nothing takes what a killed run left for a result that it is not, and that its checkpoints can be read."""
    try:
        rows = runs_table([root]).to_dict("records")
    except ValueError:
        rows = []
    for row in rows:
        if any(row[name] != value for name, value in wanted["metrics"].items()):
            raise Wrong(f"`spamlit compare` shows metrics that the run has not: {row}")
    if is_finished(run) and read_json(run / "metrics.json") != wanted["metrics"]:
        raise Wrong(f"{run} is taken for finished")
    with suppress(RunNotFoundError):
        load_bundle(find_bundle(run))
    for path in (run / "checkpoints").glob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception as error:
            raise Lost(f"{path} cannot be read") from error
    check_cache(root / "cache")


def check_cache(cache: Path) -> None:
    """That every shard of the prefix cache passes its check."""
    for folder, key, *_ in stores(cache / "prefix"):
        for shard in folder.glob("*.shard"):
            with np.load(shard / "index.npz") as index:
                digests = set(map(bytes, index["digests"]))
            if not _read_shard(shard, digests, _NUMPY[getattr(torch, key["dtype"].removeprefix("torch."))]):
                raise Wrong(f"{shard} is not sound")


def check_tidy(*folders: Path) -> None:
    """That no temporary file is left."""
    left = [str(path) for folder in folders for pattern in RUBBISH for path in folder.rglob(pattern)]
    if left:
        raise Wrong(f"left behind: {', '.join(left)}")


def prefix_computed(run: Path) -> int:
    """Messages that a run computed the frozen part of."""
    return int(read_json(run / "run.json")["prefix"]["computed"])


def fresh(folder: Path) -> Path:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
