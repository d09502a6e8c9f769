"""Runs every system on every protocol's splits, once: `outputs/results/<protocol>/<system>/<seed>/`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from spamlit.analysis import generalisation
from spamlit.analysis.predicted import Predicted, write_predicted
from spamlit.analysis.scores import NATURAL
from spamlit.analysis.systems import EXTRA, MAIN, PROTOCOLS, SYSTEMS, Protocol, System
from spamlit.data.splits import Splits
from spamlit.inference.predictor import Predictor
from spamlit.model.bundle import read_settings
from spamlit.training.run_folder import HOW, identity, is_finished, read_json, stored_overrides, write_json

SPEED = "speed.json"
"""What is measured of a run of spamlit once it has finished, beside its own files."""
INDIFFERENT: tuple[str, ...] = (
    *HOW,
    "run_dir",
    "report",
    "explain",
    "logger",
    "callbacks.progress",
    "data.prefix_",
    "data.num_workers",
    "data.score_train",
)
"""Beginnings of the settings that change no figure."""


@dataclass(frozen=True)
class Cell:
    """One system on one split: a folder of results.

    Attributes:
        protocol: How the messages are divided.
        system: What is trained on them.
        seed: Of both.
        root: Of all results.
        source: sms, or the path of a file like the collection.
    """

    protocol: Protocol
    system: System
    seed: int
    root: Path
    source: str = "sms"

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / self.protocol.name / self.system.name / str(self.seed)

    @property
    def overrides(self) -> list[str]:
        """The command line of a run of spamlit."""
        source = [] if self.source == "sms" else [f"data.source={self.source}"]
        chosen = self.system.options.get("overrides", ())
        return [*chosen, *self.protocol.overrides, *source, f"seed={self.seed}", "report=false"]

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do.

        Raises:
            ValueError: there is one that was made otherwise.
        """
        if self.system.kind != "spamlit":
            if not (self.folder / "metrics.json").is_file():
                return False
            source = self.record().get("source", "sms")
            if source != self.source:
                raise ValueError(f"{self.folder} is of {source}, not of {self.source}: choose another --folder.")
            return all((self.folder / name).is_file() for name in self.measurements)
        stored = stored_overrides(self.folder)
        if stored is not None and identity(stored) != identity(self.overrides):
            raise ValueError(
                f"{self.folder} holds another run ({' '.join(stored)}), not {' '.join(self.overrides)}: move it away."
            )
        return is_finished(self.folder) and all((self.folder / name).is_file() for name in self.measurements)

    @property
    def measurements(self) -> list[str]:
        """Files beside those of its own: what else is measured of it."""
        speed = [SPEED] if self.system.kind == "spamlit" else []
        return speed + [generalisation.FILE] * (self.system.elsewhere and self.protocol.name == MAIN)

    def predictions(self) -> pd.DataFrame:
        """Columns id, label, split, probability."""
        return pd.read_csv(self.folder / "predictions.csv")

    def threshold(self) -> float:
        """The system's own: what its bundle holds, else 0.5."""
        bundle = self.folder / "classifier"
        return float(read_settings(bundle)["threshold"]) if bundle.is_dir() else NATURAL

    def speed(self) -> tuple[float, float]:
        """Seconds of training, and messages predicted a second.

        Training is what comes before the test but for fetching data and weights: preparation (what the backbone writes
        included), the frozen blocks, the fit. Of a run that stopped and went on it is the last process's.
        """
        found = read_json(self.folder / (SPEED if self.system.kind == "spamlit" else "metrics.json"))
        if self.system.kind == "spamlit":
            timing = self.record()["timing"]
            found["train_seconds"] = timing["prepare"] + timing["prefix"] + timing["fit"]
        return float(found["train_seconds"]), float(found["messages_per_second"])

    def record(self) -> dict[str, Any]:
        """What is kept of how it was made."""
        return read_json(self.folder / "run.json")


def cells(
    root: Path,
    *,
    protocols: Iterable[str] = (),
    systems: Iterable[str] = (),
    seeds: Iterable[int] = (),
    source: str = "sms",
) -> Iterator[Cell]:
    """The chosen part of the table, by protocol, system and seed; nothing chosen means all."""
    wanted = set(seeds)
    for protocol in [PROTOCOLS[name] for name in protocols] or PROTOCOLS.values():
        for system in [SYSTEMS[name] for name in systems] or SYSTEMS.values():
            for seed in protocol.seeds[: system.repeats] if protocol.name in system.protocols else ():
                if not wanted or seed in wanted:
                    yield Cell(protocol, system, seed, root, source)


def check_extra(systems: Iterable[System]) -> None:
    """The packages of the baselines must be here.

    Raises:
        ValueError: one is not.
    """
    for system in systems:
        package = EXTRA.get(system.kind)
        if package and find_spec(package) is None:
            raise ValueError(f'{system.name} needs {package}, which is not here: pip install "spamlit[baselines]".')


def run(cell: Cell) -> None:
    """Makes what is missing of a cell.

    Raises:
        AssetError: data or weights cannot be had.
        ValueError: a run of spamlit failed (what it said stands above).
    """
    if cell.system.kind == "spamlit":
        _run_spamlit(cell)
        return
    splits = cell.protocol.splits(cell.seed, cell.source, cell.system.extra)
    result = fit(cell.system, splits, cell.seed)
    write_predicted(splits, result, cell.folder, source=cell.source, extra=cell.system.extra)
    if generalisation.FILE in cell.measurements:
        generalisation.measure(lambda texts: result.score(texts).tolist(), NATURAL, splits.test, cell.folder)


def fit(system: System, splits: Splits, seed: int) -> Predicted:
    """Trains a baseline on the splits and predicts them; imports what its kind needs, which tables do without."""
    if system.kind == "encoder":
        from spamlit.analysis.encoder import finetuned

        return finetuned(splits, seed, **system.options)
    if system.kind == "prompted":
        from spamlit.analysis.prompted import prompted

        return prompted(splits, seed, **system.options)
    from spamlit.analysis.baselines import majority, naive_bayes, tfidf_svm

    kinds: dict[str, Callable[..., Predicted]] = {
        "majority": majority,
        "naive-bayes": naive_bayes,
        "tfidf-svm": tfidf_svm,
    }
    return kinds[system.kind](splits, seed, **system.options)


def _run_spamlit(cell: Cell) -> None:
    """The command, in a process of its own; one that stopped goes on from its last checkpoint."""
    if not is_finished(cell.folder):
        stopped = (cell.folder / "checkpoints" / "last.ckpt").is_file()
        how = [f"ckpt={cell.folder}"] if stopped else [*cell.overrides, f"hydra.run.dir={cell.folder}"]
        done = subprocess.run([sys.executable, "-m", "spamlit", "train", *how], check=False)
        if done.returncode:
            raise ValueError(f"{cell.folder}: spamlit train {' '.join(how)} ended with status {done.returncode}.")
    splits, predictor = cell.protocol.splits(cell.seed, cell.source), Predictor.load(cell.folder)
    write_json(cell.folder / SPEED, _measure(predictor, splits))
    if generalisation.FILE in cell.measurements:
        generalisation.measure(
            lambda texts: [said.probability for said in predictor.classify(texts)],
            predictor.threshold,
            splits.test,
            cell.folder,
        )


def _measure(predictor: Predictor, splits: Splits) -> dict[str, float]:
    """Messages a second of the Predictor on the test split."""
    start = time.perf_counter()
    predictor.classify(splits.test["text"].tolist())
    seconds = time.perf_counter() - start
    return {"predict_seconds": seconds, "messages_per_second": len(splits.test) / seconds}
