"""A classifier on labelled messages: metrics with intervals, predictions, a page that explains every mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import pandas as pd

from spamlit.analysis.mistakes import Explainer
from spamlit.analysis.report import split_section, suspected_section, write_page
from spamlit.analysis.resampling import bounds, resampled
from spamlit.analysis.robustness import flipped_ham, obfuscated_scores
from spamlit.analysis.scores import METRICS, scores
from spamlit.analysis.statistics import Share, wilson
from spamlit.assets import atomic_write
from spamlit.data.additions import undisguised
from spamlit.data.splits import FITTED, read_split
from spamlit.inference.predictor import Predictor
from spamlit.training.run_folder import write_json

Robustness = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Rates by change, as `obfuscated_scores` (``disguised``) and `flipped_ham` (``invariance``) name them."""


class Evaluation(NamedTuple):
    """What `figures` gives, and what disguise and harmless changes do (empty where nobody asked)."""

    figures: dict[str, Share]
    robustness: Robustness


def evaluate(
    predictor: Predictor,
    messages: pd.DataFrame,
    known: pd.DataFrame,
    folder: Path,
    *,
    name: str,
    of: str,
    disguise: bool = False,
) -> Evaluation:
    """Classifies labelled messages; writes `predictions.csv`, `metrics.json` and `report.html` into `folder`.

    Args:
        predictor: Of a bundle; its threshold decides.
        messages: ``id``, ``label``, ``text``; of both labels.
        known: Of the run's other messages ``id``, ``label``, ``text``, ``split``: the training messages are where
            neighbours are looked for, all help to find suspicious labels. May be empty.
        folder: Made where it is not there.
        name: What the messages are called.
        of: What the classifier is called.
        disguise: Whether the messages are classified disguised, too, and the ham with harmless changes (`robustness`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    answers = predictor.classify(messages["text"].tolist())
    rows = messages.assign(probability=[answer.probability for answer in answers], split=name)
    found = figures(rows, predictor.threshold)
    with atomic_write(folder / "predictions.csv") as temporary:
        rows[["id", "label", "split", "probability"]].to_csv(temporary, index=False)
    robust = _robustness(predictor, rows) if disguise else {}
    write_json(
        folder / "metrics.json",
        {f"{figure}{end}": value for figure, share in found.items() for end, value in _ends(share)}
        | {
            f"{kind}/{change}/{rate}": value
            for kind, table in robust.items()
            for change, rates in table.items()
            for rate, value in rates.items()
        },
    )
    train = known[known["split"] == "train"]
    write_page(
        folder / "report.html",
        "evaluation.html.j2",
        name=f"{of} on {name}",
        metrics=found,
        robustness=robust,
        settings=predictor.settings,
        splits=[split_section(name, rows, train, predictor.settings, Explainer(lambda: predictor, budget=None))],
        suspected=suspected_section(pd.concat([known, rows]), name),
    )
    return Evaluation(found, robust)


def _robustness(predictor: Predictor, rows: pd.DataFrame) -> Robustness:
    known = dict(zip(rows["text"], rows["probability"], strict=True))

    def ask(texts: Sequence[str]) -> list[float]:
        new = [text for text in texts if text not in known]
        known.update(zip(new, (answer.probability for answer in predictor.classify(new)), strict=True))
        return [known[text] for text in texts]

    ham = rows.loc[rows["label"] == "ham", "text"].tolist()
    tables = {
        "disguised": obfuscated_scores(ask, rows, threshold=predictor.threshold),
        "invariance": flipped_ham(ask, ham, threshold=predictor.threshold),
    }
    return {kind: cast("dict[str, dict[str, float]]", table.to_dict("index")) for kind, table in tables.items()}


def other_messages(bundle: Path, but: str | None = None) -> pd.DataFrame:
    """The messages of the run that a bundle belongs to, with ``split``, without those of the split `but`.

    No rows where the bundle stands alone; no disguised copies.
    """
    frames = [
        undisguised(read_split(path)).assign(split=split)
        for split in FITTED
        if split != but and (path := bundle.parent / f"{split}.csv").is_file()
    ]
    return pd.concat(frames) if frames else pd.DataFrame(columns=["id", "label", "text", "split"])


def figures(rows: pd.DataFrame, threshold: float) -> dict[str, Share]:
    """Each of `METRICS` with its 95 % interval: Wilson's for shares of messages, the stratified bootstrap's for others.

    Args:
        rows: ``id``, ``label`` and ``probability``.
        threshold: Least probability that is spam.
    """
    rows = rows.assign(threshold=threshold)
    spam, flagged = rows["label"] == "spam", rows["probability"] >= threshold
    false_positives = wilson(int((~spam & flagged).sum()), int((~spam).sum()))
    shares = {
        "precision": wilson(int((spam & flagged).sum()), int(flagged.sum())),
        "recall": wilson(int((spam & flagged).sum()), int(spam.sum())),
        "accuracy": wilson(int((spam == flagged).sum()), len(rows)),
        "fp_per_1000": Share(*(1000 * value for value in false_positives)),
    }
    found, drawn = scores(rows), resampled({0: rows})
    return {name: shares[name] if name in shares else Share(found[name], *bounds(drawn[name])) for name in METRICS}


def _ends(share: Share) -> list[tuple[str, float]]:
    return [("", share.value), ("/low", share.low), ("/high", share.high)]
