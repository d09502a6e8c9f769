"""A classifier on labelled messages: metrics with intervals, predictions, a page that explains every mistake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def evaluate(
    predictor: Predictor,
    messages: pd.DataFrame,
    known: pd.DataFrame,
    folder: Path,
    *,
    name: str,
    of: str,
    disguise: bool = False,
) -> dict[str, Share]:
    """Classifies labelled messages; writes `predictions.csv`, `metrics.json` and `report.html` into `folder`.

    Args:
        predictor: Of a bundle; its threshold decides.
        messages: ``id``, ``label``, ``text``; of both labels.
        known: Of the run's other messages ``id``, ``label``, ``text``, ``split``: the training messages are where
            neighbours are looked for, all help to find suspicious labels. May be empty.
        folder: Made where it is not there.
        name: What the messages are called.
        of: What the classifier is called.
        disguise: Whether the messages are classified disguised, too, and the ham with harmless changes (`robustness`):
            takes some twelve times as long.

    Returns:
        What `figures` gives.
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
            for change, row in table.items()
            for rate, value in row.items()
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
    return found


def _robustness(predictor: Predictor, rows: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """What disguise costs (``disguised``) and harmless changes do to the ham (``changed``), by transform and rate."""

    def scores(texts: Sequence[str]) -> list[float]:
        return [answer.probability for answer in predictor.classify(texts)]

    tables = {
        "disguised": obfuscated_scores(scores, rows, threshold=predictor.threshold),
        "changed": flipped_ham(
            scores, rows.loc[rows["label"] == "ham", "text"].tolist(), threshold=predictor.threshold
        ),
    }
    return {
        kind: {str(name): {str(rate): float(value) for rate, value in row.items()} for name, row in table.iterrows()}
        for kind, table in tables.items()
    }


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
