"""Damage to files, decided by a number, and what may come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = ("flip", "flip", "flip", "flip", "cut", "longer", "zeros", "byte")
"""Flips of one bit are half of the cases."""


def damage(content: bytes, seed: int) -> bytes:
    """Other bytes than `content`, nearly the same: a bit or byte changed, a part zeroed, an end missing or added."""
    draw = random.Random(seed)
    kind, at = draw.choice(KINDS), draw.randrange(len(content))
    if draw.random() < 0.5:  # headers are short, and where most can go wrong
        at = min(at, draw.randrange(256))
    changed = bytearray(content)
    if kind == "cut":
        return content[:at]
    if kind == "longer":
        return content + draw.randbytes(draw.randint(1, 64))
    if kind == "zeros":
        changed[at : at + 64] = bytes(len(changed[at : at + 64]))
    else:
        changed[at] ^= 1 << draw.randrange(8) if kind == "flip" else draw.randint(1, 255)
    return bytes(changed) if changed != content else damage(content, seed + 1_000_003)


@contextmanager
def damaged(path: Path, seed: int) -> Iterator[None]:
    """Within the block, a file has `damage`; then it is as it was, whatever was made of it."""
    before = path.read_bytes()
    path.write_bytes(damage(before, seed))
    try:
        yield
    finally:
        path.write_bytes(before)


def each(seeds: range, check: Callable[[int], None], record: Callable[[str, object], None]) -> None:
    """Checks every seed, and tells the table how many; a failure names its seed."""
    for seed in seeds:
        try:
            check(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
    record("cases", len(seeds))
