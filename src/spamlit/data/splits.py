"""Training, validation and test messages: grouped, balanced, reproducible by seed."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from spamlit.assets import atomic_write
from spamlit.data.additions import OWN, disguised_copies, new_messages
from spamlit.data.generated import GENERATED
from spamlit.data.obfuscate import AUGMENTATIONS
from spamlit.data.sms import LABELS, with_groups

Split = Literal["grouped", "random", "challenge"]
Balance = Literal["undersample", "oversample", "class_weights", "none"]
SplitName = Literal["train", "validation", "test", "reserve"]

Writer = Callable[[pd.DataFrame, Sequence[str]], pd.DataFrame]
"""Writes messages (``label``, ``text``) like those of a training split (first); the texts are all that are known."""
FITTED: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Four message frames with the columns ``id``, ``label``, ``text``, ``group``.

    Attributes:
        train: Messages to learn from, with a column ``origin`` more: ``source``, ``generated``, ``disguised``, or an
            extra source's name; rows repeat where ``balance="oversample"`` repeats them.
        validation: Messages to choose by.
        test: Messages to report on.
        reserve: Messages in no split whose group is in no split, one per group: what undersampling set aside.
        dropped: How many messages were left out because another of their group stands in.
    """

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    reserve: pd.DataFrame
    dropped: int = 0

    def frames(self) -> dict[SplitName, pd.DataFrame]:
        """The four frames by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test, "reserve": self.reserve}

    def counts(self) -> dict[SplitName, dict[str, int]]:
        """How many messages of each label each split has."""
        return {
            name: {label: int((frame["label"] == label).sum()) for label in LABELS}
            for name, frame in self.frames().items()
        }

    def origins(self) -> dict[str, int]:
        """How many training rows came from where."""
        return {str(origin): int(count) for origin, count in self.train["origin"].value_counts(sort=False).items()}


def make_splits(
    frame: pd.DataFrame,
    *,
    split: Split = "grouped",
    balance: Balance = "undersample",
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 123,
    extra: pd.DataFrame | None = None,
    write: Writer | None = None,
    copies: int = 0,
    transforms: Sequence[str] = tuple(AUGMENTATIONS),
) -> Splits:
    """Divide messages into training, validation, test and reserve.

    Args:
        frame: Messages as `sms.parse` or `sms.read_csv_messages` give them (`sms.parse_quoted` for ``random``).
        split: ``grouped``: repeats dropped (the first of each group stays), then each class divided by ``fractions``,
            so that no group straddles splits. ``random``: the lesson's published procedure, row for row: shuffled, then
            cut; repeats straddle. ``challenge``: every message in the order that the `datasets` library's
            ``shuffle(seed)`` gives (``numpy.random.default_rng(seed).permutation``), 4,000 for training and 1,000 for
            validation of the collection's 5,574, in proportion for a collection of another size; ``fractions`` are not
            used.
        balance: ``undersample``: the larger class is cut to the size of the smaller before dividing. ``oversample``:
            after dividing, rows of the smaller class are repeated in the training split. ``class_weights`` and ``none``
            leave the messages alone (the data module makes the weights).
        fractions: Training, validation and test; each above 0, together 1.
        seed: Decides everything that is drawn.
        extra: More messages to learn from (`additions.read_extra`). They join the training split, but for those whose
            group is anywhere in ``frame``; they are not undersampled, and oversampling counts them.
        write: Adds messages of its own to the training split, which is all that it is shown to imitate. They join as
            extra ones do.
        copies: How many disguised copies of each message join the training split; of extra messages none.
        transforms: What disguises them, of `obfuscate.AUGMENTATIONS`.

    Raises:
        ValueError: An unknown choice, fractions that are not a division, or a split without messages of each class.

    Note:
        A group with both labels is a contradiction in the data. The first message decides, as with any repeat, and a
        warning names the ids; the collection has none.
    """
    check_choice("data.split", split, get_args(Split))
    check_choice("data.balance", balance, get_args(Balance))
    _check_fractions(fractions)
    frame = with_groups(frame)
    missing = [label for label in LABELS if not (frame["label"] == label).any()]
    if missing:
        raise ValueError(f"no message is labelled {missing[0]!r}: a classifier needs both ham and spam")
    pool = _first_of_each_group(frame) if split == "grouped" else frame
    kept = _undersample(pool, seed) if balance == "undersample" else pool
    divide: Mapping[str, Callable[[], list[pd.DataFrame]]] = {
        "grouped": lambda: _divide_stratified(kept, fractions, seed),
        "random": lambda: _divide_as_lesson(kept, fractions, seed),
        "challenge": lambda: _divide_as_challenge(kept, seed),
    }
    train, validation, test = divide[split]()
    used = set(pd.concat([train, validation, test])["group"])
    reserve = frame[~frame["group"].isin(used)].drop_duplicates("group").reset_index(drop=True)
    train = train.assign(origin=OWN)
    disguised = [disguised_copies(train, copies, transforms)] if copies else []
    added = [] if extra is None else [new_messages(extra, frame)]
    if write is not None:
        added.append(_written(write, train, pd.concat([frame, *added], ignore_index=True)))
    train = pd.concat([train, *added, *disguised], ignore_index=True)
    if balance == "oversample":
        train = _oversample(train, seed)
    splits = Splits(train, validation, test, reserve, dropped=len(frame) - len(pool))
    _check_classes(splits)
    return splits


def _written(write: Writer, train: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """What ``write`` makes of the training split and nobody knows; ids below all others."""
    written = write(train, known["text"].tolist()).reset_index(drop=True)
    lowest = min(0, int(known["id"].min()))
    return new_messages(written.assign(id=lowest - 1 - written.index, origin=GENERATED), known)


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the choices, with a `ValueError` that names the key."""
    if value not in choices:
        raise ValueError(f"{key}={value} is not known; choose from {', '.join(choices)}")


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or not all(0 < part < 1 for part in fractions) or not math.isclose(sum(fractions), 1):
        raise ValueError(
            f"data.fractions={list(fractions)}: expected three numbers above 0 (training, validation, test) "
            f"that add up to 1, such as [0.7, 0.1, 0.2]"
        )


def _check_classes(splits: Splits) -> None:
    counts = splits.counts()
    for name in FITTED:
        for label, count in counts[name].items():
            if count == 0:
                raise ValueError(
                    f"the {name} split has no {label} among its {sum(counts[name].values())} messages; "
                    f"give more {label} messages, or change data.fractions or data.split"
                )


def _first_of_each_group(frame: pd.DataFrame) -> pd.DataFrame:
    labels = frame.groupby("group")["label"].transform("nunique")
    if (mixed := frame.loc[labels > 1, "id"].tolist()) != []:
        warnings.warn(
            f"{len(mixed)} messages say the same under both labels (ids {mixed[:10]}); the first of each group stays",
            stacklevel=3,
        )
    return frame.drop_duplicates("group").reset_index(drop=True)


def _undersample(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """As many rows of each class as the smaller has; ham before spam, the cut class in drawn order (as the lesson)."""
    ham, spam = (frame[frame["label"] == label] for label in LABELS)
    if len(ham) >= len(spam):
        ham = ham.sample(len(spam), random_state=seed)
    else:
        spam = spam.sample(len(ham), random_state=seed)
    return pd.concat([ham, spam])


def _oversample(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows of the smaller class again until it is as large: whole copies, then a drawn part of one."""
    small, large = sorted((train[train["label"] == label] for label in LABELS), key=len)
    copies, rest = divmod(len(large) - len(small), max(len(small), 1))
    if small.empty:
        return train  # `_check_classes` names it
    return pd.concat([train, *[small] * copies, small.sample(rest, random_state=seed)], ignore_index=True)


def _divide_stratified(frame: pd.DataFrame, fractions: Sequence[float], seed: int) -> list[pd.DataFrame]:
    rng = np.random.default_rng(seed)
    parts: list[list[pd.DataFrame]] = [[], [], []]
    for label in LABELS:
        rows = frame[frame["label"] == label].sort_values("id")
        rows = rows.iloc[rng.permutation(len(rows))]
        ends = np.cumsum(_apportion(len(rows), fractions))
        for part, start, end in zip(parts, [0, *ends], ends, strict=False):
            part.append(rows.iloc[start:end])
    return [pd.concat(part).sort_values("id").reset_index(drop=True) for part in parts]


def _apportion(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole numbers that add up to ``total``, closest to the fractions (largest remainders).

    >>> _apportion(607, (0.7, 0.1, 0.2))
    [425, 61, 121]
    """
    exact = [round(total * fraction, 9) for fraction in fractions]
    sizes = [int(size) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - exact[i], i))
    for i in by_remainder[: total - sum(sizes)]:
        sizes[i] += 1
    return sizes


def _divide_as_lesson(frame: pd.DataFrame, fractions: Sequence[float], seed: int) -> list[pd.DataFrame]:
    """LLMs-from-scratch, chapter 6, ``random_split``: sample(frac=1), then cut at truncated fractions."""
    rows = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    train_end = int(len(rows) * fractions[0])
    validation_end = train_end + int(len(rows) * fractions[1])
    return _cut(rows, train_end, validation_end)


def _divide_as_challenge(frame: pd.DataFrame, seed: int) -> list[pd.DataFrame]:
    rows = frame.iloc[np.random.default_rng(seed).permutation(len(frame))]
    return _cut(rows, round(len(rows) * 4000 / 5574), round(len(rows) * 5000 / 5574))


def _cut(rows: pd.DataFrame, *ends: int) -> list[pd.DataFrame]:
    return [rows.iloc[a:b].reset_index(drop=True) for a, b in zip([0, *ends], [*ends, len(rows)], strict=True)]


def write_splits(splits: Splits, folder: Path | str) -> list[Path]:
    """Write ``train.csv``, ``validation.csv`` and ``test.csv`` (id, label, text, group), each at once or not at all.

    ``train.csv`` says each row's ``origin`` as well.

    Texts are quoted, so that line breaks and quotes survive; `read_split` gives the same frame back. The id is that of
    the source; -1, -2, … in extra sources and for generated messages; 10000 and more, by the number of messages, for
    disguised copies (`additions.disguised_copies`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in FITTED:
        paths.append(folder / f"{name}.csv")
        with atomic_write(paths[-1]) as temporary:
            splits.frames()[name].to_csv(
                temporary,
                columns=["id", "label", "text", "group", *(["origin"] if name == "train" else [])],
                index=False,
                quoting=csv.QUOTE_NONNUMERIC,
                lineterminator="\n",
            )
    return paths


def read_split(path: Path | str) -> pd.DataFrame:
    """Read one file of `write_splits`; a message ``NA`` stays the text NA.

    Raises:
        ValueError: It is damaged.
    """
    try:
        return pd.read_csv(
            path, keep_default_na=False, dtype={"id": "int64", "group": "int64", "label": "str", "text": "str"}
        )
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{path} is not what a run wrote: {error}") from error
