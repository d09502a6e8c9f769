"""Messages that a language model wrote after the training split's example: what it is shown, and what is kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from spamlit.data.sms import LABELS, group_key

GENERATED = "generated"
"""Origin of such messages."""
SHOWN = 6
"""Messages in a prompt."""
SHOWN_LENGTH = 170
"""Characters of a message that may be shown."""
LEAST_WORDS = 4
MOST_COPIED = 0.5
"""Share of a message's word triples that may also stand in one other message, known or kept before."""
SURE = 0.9
"""Probability, by the words, of the label that was asked for."""


def check_generated(counts: object) -> None:
    """Refuses what `data.generated` cannot be.

    Raises:
        ValueError: with the value and what to give.
    """
    if not isinstance(counts, Mapping) or set(counts) - set(LABELS):
        raise ValueError(f"data.generated={counts}: say how many of which label, as in data.generated.spam=500")
    for label, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"data.generated.{label}={count}: expected how many messages, 0 or more")


def make_prompt(texts: Sequence[str], rng: np.random.Generator) -> str:
    """`SHOWN` of the short ones among ``texts``, drawn, one a line: what follows is one more of the kind.

    Raises:
        ValueError: There are none.
    """
    short = [one_line(text) for text in texts if len(text) <= SHOWN_LENGTH]
    if not short:
        raise ValueError(f"data.generated: no training message of at most {SHOWN_LENGTH} characters can be shown")
    return "".join(f"{text}\n" for text in rng.choice(short, min(SHOWN, len(short)), replace=False))


def one_line(text: str) -> str:
    """The text with every run of white space as one space, none at the ends."""
    return " ".join(text.split())


class NewAndFitting:
    """Decides which candidates join: messages, neither copied nor written before, whose words say the label.

    Args:
        known: Every message of the collection, of all splits: a candidate must be none of them. (Those of validation
            and test can only keep a candidate out.)
        words: Fitted on the training split.
    """

    def __init__(self, known: Iterable[str], words: NaiveBayes) -> None:
        self._words = words
        self._found: dict[tuple[str, ...], set[int]] = defaultdict(set)  # triple -> messages
        self._keys: set[str] = set()
        for text in known:
            self._remember(group_key(text))

    def take(self, text: str, label: str) -> bool:
        """Whether the candidate is kept; it then counts as known."""
        key = group_key(text)
        words = key.split()
        if len(words) < LEAST_WORDS or "\ufffd" in text or key in self._keys:
            return False
        triples = _triples(words)
        shared = Counter(message for triple in triples for message in self._found.get(triple, ()))
        if max(shared.values(), default=0) > MOST_COPIED * len(triples):
            return False
        spam = self._words.spam_probability(text)
        if (spam if label == "spam" else 1 - spam) < SURE:
            return False
        self._remember(key)
        return True

    def _remember(self, key: str) -> None:
        if key not in self._keys:
            for triple in _triples(key.split()):
                self._found[triple].add(len(self._keys))
            self._keys.add(key)


class NaiveBayes:
    """Spam or ham by the words and pairs of words that a message has (Bernoulli for those present, Laplace).

    Both labels count as equally likely beforehand, so that what has no known word is undecided.

    >>> words = NaiveBayes(["win a prize", "see you tonight"], ["spam", "ham"])
    >>> words.spam_probability("a prize") > 0.5 > words.spam_probability("tonight")
    True
    >>> words.spam_probability("xyzzy")
    0.5
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        self._rows = {label: max(1, labels.count(label)) for label in LABELS}
        self._counts: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
        for text, label in zip(texts, labels, strict=True):
            self._counts[label].update(_terms(text))

    def spam_probability(self, text: str) -> float:
        """Between 0 and 1."""
        ham, spam = (self._counts[label] for label in LABELS)
        odds = sum(
            np.log((spam[term] + 1) / (self._rows["spam"] + 2)) - np.log((ham[term] + 1) / (self._rows["ham"] + 2))
            for term in _terms(text)
            if term in spam or term in ham
        )
        return float(1 / (1 + np.exp(-odds)))


def _terms(text: str) -> set[str]:
    words = group_key(text).split()
    return {*words, *map(" ".join, pairwise(words))}


def _triples(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(words, words[1:], words[2:], strict=False))
