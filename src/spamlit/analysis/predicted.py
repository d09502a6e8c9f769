"""What a baseline says of the messages, and the files that it leaves: those of a run that tables are made of."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from spamlit.analysis.scores import NATURAL, Array, scores
from spamlit.assets import atomic_write
from spamlit.data.splits import SplitName, Splits
from spamlit.training.run_folder import write_json


class Scorer(Protocol):
    """Spam probabilities (N,) of N texts."""

    def __call__(self, texts: Sequence[str]) -> Array: ...


class Predicted(NamedTuple):
    """What a baseline says of every message of the splits, and what it took.

    Attributes:
        probabilities: Of spam, in the splits' order.
        train_seconds: Of training, the choices on validation included.
        predict_seconds: Of predicting the test split.
        chosen: What was chosen on validation.
        score: The classifier itself.
    """

    probabilities: Mapping[SplitName, Array]
    train_seconds: float
    predict_seconds: float
    chosen: Mapping[str, Any]
    score: Scorer


def predicted(
    splits: Splits,
    score: Scorer,
    start: float,
    chosen: Mapping[str, Any] | None = None,
    *,
    of: Sequence[SplitName] = ("train", "validation", "test", "reserve"),
) -> Predicted:
    """Predicts the splits; `start` is when training began (`time.perf_counter`)."""
    trained = time.perf_counter()
    found: dict[SplitName, Array] = {"test": score(splits.test["text"].tolist())}
    tested = time.perf_counter()
    for split, frame in splits.frames().items():
        if split in of and split not in found and len(frame):
            found[split] = score(frame["text"].tolist())
    return Predicted(found, trained - start, tested - trained, chosen or {}, score)


def write_predicted(splits: Splits, result: Predicted, folder: Path, *, source: str, extra: Sequence[str] = ()) -> None:
    """predictions.csv as a run of spamlit has it, run.json (sources, choices) and, last, metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        split: frame[["id", "label"]].assign(split=split, probability=result.probabilities[split])
        for split, frame in splits.frames().items()
        if split in result.probabilities
    }
    with atomic_write(folder / "predictions.csv") as temporary:
        pd.concat(tables.values()).to_csv(temporary, index=False)
    metrics: dict[str, float] = {}
    for short, table in (("val", tables["validation"]), ("test", tables["test"])):
        metrics |= {f"{short}/{name}": value for name, value in scores(table.assign(threshold=NATURAL)).items()}
    metrics |= {
        "train_seconds": result.train_seconds,
        "predict_seconds": result.predict_seconds,
        "messages_per_second": len(splits.test) / result.predict_seconds,
    }
    made = {"source": source, "extra": list(extra), "chosen": dict(result.chosen), "counts": splits.counts()}
    write_json(folder / "run.json", made)
    write_json(folder / "metrics.json", metrics)
