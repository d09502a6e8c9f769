"""How alike messages are worded: TF-IDF of character n-grams, hashed. Needs no model, and not scikit-learn."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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


def wording(texts: Sequence[str]) -> csr_array:
    """Hashed n-grams of each text, (N, `BUCKETS`): ``(1 + log count) * idf``, and then rows of length 1.

    Case, digits and white space are folded.
    """
    rows = [np.unique(_hashed(text), return_counts=True) for text in texts]
    columns = np.concatenate([columns for columns, _ in rows])
    frequency = np.bincount(columns, minlength=BUCKETS)
    idf = np.log((1 + len(texts)) / (1 + frequency[columns])) + 1
    values = (1 + np.log(np.concatenate([counts for _, counts in rows]))) * idf
    starts = np.cumsum([0, *(len(columns) for columns, _ in rows)])
    lengths = np.sqrt(np.add.reduceat(values**2, starts[:-1]))
    return csr_array((values / np.repeat(lengths, np.diff(starts)), columns, starts), shape=(len(texts), BUCKETS))


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
