"""Corrections: messages whose label a person set right, kept in a local SQLite file that `data.extra` can name.

One table, `correction`, a row for each time somebody said that a label was wrong:

- ``id`` INTEGER PRIMARY KEY: 1, 2, … in the order of saving
- ``time`` TEXT: when, UTC, ISO 8601
- ``label`` TEXT: `ham` or `spam`, what the message is
- ``text`` TEXT: the message
- ``probability`` REAL: of spam, what the classifier said of it then
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

SUFFIXES = (".sqlite", ".sqlite3", ".db")
"""Of the files that `data.extra` takes for corrections; others are tables."""
MOST = 100_000
"""Rows that a file may have: whoever reaches the server can add some."""
BUSY = 5.0
"""Seconds that one writer waits for another."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS correction (
    id INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    label TEXT NOT NULL CHECK (label IN ('ham', 'spam')),
    text TEXT NOT NULL,
    probability REAL NOT NULL CHECK (probability BETWEEN 0 AND 1)
)
"""


class FullError(ValueError):
    """The file has as many corrections as it may."""


def save_correction(path: Path, *, label: str, text: str, probability: float) -> int:
    """Adds a correction, durably, to a file that is made where there is none.

    Returns:
        Its id.

    Raises:
        FullError: there are `MOST` already.
        OSError: the file cannot be written, or is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path, path.absolute().as_uri()) as database, database:
        database.execute(SCHEMA)
        (newest,) = database.execute("SELECT coalesce(max(id), 0) FROM correction").fetchone()
        if newest >= MOST:
            raise FullError(f"{path} has {newest} corrections, as many as it may: train on them and move it away.")
        row = (datetime.now(UTC).isoformat(timespec="seconds"), label, text, probability)
        cursor = database.execute("INSERT INTO correction (time, label, text, probability) VALUES (?, ?, ?, ?)", row)
        return int(cursor.lastrowid or 0)


def read_corrections(path: Path) -> pd.DataFrame:
    """What people said last of each message, the newest first.

    Returns:
        Columns ``id``, ``label``, ``text``.

    Raises:
        ValueError: there are none.
        OSError: the file cannot be read, or is something else.
    """
    with _opened(path, f"{path.absolute().as_uri()}?mode=ro") as database:
        rows = database.execute("SELECT id, label, text FROM correction ORDER BY id DESC").fetchall()
    if not rows:
        raise ValueError(f"{path} has no corrections yet")
    return pd.DataFrame(rows, columns=["id", "label", "text"]).drop_duplicates("text", ignore_index=True)


@contextmanager
def _opened(path: Path, address: str) -> Iterator[sqlite3.Connection]:
    """A connection; what SQLite has against the file becomes an OSError that names it."""
    try:
        with closing(sqlite3.connect(address, timeout=BUSY, uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise OSError(f"{path} is not a file of corrections that can be used: {error}") from error
