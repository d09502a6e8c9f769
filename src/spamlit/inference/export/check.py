"""Whether an export says what the Predictor says: the same ids, the same probabilities, at several shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spamlit.data.additions import extra_path
from spamlit.data.normalise import normalise
from spamlit.data.sms import read_labelled
from spamlit.data.splits import read_split
from spamlit.inference.predictor import Predictor

TOLERANCE = 1e-4
"""Of probabilities."""
REAL = 100
"""Real messages of a check."""
BATCH = 32
HARD = (
    "WINNER!! Claim your £1000 prize: call 09061701461 now, T&Cs apply <|endoftext|> 😀👩‍👧",
    "<|endoftext|>",
    "x",
    "Ça va?\u2003\u200bПривет 中文 ½ ٣ Ⅷ\t\r\n  2nite",
    "\x00\x04 control \x13",
)
"""What tokenizers differ in: typed special tokens, digits, white space, other scripts, bytes without a token."""

Ids = list[int]
Encode = Callable[[Sequence[str]], list[Ids]]
"""The export's ids of texts, cut to the length that it reads."""
Array = NDArray[np.float64]
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], Array]
"""The export's spam probabilities (B,) of ids (B, T), right-padded, with lengths (B,)."""


class ExportError(RuntimeError):
    """An export that is not what the Predictor is; the message has the figure."""


class Checked(NamedTuple):
    """How near an export is: the largest difference of a probability, and labels that changed, of so many answers."""

    difference: float
    changed: int
    answers: int
    messages: int


def real_texts(bundle: Path) -> list[str]:
    """Messages to check with: the run's test messages, the longest and others evenly, or the packaged supplement's."""
    split = bundle.parent / "test.csv"
    frame = read_split(split) if split.is_file() else read_labelled(extra_path("modern"))
    texts = sorted(set(frame["text"]), key=lambda text: (len(text), text))
    return texts[:: -max(1, len(texts) // REAL)]


def check(predictor: Predictor, texts: Sequence[str], encode: Encode, run: Run, *, exact: bool = True) -> Checked:
    """Compares ids, and probabilities of messages alone, together, as long as can be, and padded that far.

    Args:
        predictor: What is right.
        texts: Real messages; a long one and `HARD` ones join them. Those without words are left out: the Predictor
            does not ask the model about them.
        encode: Of the export.
        run: Of the export.
        exact: False leaves a difference of probabilities to be reported; that of ids is never allowed.

    Raises:
        ExportError: other ids, or a probability further off than `TOLERANCE`.
    """
    long = " ".join([*HARD, *texts] * (1 + predictor.max_length // max(1, len(texts))))
    folded = [normalise(text, predictor.normalise) for text in [*texts, *HARD, long[: 8 * predictor.max_length]]]
    folded = [text for text in dict.fromkeys(folded) if text.strip()]
    rows = [row[: predictor.max_length] for row in predictor.tokenizer.encode_batch(folded)]
    for text, ours, theirs in zip(folded, rows, encode(folded), strict=True):
        if ours != theirs:
            raise ExportError(f"the exported tokenizer gives other ids for {text[:60]!r}: {theirs[:8]}, not {ours[:8]}")
    expected = dict(zip(map(tuple, rows), predictor.probabilities(rows), strict=True))
    found: list[tuple[float, float]] = []
    for batch, width in _shapes(rows, predictor):
        tokens, lengths = padded(batch, width, predictor.tokenizer.pad_id)
        found += zip(run(tokens, lengths).tolist(), (expected[tuple(row)] for row in batch), strict=True)
    theirs, ours = np.array(found).T  # (answers, 2) -> 2 of (answers,)
    difference = float(np.abs(theirs - ours).max())  # NaN is no agreement: the comparison below fails on it
    changed = int(((theirs >= predictor.threshold) != (ours >= predictor.threshold)).sum())
    if exact and not difference <= TOLERANCE:
        raise ExportError(
            f"the export's spam probability differs by {difference:.2g} from the Predictor's, more than {TOLERANCE:g}"
        )
    return Checked(difference, changed, len(found), len(folded))


def padded(rows: Sequence[Ids], width: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (B, width), right-padded, and lengths (B,)."""
    tokens = np.full((len(rows), width), pad_id, dtype=np.int64)
    for filled, row in zip(tokens, rows, strict=True):
        filled[: len(row)] = row
    return tokens, np.array([len(row) for row in rows], dtype=np.int64)


def _shapes(rows: Sequence[Ids], predictor: Predictor) -> Iterator[tuple[Sequence[Ids], int]]:
    """Batches and the widths that they are padded to; where padding is read, that is one for all."""
    by_length = sorted(rows, key=len)
    longest = len(by_length[-1])
    for row in (by_length[0], by_length[len(rows) // 2], by_length[-1]):
        yield [row], predictor.pad_to or len(row)
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        yield some, predictor.pad_to or max(map(len, some))
    yield by_length[:3], predictor.pad_to or longest
