"""The SMS Spam Collection, and any table of messages, as one data frame.

A *message frame* has the columns ``id`` (int, where the message stands in its file), ``label`` (``"ham"`` or
``"spam"``), ``text`` (str) and, after `with_groups`, ``group`` (int: messages that say the same share one).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TextIO

import pandas as pd

LABELS = ("ham", "spam")  # a label's position is its class: ham 0, spam 1
LONGEST_LINE = 8 << 20
"""Bytes of a line of the collection, characters of a line or a cell of a table."""
MOST_COLUMNS = 10_000


def parse(path: Path | str) -> pd.DataFrame:
    r"""Read ``label<TAB>text`` lines, UTF-8, without any quoting.

    Only ``\n`` ends a line (messages hold other characters that `str.splitlines` would split at); a ``\r`` before it is
    dropped. A final newline is expected but not required.

    Returns:
        Columns ``id`` (the line's number, from 1), ``label``, ``text``, in the file's order.

    Raises:
        ValueError: A malformed line (named by its number), or no lines at all.
    """
    rows = [(number, *_parse_line(line, f"{path}, line {number}")) for number, line in _numbered(path)]
    if not rows:
        raise ValueError(f"{path} is empty: expected lines of label<TAB>text")
    return pd.DataFrame(rows, columns=["id", "label", "text"])


def _numbered(path: Path | str) -> Iterator[tuple[int, bytes]]:
    """Lines without their ends, from 1 on; one without an end is not read to the end."""
    with Path(path).open("rb") as file:
        for number in count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise ValueError(
                    f"{path}, line {number}: longer than {LONGEST_LINE:,} bytes, the limit; end the lines with \\n"
                )
            yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).removesuffix(b"\n")


def _parse_line(line: bytes, where: str) -> tuple[str, str]:
    try:
        decoded = line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: byte {error.start + 1} is not UTF-8 ({error.reason})") from None
    label, tab, text = decoded.partition("\t")
    if not decoded.strip():
        raise ValueError(f"{where}: blank line; expected label<TAB>text")
    if not tab:
        raise ValueError(f"{where}: no tab after the label in {_short(decoded)}; expected label<TAB>text")
    if label not in LABELS:
        raise ValueError(f"{where}: unknown label {_short(label)}; choose from {', '.join(LABELS)}")
    if not text.strip():
        raise ValueError(f"{where}: no text after the label {label!r}")
    return label, text


def _short(text: str, width: int = 40) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def parse_quoted(path: Path | str) -> pd.DataFrame:
    """Read the collection as the lesson did: pandas' default quoting, which loses messages.

    A message that begins with an unbalanced ``"`` swallows the lines behind it (the collection's 5,574 messages become
    5,572 rows). Only for `split="random"`, whose published rows depend on it; everything else reads with `parse`.

    Returns:
        Columns ``id`` (the line where the row begins), ``label``, ``text``.

    Raises:
        ValueError: The file does not parse as two tab-separated columns labelled ham and spam.
    """
    parse(path)  # the same errors as elsewhere for a malformed file
    frame = pd.read_csv(path, sep="\t", header=None, names=["label", "text"], keep_default_na=False)
    begins = (frame["text"].str.count("\n") + 1).cumsum().shift(fill_value=0) + 1
    frame.insert(0, "id", begins.astype("int64"))
    return frame


def read_csv_messages(
    path: Path | str, *, text_column: str, label_column: str, positive: str | int | bool
) -> pd.DataFrame:
    """Read the user's own table: CSV, or TSV if the name ends in ``.tsv``, UTF-8, with a header.

    Cells are text as written: ``NA``, ``null`` and ``0042`` stay what they are.

    Args:
        path: The file.
        text_column: The column with the messages.
        label_column: The column with the labels, two different ones.
        positive: The label that means spam; the other one means ham.

    Returns:
        Columns ``id`` (the record's number, from 1, the header not counted), ``label``, ``text``.

    Raises:
        ValueError: Not a readable table, a column that is not there, empty texts or labels, or labels other than two.
    """
    table = _read_table(
        path, {text_column: "data.text_column, --text-column", label_column: "data.label_column, --label-column"}
    )
    texts, labels = table[text_column], table[label_column].str.strip()
    spam = labels == _positive_label(str(positive), sorted(set(labels)), path, label_column)
    return pd.DataFrame(
        {"id": range(1, len(table) + 1), "label": spam.map({False: "ham", True: "spam"}), "text": texts}
    )


def read_labelled(path: Path | str) -> pd.DataFrame:
    """Read a table like `read_csv_messages` whose columns are ``text`` and ``label``: ham, spam, or one of the two.

    Returns:
        Columns ``id`` (the record's number, from 1), ``label``, ``text``.

    Raises:
        ValueError: Not a readable table, a column that is not there, empty texts or labels, or other labels.
    """
    table = _read_table(path, {"text": "data.extra", "label": "data.extra"})
    labels = table["label"].str.strip()
    if unknown := sorted(set(labels) - set(LABELS)):
        raise ValueError(f"{path}: column 'label' must hold {' and '.join(LABELS)}, and holds: {_some(unknown)}")
    return pd.DataFrame({"id": range(1, len(table) + 1), "label": labels, "text": table["text"]})


def _read_table(path: Path | str, columns: Mapping[str, str]) -> pd.DataFrame:
    """These columns, each with the option that asks for it, of a table; they are there and have no empty cell."""
    records = read_records(path)
    names = next(records, [])
    for column, option in columns.items():
        if column not in names:
            there = ", ".join(names[:20])
            raise ValueError(f"{path} has no column {column!r} ({option}); its columns are: {there}")
    places = {column: names.index(column) for column in columns}
    cells: dict[str, list[str]] = {column: [] for column in columns}
    for record in records:
        for column, place in places.items():
            cells[column].append(record[place] if place < len(record) else "")
    table = pd.DataFrame({column: pd.Series(values, dtype=str) for column, values in cells.items()})
    for column in columns:
        empty = [row + 1 for row, cell in enumerate(table[column]) if not cell.strip()]
        if empty:
            raise ValueError(
                f"{path}: column {column!r} is empty in {len(empty)} of {len(table)} records "
                f"(record {_some(empty)}); fill or remove them"
            )
    return table


def read_records(path: Path | str) -> Iterator[list[str]]:
    """The cells of each record of a table, the header's first: CSV, or TSV if the name ends in ``.tsv``, UTF-8.

    Blank lines are no records. Unlike pandas, it takes bounded memory for what is no table.

    Raises:
        ValueError: Not a table, with the line.
    """
    csv.field_size_limit(LONGEST_LINE)
    separator = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        records = csv.reader(_bounded(file), delimiter=separator, strict=True)
        width = 0
        try:
            for record in filter(None, records):
                width = width or len(record)
                if len(record) > min(width, MOST_COLUMNS):
                    limit = f"the header {width:,}" if len(record) > width else f"the limit is {MOST_COLUMNS:,}"
                    raise csv.Error(f"{len(record):,} cells, and {limit}")
                yield record
        except csv.Error as error:
            raise ValueError(f"{path} is not a table with a header: line {records.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 ({error}); convert it, as with iconv -f WINDOWS-1252 -t UTF-8"
            ) from error
    if not width:
        raise ValueError(f"{path} is not a table with a header: it is empty")


def _bounded(file: TextIO) -> Iterator[str]:
    """Lines, of which one without an end is not read to the end."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise csv.Error(f"longer than {LONGEST_LINE:,} characters, the limit")
        yield line


def _positive_label(positive: str, found: list[str], path: Path | str, column: str) -> str:
    if len(found) != 2:
        raise ValueError(f"{path}: column {column!r} must hold two labels, and holds {len(found)}: {_some(found)}")
    matches = [label for label in found if label.casefold() == positive.casefold()]
    if positive in found:
        return positive
    if len(matches) == 1:  # YAML turns `true` into True, and people write Spam for spam
        return matches[0]
    raise ValueError(
        f"{path} has no label {positive!r} (data.positive, --positive); column {column!r} holds: {_some(found)}"
    )


def _some(values: Sequence[object], most: int = 5) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")


_DIGIT = re.compile(r"\d")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ASCII_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~\s]")


def group_key(text: str) -> str:
    """What is left of a message when case, digits, punctuation and spacing are folded: equal keys are repeats.

    Lower-case; every digit 0; what is neither letter, digit nor white space removed; runs of white space one space,
    none at the ends. A message without words keeps its symbols beyond ASCII (emoji); those of ASCII punctuation alone
    count as repeats of each other. On the collection: 5,108 keys, 607 of them spam.

    >>> group_key("WINNER!! Call 09061701461 now")
    'winner call 00000000000 now'
    >>> group_key(":-) :-)") == group_key(":)") == ""
    True
    """
    folded = _DIGIT.sub("0", text.lower())
    words = " ".join(_PUNCTUATION.sub("", folded).split())
    return words or _ASCII_PUNCTUATION.sub("", folded)


def with_groups(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame with a column ``group``: 0, 1, … in order of first appearance, equal where `group_key` is."""
    groups, _ = pd.factorize(frame["text"].map(group_key))
    return frame.assign(group=groups.astype("int64"))
