"""Tables of the results pages, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

LONGEST = 120
"""Characters of a message that are shown."""


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    r"""A table; whatever a cell holds stays in it.

    >>> print(table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    |---|---|
    | 1 | x\|y |
    """
    rows = [head, *lines]
    shown = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join([shown[0], "|" + "---|" * len(head), *shown[1:]])


def number(value: float | None) -> str:
    """Four digits; nothing where there is none."""
    return "" if value is None or pd.isna(value) else f"{value:.4f}"


def shortened(text: str) -> str:
    """At most `LONGEST` characters."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _cell(text: str) -> str:
    return " ".join("".join(f"\\{character}" if character in "\\`*_|<" else character for character in text).split())
