"""The tables of the results pages, computed from the predictions of every system (`results.Cell`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean, median
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spamlit.analysis.resampling import bounds, check_paired, mcnemar, paired_bounds, resampled
from spamlit.analysis.results import INDIFFERENT, Cell
from spamlit.analysis.scores import METRICS, Array, f1_threshold, scores
from spamlit.analysis.statistics import difference, mean_interval, wilson
from spamlit.analysis.systems import LEXICAL, PROTOCOLS, Protocol, System
from spamlit.training.decision import choose_threshold

VALIDATION, OWN = "validation", "own"
POLICIES = (VALIDATION, OWN)
"""The threshold with the best F1 on validation, or the system's own."""
COMPARED = ("f1", "auprc")
TARGETS: tuple[dict[str, float], ...] = ({"precision": 0.99}, {"fpr": 0.005})
"""Policies whose target should hold on test."""
FINE_TUNED = ("encoder", "spamlit")
"""Kinds that train a pretrained model."""
UNTRAINED = ("majority", "prompted")
"""Kinds whose errors say nothing of a message."""


@dataclass(frozen=True)
class Outcome:
    """A system on the finished splits of a protocol, decided with one threshold policy.

    Attributes:
        cells: By split seed.
        policy: Of `POLICIES`.
    """

    cells: Mapping[int, Cell]
    policy: str

    @property
    def system(self) -> System:
        """Whose it is."""
        return next(iter(self.cells.values())).system

    @property
    def protocol(self) -> Protocol:
        """How the messages were divided."""
        return next(iter(self.cells.values())).protocol

    @cached_property
    def decided(self) -> dict[int, pd.DataFrame]:
        """Predictions with the column ``threshold``, of all splits, by seed."""
        found = {}
        for seed, cell in self.cells.items():
            rows = cell.predictions()
            chosen = (
                f1_threshold(rows[rows["split"] == "validation"]) if self.policy == VALIDATION else cell.threshold()
            )
            found[seed] = rows.assign(threshold=chosen)
        return found

    @cached_property
    def tests(self) -> dict[int, pd.DataFrame]:
        """Those of the test split."""
        return {seed: rows[rows["split"] == "test"].reset_index(drop=True) for seed, rows in self.decided.items()}

    @cached_property
    def scores(self) -> dict[int, dict[str, float]]:
        """Of the test split, by seed."""
        return {seed: scores(test) for seed, test in self.tests.items()}

    @cached_property
    def resampled(self) -> dict[str, Array]:
        """Of the test splits, over messages."""
        return resampled(self.tests)

    def by_seed(self, metric: str) -> dict[str, float]:
        """Of the test split."""
        return {str(seed): found[metric] for seed, found in self.scores.items()}

    def values(self, metric: str) -> list[float]:
        """Of the test split, seed by seed."""
        return list(self.by_seed(metric).values())

    def of(self, seeds: Iterable[int]) -> Outcome:
        """The same on fewer seeds."""
        fewer = {seed: self.cells[seed] for seed in sorted(seeds)}
        return self if fewer.keys() == self.cells.keys() else Outcome(fewer, self.policy)


def outcomes(cells: Iterable[Cell], policy: str) -> dict[str, dict[str, Outcome]]:
    """Outcomes by protocol and system, of what has finished.

    Raises:
        ValueError: seeds of a system were made from other settings or files.
    """
    found: dict[str, dict[str, dict[int, Cell]]] = {}
    for cell in cells:
        if cell.done:
            found.setdefault(cell.protocol.name, {}).setdefault(cell.system.name, {})[cell.seed] = cell
    for systems in found.values():
        for seeds in systems.values():
            _check_alike(seeds)
    return {
        protocol: {system: Outcome(seeds, policy) for system, seeds in systems.items()}
        for protocol, systems in found.items()
    }


def _check_alike(cells: Mapping[int, Cell]) -> None:
    """A recipe or a supplement that changed must not be averaged with what it was before."""
    made = {}
    for seed, cell in cells.items():
        record = cell.record()
        settings = record.get("hyperparameters", {})
        files = record.get("data", {})
        telling = [key for key in settings if not key.endswith("seed") and not key.startswith(INDIFFERENT)]
        made[seed] = {key: settings[key] for key in telling}
        made[seed] |= {key: files.get(key) for key in ("sha256", "extra")}
    first = next(iter(made))
    for seed, settings in made.items():
        other = sorted(key for key in settings.keys() | made[first].keys() if settings.get(key) != made[first].get(key))
        if other:
            raise ValueError(
                f"{cells[seed].folder} was made otherwise than seed {first} ({', '.join(other)}): move one away."
            )


def figures(systems: Mapping[str, Outcome]) -> pd.DataFrame:
    """A row a system and metric of one protocol: mean over seeds and its t interval, bootstrap over messages."""
    rows = []
    for name, outcome in systems.items():
        for metric in METRICS:
            interval, over_messages = mean_interval(outcome.values(metric)), bounds(outcome.resampled[metric])
            rows.append(
                {
                    "protocol": outcome.protocol.name,
                    "system": name,
                    "threshold": outcome.policy,
                    "metric": metric,
                    "seeds": len(outcome.cells),
                    **interval._asdict(),
                    **over_messages._asdict(),
                }
            )
    return pd.DataFrame(rows)


def strongest(systems: Mapping[str, Outcome]) -> Outcome | None:
    """The lexical baseline with the highest mean F1 on test; None where none has finished."""
    lexical = [outcome for outcome in systems.values() if outcome.system.kind in LEXICAL]
    return max(lexical, key=lambda outcome: fmean(outcome.values("f1")), default=None)


def comparisons(systems: Mapping[str, Outcome], baseline: Outcome) -> pd.DataFrame:
    """Each other system minus the baseline, on the seeds that both have: F1 and AUPRC, and McNemar's test.

    Raises:
        ValueError: they were not tested on the same messages.
    """
    others = [outcome for name, outcome in systems.items() if name != baseline.system.name]
    return pd.DataFrame([row for outcome in others if (row := _compared(outcome, baseline))])


def pairs(systems: Mapping[str, Outcome]) -> pd.DataFrame:
    """Each two of the fine-tuned systems that run under every protocol, the first minus the second (``other``).

    Raises:
        ValueError: they were not tested on the same messages.
    """
    tuned = [
        outcome
        for outcome in systems.values()
        if outcome.system.kind in FINE_TUNED and set(outcome.system.protocols) == set(PROTOCOLS)
    ]
    return pd.DataFrame([row for one, other in combinations(tuned, 2) if (row := _compared(one, other))])


def _compared(one: Outcome, other: Outcome) -> dict[str, Any] | None:
    """One minus the other on the seeds that both have; None where there are none.

    Raises:
        ValueError: they were not tested on the same messages.
    """
    shared = one.cells.keys() & other.cells.keys()
    if not shared:
        return None
    ours, theirs = one.of(shared), other.of(shared)
    check_paired(ours.tests, theirs.tests)
    over_messages = paired_bounds(ours.resampled, theirs.resampled)
    row: dict[str, Any] = {"system": ours.system.name, "other": theirs.system.name, "seeds": len(shared)}
    row |= {"threshold": ours.policy, "other threshold": theirs.policy}
    for metric in COMPARED:
        over_seeds = difference(ours.by_seed(metric), theirs.by_seed(metric))
        row |= {f"{metric} {part}": value for part, value in over_seeds._asdict().items()}
        row |= {f"{metric} {part}": value for part, value in over_messages[metric]._asdict().items()}
    return row | mcnemar(ours.tests, theirs.tests)._asdict()


def reserve_fpr(outcome: Outcome) -> list[float]:
    """The share of the reserve's ham that was taken for spam, seed by seed; none where there is no reserve."""
    ham = [rows[(rows["split"] == "reserve") & (rows["label"] == "ham")] for rows in outcome.decided.values()]
    return [float((rows["probability"] >= rows["threshold"]).mean()) for rows in ham if len(rows)]


def targets(systems: Mapping[str, Outcome]) -> list[dict[str, Any]]:
    """What thresholds chosen on validation for a precision or a false-positive rate keep on test, all seeds together.

    A message that several splits test counts once, in the first of them: they are not independent trials.

    Returns:
        A row a system and policy: ``value`` on test with Wilson's interval; ``met``: its interval has the target;
        ``recall`` there; ``attained``: on how many of ``seeds`` validation itself says that the target is met, by the
        cautious estimate that the threshold is chosen by (`choose_threshold`).
    """
    rows = []
    for name, outcome in systems.items():
        for policy in TARGETS:
            (metric, target) = next(iter(policy.items()))
            tests, attained = [], 0
            for split in outcome.decided.values():
                chosen = choose_threshold(*_tensors(split[split["split"] == "validation"]), policy)
                tests.append(split[split["split"] == "test"].assign(threshold=chosen.value))
                attained += chosen.attained
            test = pd.concat(tests).drop_duplicates("id")
            spam, flagged = test["label"] == "spam", test["probability"] >= test["threshold"]
            counted, base = (spam, flagged) if metric == "precision" else (flagged, ~spam)
            share = wilson(int((counted & base).sum()), int(base.sum()))
            met = share.high >= target if metric == "precision" else share.low <= target
            rows.append(
                {
                    "system": name,
                    "policy": f"{metric} {target:g}",
                    **share._asdict(),
                    "met": "yes" if met else "no",
                    "recall": float(flagged[spam].mean()),
                    "attained": attained,
                    "seeds": len(tests),
                }
            )
    return rows


def calibrations(outcome: Outcome) -> list[dict[str, dict[str, float]]]:
    """Calibration on the test split before and after the temperature, seed by seed; of runs whose is not 1."""
    decisions = [cell.record()["decision"] for cell in outcome.cells.values()]
    return [each["calibration"]["test"] for each in decisions if each["temperature"] != 1]


def _tensors(rows: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Probabilities of spam, and labels (0 ham, 1 spam)."""
    return torch.tensor(rows["probability"].to_numpy()), torch.tensor((rows["label"] == "spam").to_numpy().astype(int))


def speeds(systems: Mapping[str, Outcome]) -> pd.DataFrame:
    """Seconds of training (median and most over seeds), messages a second (median), frozen passes `computed` (most)."""
    rows = []
    for name, outcome in systems.items():
        seconds, rates = zip(*(cell.speed() for cell in outcome.cells.values()), strict=True)
        computed = [cell.record().get("prefix", {}).get("computed") for cell in outcome.cells.values()]
        rows.append(
            {
                "system": name,
                "median": median(seconds),
                "most": max(seconds),
                "computed": None if None in computed else max(computed),
                "messages": median(rates),
            }
        )
    return pd.DataFrame(rows)


def errors(systems: Mapping[str, Outcome], most: int = 20) -> pd.DataFrame:
    """The test messages that most of the trained systems get wrong: where a label may be at fault.

    Returns:
        Columns id, label, text, `wrong` and `asked` (decisions over systems and seeds), and `probability` (mean); the
        most often wrong first, those that at least half of the decisions missed.
    """
    trained = [outcome for outcome in systems.values() if outcome.system.kind not in UNTRAINED]
    if not trained:
        return pd.DataFrame(columns=["id", "label", "text", "wrong", "asked", "probability"])
    rows = pd.concat([test for outcome in trained for test in outcome.tests.values()])
    rows = rows.assign(wrong=(rows["probability"] >= rows["threshold"]) != (rows["label"] == "spam"))
    table = rows.groupby(["id", "label"], as_index=False).agg(
        wrong=("wrong", "sum"), asked=("wrong", "size"), probability=("probability", "mean")
    )
    table = table[table["wrong"] >= table["asked"] / 2]
    table = table.assign(share=table["wrong"] / table["asked"]).sort_values(
        ["share", "asked", "id"], ascending=[False, False, True]
    )
    return table.head(most).merge(_texts(trained[0]), on="id", how="left")


def counts(outcome: Outcome) -> dict[str, dict[str, int]]:
    """Messages of each split and label, of the first seed."""
    seed, cell = next(iter(outcome.cells.items()))
    return {str(name): found for name, found in cell.protocol.splits(seed, cell.source).counts().items()}


def _texts(outcome: Outcome) -> pd.DataFrame:
    seed, cell = next(iter(outcome.cells.items()))
    frames = list(cell.protocol.splits(seed, cell.source).frames().values())
    return pd.concat(frames)[["id", "text"]].drop_duplicates("id")
