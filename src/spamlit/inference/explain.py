"""Which words decided: what each word of a message adds to its spam log-odds.

A message is read as ever longer excerpts: one word, then, word by word to the left or to the right, the whole. What the
log-odds change by when a word comes is its share. Its score is the mean share over all ways to grow, where any word may
be the first and the excerpts of each length are equally likely. On every way the shares add up to the log-odds of the
message less those of no words, so the scores do too, for any backbone, pooling and temperature. It is a Shapley value
over neighbouring words only (as C-Shapley, Chen et al. 2019): the model is never asked about anything but stretches of
the message itself, in their order.

A causal model that reads real tokens only answers for all excerpts that begin at a word in one pass, so the mean is
exact; for others the ways are sampled. Integrated gradients, the other candidate, do not add up here (docs/log.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import regex  # type: ignore[import-untyped]  # `re` knows no ideographs
import torch
from numpy.typing import NDArray

from spamlit.data.normalise import normalise
from spamlit.inference.predictor import Predictor

TOLERANCE = 0.01
"""What the scores' sum may differ by from what the Predictor says: rounding in the model, in log-odds."""
SAMPLED_TOKENS = 1_000
"""Where ways are sampled: as many as let the model read about this many tokens, at least `LEAST_WAYS`."""
LEAST_WAYS = 2
AT_ONCE = 2_048
"""Tokens of a batch, padding counted."""
WORD = regex.compile(r"\p{Ideographic}|(?:(?!\p{Ideographic})\S)+")
"""What stands between white space; in scripts that write without spaces, each ideograph."""


class Word(NamedTuple):
    """A word, ``text[start:end]``, and what it adds to the spam log-odds."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Explanation:
    """What the words of a message add to its spam log-odds.

    Attributes:
        text: The message as the classifier read it, normalised where the bundle asks for that.
        words: Those that the classifier read (not what it cut off), in order.
        log_odds: Of the message, as the Predictor has them.
        baseline: Log-odds of no words, the same.
    """

    text: str
    words: tuple[Word, ...]
    log_odds: float
    baseline: float

    @property
    def gap(self) -> float:
        """How far the scores' sum is from the log-odds less the baseline."""
        return sum(word.score for word in self.words) - (self.log_odds - self.baseline)


class _Piece(NamedTuple):
    """A word's place and its token ids."""

    start: int
    end: int
    ids: tuple[int, ...]


def explain(predictor: Predictor, text: str, *, seed: int = 0) -> Explanation:
    """What each word of a message adds to its spam log-odds (after temperature, as the probability is).

    Args:
        predictor: Whose decision it is.
        text: The message; without words, nothing is explained.
        seed: Of the ways, where they are sampled.

    Raises:
        ArithmeticError: The scores do not add up to the Predictor's own log-odds within `TOLERANCE`.
    """
    text = normalise(text, predictor.normalise)
    pieces = _pieces(predictor, text)
    ids = [i for piece in pieces for i in piece.ids]
    whole, nothing = predictor.log_odds([ids or [predictor.tokenizer.pad_id], [predictor.tokenizer.pad_id]])
    if not pieces:
        scores = np.zeros(0)
    elif predictor.classifier.reads_on:
        scores = mean_shares(_excerpt_values(predictor, pieces, nothing))
    else:
        scores = _sampled_shares(predictor, pieces, np.random.default_rng(seed))
    words = tuple(Word(p.start, p.end, float(s)) for p, s in zip(pieces, scores, strict=True))
    explanation = Explanation(text, words, whole, nothing)
    if not abs(explanation.gap) <= TOLERANCE:
        raise ArithmeticError(f"the scores' sum is off by {explanation.gap}, more than {TOLERANCE}: {text[:60]!r}")
    return explanation


def cost(predictor: Predictor, text: str) -> int:
    """About how many tokens the model reads to explain a message."""
    pieces = _pieces(predictor, normalise(text, predictor.normalise))
    n_tokens = sum(len(piece.ids) for piece in pieces)
    if predictor.classifier.reads_on:
        return n_tokens * (len(pieces) + 1) // 2
    return _ways(predictor, pieces) * _way_cost(predictor, pieces)


def mean_shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each word's mean share over all ways to grow.

    An excerpt of s of W words is any of the W - s + 1 with the same probability, if from each the way goes to the left
    with the probability of (words on the left) / (words on both sides); so it does.

    Args:
        values: (W + 1, W + 1), at [i, j] those of words i to j - 1; at [i, i] those of none.

    Returns:
        (W,), which add up to ``values[0, W] - values[0, 0]``.

    >>> mean_shares(np.array([[0.0, 1, 5], [0, 0, 2], [0, 0, 0]]))  # the first word: 1 alone, 5 - 2 after the second
    array([2., 3.])
    """
    n = len(values) - 1
    scores = np.diagonal(values, 1) - np.diagonal(values)[:-1]  # as the first word
    scores = scores / n
    for size in range(1, n):
        start = np.arange(n - size + 1)
        before, end = values[start, start + size], start + size
        left, right = start[1:], start[:-1]  # those with a word on the left; on the right
        weight = 1 / ((n - size + 1) * (n - size))
        scores[left - 1] += weight * left * (values[left - 1, left + size] - before[1:])
        scores[end[:-1]] += weight * (n - end[:-1]) * (values[right, right + size + 1] - before[:-1])
    return scores


@torch.inference_mode()
def _excerpt_values(predictor: Predictor, pieces: Sequence[_Piece], nothing: float) -> NDArray[np.float64]:
    """Log-odds (W + 1, W + 1) of every excerpt, from one row for each word that it may begin with."""
    n = len(pieces)
    values = np.full((n + 1, n + 1), nothing)
    rows = [[i for piece in pieces[start:] for i in piece.ids] for start in range(n)]
    ends = np.cumsum([len(piece.ids) for piece in pieces])
    at_once = max(1, AT_ONCE // len(rows[0]))
    for first in range(0, n, at_once):
        some = rows[first : first + at_once]
        lengths = torch.tensor([len(row) for row in some])
        tokens = torch.full((len(some), int(lengths.max())), predictor.tokenizer.pad_id)
        for padded, row in zip(tokens, some, strict=True):
            padded[: len(row)] = torch.tensor(row)
        logits = predictor.classifier.beginnings(tokens, lengths).double() / predictor.temperature  # (B, T, 2)
        for start, log_odds in enumerate((logits[..., 1] - logits[..., 0]).numpy(), first):
            before = ends[start] - len(pieces[start].ids)
            values[start, start + 1 :] = log_odds[ends[start:] - before - 1]
    return values


def _sampled_shares(predictor: Predictor, pieces: Sequence[_Piece], rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean shares (W,) over a few ways to grow."""
    n = len(pieces)
    ways = [_way(n, rng) for _ in range(_ways(predictor, pieces))]
    excerpts = [(min(way[:k]), max(way[:k]) + 1) if k else (0, 0) for way in ways for k in range(n + 1)]
    pad = [predictor.tokenizer.pad_id]
    found = predictor.log_odds([[i for piece in pieces[a:b] for i in piece.ids] or pad for a, b in excerpts])
    shares = np.diff(np.array(found).reshape(len(ways), n + 1), axis=1)  # (ways, W)
    scores = np.zeros(n)
    np.add.at(scores, np.array(ways), shares / len(ways))
    return scores


def _way(n: int, rng: np.random.Generator) -> list[int]:
    """The words 0 to n - 1 in the order in which an excerpt grows."""
    left = right = int(rng.integers(n))
    way = [left]
    while len(way) < n:
        if rng.random() < left / (n - len(way)):
            left -= 1
            way.append(left)
        else:
            right += 1
            way.append(right)
    return way


def _ways(predictor: Predictor, pieces: Sequence[_Piece]) -> int:
    return max(LEAST_WAYS, SAMPLED_TOKENS // _way_cost(predictor, pieces))


def _way_cost(predictor: Predictor, pieces: Sequence[_Piece]) -> int:
    """Tokens of rows of 0 to W words: half the message on average, or all that padding fills."""
    half = sum(len(piece.ids) for piece in pieces) // 2
    return max(1, (len(pieces) + 1) * (predictor.pad_to or half))


def _pieces(predictor: Predictor, text: str) -> list[_Piece]:
    """The words that the classifier reads. A token belongs to the word of its first character that is no space.

    A token of spaces alone belongs to the next word, or to the last.
    """
    places = [match.span() for match in WORD.finditer(text)]
    if not places:
        return []
    ids, spans = predictor.tokenizer.encode_with_offsets(text)
    ends = [end for _, end in places]
    tokens: dict[int, list[int]] = {}
    for i, (start, end) in list(zip(ids, spans, strict=True))[: predictor.max_length]:
        first = next((at for at in range(start, end) if not text[at].isspace()), end)
        tokens.setdefault(min(bisect_right(ends, first), len(places) - 1), []).append(i)
    return [_Piece(places[n][0], places[n][1], tuple(tokens[n])) for n in sorted(tokens)]
