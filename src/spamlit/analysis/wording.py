"""How alike messages are worded: TF-IDF of character n-grams, hashed. Needs neither model nor further packages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZES = (2, 3, 4, 5)
"""Characters of an n-gram."""
BUCKETS_LOG2 = 18
BUCKETS = 2**BUCKETS_LOG2
"""Columns. Where two n-grams share one, a little is lost."""
_MIX = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)
_DIGIT = re.compile(r"\d")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Wording:
    """N sparse rows of `BUCKETS` columns, each of length 1.

    Attributes:
        columns: (M,) those of all rows, one row after another.
        values: (M,) theirs.
        starts: (N,) where each row begins; none is empty.
    """

    columns: NDArray[np.int64]
    values: Floats
    starts: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) entries of each row."""
        return np.diff(self.starts, append=len(self.columns))

    def times(self, vector: Floats) -> Floats:
        """The product with a vector (`BUCKETS`,): (N,)."""
        return np.add.reduceat(self.values * vector[self.columns], self.starts)

    def transposed_times(self, vector: Floats) -> Floats:
        """The product of the transpose with a vector (N,): (`BUCKETS`,)."""
        return np.bincount(self.columns, self.values * np.repeat(vector, self.sizes), BUCKETS)

    def row(self, n: int) -> Floats:
        """Row `n`, dense: (`BUCKETS`,)."""
        where = slice(int(self.starts[n]), int(self.starts[n] + self.sizes[n]))
        return np.bincount(self.columns[where], self.values[where], BUCKETS)


def wording(texts: Sequence[str]) -> Wording:
    """Hashed n-grams of each text, weighted by ``(1 + log count) * idf``; case, digits and white space are folded."""
    rows = [np.unique(_hashed(text), return_counts=True) for text in texts]
    sizes = np.array([len(columns) for columns, _ in rows])
    columns = np.concatenate([columns for columns, _ in rows])
    frequency = np.bincount(columns, minlength=BUCKETS)
    idf = np.log((1 + len(texts)) / (1 + frequency[columns])) + 1
    values = (1 + np.log(np.concatenate([counts for _, counts in rows]))) * idf
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    lengths = np.sqrt(np.add.reduceat(values**2, starts))
    return Wording(columns, values / np.repeat(lengths, sizes), starts)


def _hashed(text: str) -> NDArray[np.int64]:
    """The column of each n-gram of a text, of which there is at least one."""
    folded = f" {' '.join(_DIGIT.sub('0', text.lower()).split())} "
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    found = []
    for size in SIZES:
        if len(codes) >= size:
            grams = np.lib.stride_tricks.sliding_window_view(codes, size)  # (n, size)
            mixed = (grams * _MIX[:size]).sum(axis=1) * _MIX[size - 1]
            found.append((mixed >> np.uint64(64 - BUCKETS_LOG2)).astype(np.int64))
    return np.concatenate(found)
