"""What a classifier makes of messages unlike those it learned from: the challenge set, disguises, a few sentences.

Reads the challenge set's half `final`: for `make results` alone (`challenge`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import pandas as pd

from spamlit.analysis.challenge import LOOKALIKES, VARIETIES, Half, challenge_scores, load_challenge
from spamlit.analysis.robustness import MEAN, Scores, flipped_ham, obfuscated_scores
from spamlit.analysis.statistics import Share, mean_interval, wilson
from spamlit.data.normalise import UNDONE
from spamlit.data.obfuscate import TRANSFORMS
from spamlit.training.run_folder import read_json, write_json

FILE = "generalisation.json"
MOST_HAM = 100
"""Of the test split's ham that is disguised: nine times as many messages are to be classified."""
SENTENCES = {
    "Congratulations! You've won a free ticket. Call now!": "spam",
    "You have been selected to receive a cash prize": "spam",
    "Are we still meeting for dinner tonight?": "ham",
    "Salut, tu viens ce soir ?": "ham",
}
"""What the published classifiers get wrong, or a first user types."""
PARTS = (
    "dev, balanced accuracy",
    "final, balanced accuracy",
    "final, look-alike ham taken for spam",
    "recall lost to disguise, points",
    "disguised ham taken for spam, %",
)
"""Heads of `part_row`."""
MEASURED = ("challenge", "disguised", "changed", "changed_dev", "sentences")
"""Keys of `FILE`."""
NOT_UNDONE = tuple(name for name in TRANSFORMS if name not in UNDONE)
"""Transforms that no normalisation undoes."""
CHALLENGE = ("balanced_accuracy", "recall", "fpr", "lookalike_fpr", "chat_fpr")


def measure(scores: Scores, threshold: float, test: pd.DataFrame, folder: Path) -> None:
    """Writes `FILE` into `folder`.

    Args:
        scores: of the classifier: texts to spam probabilities.
        threshold: its own.
        test: the test split: its spam, and `MOST_HAM` of its ham, are disguised.
        folder: where.
    """
    ham, spam = test[test["label"] == "ham"], test[test["label"] == "spam"]
    ham = ham.sample(min(MOST_HAM, len(ham)), random_state=0)
    halves = {half: load_challenge(half) for half in get_args(Half)}
    dev = halves["dev"]
    lookalikes = dev.loc[dev["category"].isin(LOOKALIKES), "text"].tolist()
    write_json(
        folder / FILE,
        {
            "challenge": {
                half: challenge_scores(frame, scores(frame["text"].tolist()), threshold)
                for half, frame in halves.items()
            },
            "disguised": obfuscated_scores(scores, pd.concat([spam, ham]), threshold=threshold).to_dict("index"),
            "changed": flipped_ham(scores, ham["text"].tolist(), threshold=threshold).to_dict("index"),
            "changed_dev": flipped_ham(scores, lookalikes, threshold=threshold).to_dict("index"),
            "sentences": dict(zip(SENTENCES, scores(list(SENTENCES)), strict=True)),
        },
    )


def read(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What `measure` wrote into each folder.

    Raises:
        ValueError: an earlier version wrote it, and measured less.
    """
    found = {folder / FILE: read_json(folder / FILE) for folder in folders}
    for path, said in found.items():
        missing = [key for key in MEASURED if key not in said]
        if missing := missing or [name for name in VARIETIES if f"errors/{name}" not in said["challenge"]["dev"]]:
            raise ValueError(f"{path} has no {', '.join(missing)}: remove it, to have that run measured again.")
    return list(found.values())


def challenge_rows(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    """A line a system and half: the seeds, and `CHALLENGE`, means over seeds with Student's interval.

    Balanced accuracy and look-alike ham have a second interval, over the messages of the half: Wilson's of as many
    errors as there are on average, of the two classes' combined by Newcombe's square-and-add.
    """
    lines = []
    for half in get_args(Half):
        frame = load_challenge(half)
        n = {"recall": (frame["label"] == "spam").sum(), "fpr": (frame["label"] == "ham").sum()}
        n["lookalike_fpr"] = frame["category"].isin(LOOKALIKES).sum()
        for system, each in found.items():
            means = {name: mean_interval([one["challenge"][half][name] for one in each]) for name in CHALLENGE}
            over = {name: wilson(round(means[name].mean * int(size)), int(size)) for name, size in n.items()}
            balanced = _balanced(over["recall"], over["fpr"])
            bounds = [f"[{low:.3f}, {high:.3f}]" for low, high in (balanced, over["lookalike_fpr"][1:])]
            lines.append([system, half, str(len(each)), *(mean.shown(3) for mean in means.values()), *bounds])
    return lines


def _balanced(recall: Share, fpr: Share) -> tuple[float, float]:
    """Bounds of the balanced accuracy by those of the two rates.

    >>> low, high = _balanced(Share(0.9, 0.8, 0.95), Share(0.1, 0.05, 0.2))
    >>> round(low, 3), round(high, 3)
    (0.829, 0.935)
    """
    value = (recall.value + 1 - fpr.value) / 2
    down = math.hypot(recall.value - recall.low, fpr.high - fpr.value) / 2
    up = math.hypot(recall.high - recall.value, fpr.value - fpr.low) / 2
    return value - down, value + up


def part_row(found: Sequence[dict[str, Any]]) -> list[str]:
    """Of one system, means over its seeds: as `PARTS` says."""
    dev, final = ([one["challenge"][half] for one in found] for half in get_args(Half))
    disguised = [one["disguised"][MEAN] for one in found]
    lost = [_lost(one) for one in disguised]
    return [
        f"{fmean(one['balanced_accuracy'] for one in dev):.3f}",
        f"{fmean(one['balanced_accuracy'] for one in final):.3f}",
        f"{fmean(one['lookalike_fpr'] for one in final):.3f}",
        f"{fmean(lost):.2f}",
        f"{100 * fmean(one['fpr_after'] for one in disguised):.2f}",
    ]


def error_rows(found: Sequence[dict[str, Any]], half: Half, by: Literal["category", "variety"]) -> list[list[str]]:
    """A line a category or variety of one system: its messages, and how many of them were wrong, mean over seeds."""
    sizes = load_challenge(half).groupby(by, sort=False).size()
    wrong = {name: fmean(one["challenge"][half][f"errors/{name}"] for one in found) for name in sizes.index}
    return [[str(name), str(sizes[name]), f"{wrong[name]:.1f}"] for name in sizes.index]


def disguise_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a transform of one system: per cent of the messages that it changes, and what it costs (`_cost`)."""
    rows = []
    for name in found[0]["disguised"]:
        each = [one["disguised"][name] for one in found]
        rows.append([name, f"{100 * fmean(one['changed'] for one in each):.0f}", *_cost(each)])
    return rows


def change_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line a harmless change of one system: per cent of the ham that it changes, and that became spam; dev's too."""
    rows = []
    for name in found[0]["changed"]:
        row = [name]
        for ham in ("changed", "changed_dev"):
            each = [one[ham][name] for one in found]
            became = mean_interval([100 * one["to_spam"] for one in each])
            row += [f"{100 * fmean(one['changed'] for one in each):.0f}", became.shown(2)]
        rows.append(row)
    return rows


def cost_rows(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    """A line a system: the seeds, what the suite costs it (`_cost`), and the recall lost by `NOT_UNDONE`."""
    return [
        [
            name,
            str(len(each)),
            *_cost([one["disguised"][MEAN] for one in each]),
            mean_interval([fmean(_lost(one["disguised"][kind]) for kind in NOT_UNDONE) for one in each]).shown(2),
        ]
        for name, each in found.items()
    ]


def _cost(each: Sequence[dict[str, float]]) -> list[str]:
    """Of one transform over seeds: recall lost, in points, and ham taken for spam, in per cent."""
    lost = [_lost(one) for one in each]
    alarms = [100 * one["fpr_after"] for one in each]
    return [mean_interval(values).shown(2) for values in (lost, alarms)]


def _lost(disguised: Mapping[str, float]) -> float:
    """Points of recall."""
    return 100 * (disguised["recall_before"] - disguised["recall_after"])


def sentence_rows(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    """A line a system: for each of `SENTENCES` the mean probability of spam with the least and the most."""
    rows = []
    for system, each in found.items():
        said = [[one["sentences"][text] for one in each] for text in SENTENCES]
        rows.append([system, *(f"{fmean(p):.3f} ({min(p):.3f} to {max(p):.3f})" for p in said)])
    return rows
