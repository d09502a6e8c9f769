"""What it is worth to the systems on the results pages that training holds messages like those of the test."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pandas as pd

from spamlit.analysis.neighbours import neighbours
from spamlit.analysis.results import Cell
from spamlit.analysis.results_tables import Outcome
from spamlit.analysis.scores import scores

Seen = Mapping[int, set[int]]
"""Ids of test messages by split seed."""


def by_seen(systems: Mapping[str, Outcome], seen: Seen, metric: str = "f1") -> pd.DataFrame:
    """What it is worth that training holds messages like those of the test: means over seeds.

    Args:
        systems: of one protocol.
        seen: test messages of which training holds a repeat, or a near-repeat.
        metric: of `METRICS`, by one threshold. That of the seen messages alone is left out: spam is most of them.

    Returns:
        A row a system: ``metric`` of the whole test split, ``unseen metric`` of the messages that are not seen, ``seen
        recall`` and ``unseen recall``.
    """
    rows, of_new = [], {"metric": metric, "recall": "recall"}
    for name, outcome in systems.items():
        known, new = (
            [scores(part) for part in parts if len(part)]
            for parts in zip(*(_divided(test, seen[seed]) for seed, test in outcome.tests.items()), strict=True)
        )
        row: dict[str, Any] = {"system": name, "metric": fmean(outcome.values(metric))}
        row |= {"seen recall": fmean(each["recall"] for each in known)} if known else {}
        row |= {f"unseen {key}": fmean(each[of] for each in new) for key, of in of_new.items()} if new else {}
        rows.append(row)
    return pd.DataFrame(rows)


def _divided(test: pd.DataFrame, seen: set[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The messages that are seen, and the others."""
    known = test["id"].isin(seen)
    return test[known], test[~known]


def seen_shares(systems: Mapping[str, Outcome], seen: Seen) -> dict[str, float]:
    """Share of a test split, of its spam and of its ham, that is seen; means over seeds."""
    outcome = next(iter(systems.values()))
    shares: dict[str, list[float]] = {"messages": [], "spam": [], "ham": []}
    for seed, test in outcome.tests.items():
        known = test["id"].isin(seen[seed])
        shares["messages"].append(float(known.mean()))
        for label in ("spam", "ham"):
            shares[label].append(float(known[test["label"] == label].mean()))
    return {name: fmean(values) for name, values in shares.items()}


def near_in_training(systems: Mapping[str, Outcome]) -> Seen:
    """Ids of the test messages of which training holds a near-repeat (`neighbours.NEAR_REPEAT`), or a repeat."""
    found = {}
    for seed, cell in _by_seed(systems).items():
        splits = cell.protocol.splits(cell.seed, cell.source)
        nearest = neighbours(splits.test["text"].tolist(), splits.train, n=1)
        alike = [bool(near[0].repeat) for near in nearest]
        found[seed] = set(splits.test.loc[alike, "id"])
    return found


def seen_in_training(raw: Mapping[str, Outcome]) -> Seen:
    """Ids of the test messages whose group is in training too."""
    found = {}
    for seed, cell in _by_seed(raw).items():
        splits = cell.protocol.splits(cell.seed, cell.source)
        repeated = splits.test["group"].isin(set(splits.train["group"]))
        found[seed] = set(splits.test.loc[repeated, "id"])
    return found


def _by_seed(systems: Mapping[str, Outcome]) -> dict[int, Cell]:
    """A cell of each split, whichever system's."""
    return {seed: cell for outcome in systems.values() for seed, cell in outcome.cells.items()}
