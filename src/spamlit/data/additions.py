"""What joins the training split beside the messages of its own source: other sources, and disguised copies."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from spamlit.data import obfuscate, sms
from spamlit.data.corrections import SUFFIXES, read_corrections

SUPPLEMENTS = {"modern": "modern.csv"}
"""Packaged sources, by their names in `data.extra`: files of spamlit/resources."""
OWN, DISGUISED = "source", "disguised"
"""Origins of training messages, beside the names of the extra sources."""


def check_additions(copies: object, extra: object) -> None:
    """Refuses what `data.obfuscate` and `data.extra` cannot be.

    Raises:
        ValueError: with the value and what to give.
    """
    if not isinstance(copies, int) or isinstance(copies, bool) or copies < 0:
        raise ValueError(f"data.obfuscate={copies}: expected how many disguised copies, 0 or more")
    if isinstance(extra, str) or not isinstance(extra, Sequence):
        raise ValueError(f"data.extra={extra}: expected a list, such as [modern] or [mine.csv]")
    for source in map(str, extra):
        if not (path := extra_path(source)).is_file():
            known = ", ".join(SUPPLEMENTS)
            raise ValueError(f"data.extra: {source} ({path}) is not a file; give paths of tables, or {known}")
        if list(extra).count(source) > 1:
            raise ValueError(f"data.extra names {source} twice; once is enough")


def extra_path(source: str) -> Path:
    """The file of a source: a packaged one, or the path itself."""
    if source in SUPPLEMENTS:
        return Path(str(files("spamlit") / "resources" / SUPPLEMENTS[source]))
    return Path(source)


def read_extra(sources: Sequence[str]) -> pd.DataFrame:
    """The messages of all sources, one after the other: tables (`sms.read_labelled`), or corrections (`.sqlite`).

    Returns:
        Columns ``id`` (-1, -2, …: below those of any other message), ``label``, ``text``, ``origin`` (its source).
    """
    tables = [_read_source(extra_path(source)).assign(origin=source) for source in sources]
    frame = pd.concat(tables, ignore_index=True)
    return frame.assign(id=-1 - frame.index)


def _read_source(path: Path) -> pd.DataFrame:
    return read_corrections(path) if path.suffix.lower() in SUFFIXES else sms.read_labelled(path)


def new_messages(extra: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """What of ``extra`` says something new: its group is none of ``known``; of its own repeats, the first.

    Args:
        extra: As `read_extra` gives it.
        known: A message frame; its groups, numbered by first appearance, are those that `sms.with_groups` gave it.
    """
    both = sms.with_groups(pd.concat([known[["label", "text"]], extra], ignore_index=True))
    fresh = both.iloc[len(known) :]
    return fresh[~fresh["group"].isin(known["group"])].drop_duplicates("group").astype({"id": "int64"})


def disguised_copies(train: pd.DataFrame, copies: int, transforms: Sequence[str]) -> pd.DataFrame:
    """Each row ``copies`` times, disguised (`obfuscate.disguise`).

    A message's copies depend on it alone, so that what frozen blocks make of them is computed once for all seeds.

    The first copy of message 42 has the id 10042, the second 20042, where 10000 is the least power of ten above all
    ids. The group is the message's own.

    >>> train = pd.DataFrame({"id": [7, 2], "text": ["Win a free prize", "See you tonight"]})
    >>> disguised_copies(train, 2, transforms=["leet"])["id"].tolist()
    [17, 12, 27, 22]
    """
    step = 10 ** len(str(int(train["id"].max())))
    tables = []
    for copy in range(1, copies + 1):
        texts = [
            obfuscate.disguise(text, obfuscate.generator(0, f"copy {copy}", text), transforms) for text in train["text"]
        ]
        tables.append(train.assign(id=train["id"] + copy * step, text=texts, origin=DISGUISED))
    return pd.concat(tables, ignore_index=True)


def undisguised(messages: pd.DataFrame) -> pd.DataFrame:
    """Those that are no disguised copies; runs from before there were any do not tell an ``origin``."""
    return messages[messages["origin"] != DISGUISED] if "origin" in messages else messages
