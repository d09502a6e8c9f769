"""The misclassified messages: which words decided, and which training messages they are worded like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from spamlit.analysis.neighbours import neighbours
from spamlit.inference.explain import Explanation, cost, explain
from spamlit.inference.predictor import Predictor

DARKEST = 0.45
"""Opacity behind the word that weighs most: text stays readable on it, on white and on black."""
NAMED = 5
"""Words of each side that are named in the line below a message."""


class Piece(NamedTuple):
    """A stretch of a message: a word with its score, or what lies between words."""

    text: str
    score: float | None = None
    shade: float = 0.0


def mistakes(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """The rows (``label``, ``probability``) on the wrong side of the threshold, the surest first."""
    flagged = rows["probability"] >= threshold
    wrong = rows[flagged != (rows["label"] == "spam")]
    return wrong.loc[(wrong["probability"] - threshold).abs().sort_values(ascending=False, kind="stable").index]


class Explainer:
    """Explains messages in turn, as a number of tokens allows; one that takes more than what is left is passed over.

    Args:
        load: Gives the predictor; called when there is something to explain.
        budget: About how many tokens the model may read altogether; None: as many as it takes.
    """

    def __init__(self, load: Callable[[], Predictor], budget: int | None) -> None:
        self._load, self.left = load, budget
        self._predictor: Predictor | None = None

    def __call__(self, text: str) -> Explanation | None:
        """The explanation of a message, or None where the budget has not enough left."""
        if self.left is not None and self.left <= 0:
            return None
        self._predictor = self._predictor or self._load()
        if self.left is not None:
            if (tokens := cost(self._predictor, text)) > self.left:
                return None
            self.left -= tokens
        return explain(self._predictor, text)


def described(wrong: pd.DataFrame, train: pd.DataFrame, explainer: Explainer) -> list[dict[str, Any]]:
    """What the page shows of each mistake.

    Args:
        wrong: ``id``, ``label``, ``text``, ``probability``.
        train: The training messages: ``id``, ``label``, ``text``; may be empty.
        explainer: Of the words.
    """
    near = neighbours(wrong["text"].tolist(), train)
    found: list[dict[str, Any]] = []
    for row, alike in zip(wrong.to_dict("records"), near, strict=True):
        explanation = explainer(str(row["text"]))
        parts = pieces(explanation) if explanation else [Piece(str(row["text"]))]
        words = [part for part in parts if part.score is not None]
        found.append(
            {
                **{str(column): value for column, value in row.items()},
                "neighbours": alike,
                "explanation": explanation,
                "pieces": parts,
                "spam_words": sorted((w for w in words if (w.score or 0) > 0), key=lambda w: -(w.score or 0))[:NAMED],
                "ham_words": sorted((w for w in words if (w.score or 0) < 0), key=lambda w: w.score or 0)[:NAMED],
            }
        )
    return found


def pieces(explanation: Explanation) -> list[Piece]:
    """The whole message, cut at its words; shades are shares of the weightiest word's."""
    most = max((abs(word.score) for word in explanation.words), default=0.0) or 1.0
    found, done = [], 0
    for word in explanation.words:
        found.append(Piece(explanation.text[done : word.start]))
        shade = round(DARKEST * abs(word.score) / most, 3)
        found.append(Piece(explanation.text[word.start : word.end], word.score, shade))
        done = word.end
    return [piece for piece in (*found, Piece(explanation.text[done:])) if piece.text]
