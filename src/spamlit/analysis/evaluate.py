"""A classifier on labelled messages: metrics with intervals, predictions, a page that explains every mistake."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torchmetrics import Metric
from torchmetrics.classification import BinaryAveragePrecision, BinaryF1Score, BinaryMatthewsCorrCoef
from torchmetrics.wrappers import BootStrapper

from spamlit.analysis.mistakes import Explainer
from spamlit.analysis.report import split_section, suspected_section, write_page
from spamlit.analysis.statistics import CONFIDENCE, Share, wilson
from spamlit.assets import atomic_write
from spamlit.data.splits import FITTED, read_split
from spamlit.inference.predictor import Predictor
from spamlit.training.metrics import spam_metrics
from spamlit.training.run_folder import write_json

RESAMPLES = 500


def evaluate(
    predictor: Predictor, messages: pd.DataFrame, known: pd.DataFrame, folder: Path, *, name: str, of: str
) -> dict[str, Share]:
    """Classifies labelled messages; writes `predictions.csv`, `metrics.json` and `report.html` into `folder`.

    Args:
        predictor: Of a bundle; its threshold decides.
        messages: ``id``, ``label``, ``text``.
        known: Of the run's other messages ``id``, ``label``, ``text``, ``split``: the training messages are where
            neighbours are looked for, all help to find suspicious labels. May be empty.
        folder: Made where it is not there.
        name: What the messages are called.
        of: What the classifier is called.

    Returns:
        What `figures` gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = predictor.classify(messages["text"].tolist())
    rows = messages.assign(probability=[answer.probability for answer in answers], split=name)
    found = figures(rows, predictor.threshold)
    with atomic_write(folder / "predictions.csv") as temporary:
        rows[["id", "label", "split", "probability"]].to_csv(temporary, index=False)
    write_json(
        folder / "metrics.json",
        {f"{figure}{end}": value for figure, share in found.items() for end, value in _ends(share)},
    )
    train = known[known["split"] == "train"]
    write_page(
        folder / "report.html",
        "evaluation.html.j2",
        name=f"{of} on {name}",
        metrics=found,
        settings=predictor.settings,
        splits=[split_section(name, rows, train, predictor.settings, Explainer(lambda: predictor, budget=None))],
        suspected=suspected_section(pd.concat([known, rows]), name),
    )
    return found


def other_messages(bundle: Path, but: str | None = None) -> pd.DataFrame:
    """The messages of the run that a bundle belongs to, with ``split``, without those of the split `but`.

    No rows where the bundle stands alone.
    """
    frames = [
        read_split(path).assign(split=split)
        for split in FITTED
        if split != but and (path := bundle.parent / f"{split}.csv").is_file()
    ]
    return pd.concat(frames) if frames else pd.DataFrame(columns=["id", "label", "text", "split"])


def figures(rows: pd.DataFrame, threshold: float) -> dict[str, Share]:
    """Metrics with 95 % intervals: Wilson's for shares of messages, percentile bootstrap for the others.

    Args:
        rows: ``label`` and ``probability``.
        threshold: Least probability that is spam.

    Returns:
        `accuracy`, `precision`, `recall`, `fpr` (of ham taken for spam), `f1`, `auprc`, `mcc`.
    """
    spam, flagged = rows["label"] == "spam", rows["probability"] >= threshold
    right = spam == flagged
    shares = {
        "accuracy": wilson(int(right.sum()), len(rows)),
        "precision": wilson(int((spam & flagged).sum()), int(flagged.sum())),
        "recall": wilson(int((spam & flagged).sum()), int(spam.sum())),
        "fpr": wilson(int((~spam & flagged).sum()), int((~spam).sum())),
    }
    probability = torch.tensor(rows["probability"].to_numpy(dtype="float32"))
    labels = torch.tensor(spam.to_numpy(dtype="int64"))
    values = spam_metrics(threshold)(probability, labels)
    others = {
        "f1": BinaryF1Score(threshold),
        "auprc": BinaryAveragePrecision(),
        "mcc": BinaryMatthewsCorrCoef(threshold),
    }
    return shares | {
        name: Share(float(values[name]), *_bootstrapped(metric, probability, labels)) for name, metric in others.items()
    }


def _bootstrapped(metric: Metric, probability: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The ends of a metric's percentile interval over resampled messages, the same draws for every metric."""
    ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    resampled = BootStrapper(
        metric, num_bootstraps=RESAMPLES, mean=False, std=False, quantile=ends, sampling_strategy="multinomial"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        resampled.update(probability, labels)
    low, high = resampled.compute()["quantile"].tolist()
    return low, high


def _ends(share: Share) -> list[tuple[str, float]]:
    return [("", share.value), ("/low", share.low), ("/high", share.high)]
