"""The stores of activations on disk: which there are, and which go when they take too much room."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spamlit.assets import cache_dir

ABOUT = "about.json"


def stores(root: Path | None = None) -> list[tuple[Path, dict[str, Any], int, float]]:
    """All stores: folder, key, size in bytes, time of last use; the most recently used first.

    One whose key cannot be read, as its removal was killed halfway, has an empty one. What another process removes
    meanwhile counts as gone.
    """
    found = []
    for folder in (root or cache_dir() / "prefix").glob("*/"):
        with suppress(FileNotFoundError):
            found.append((folder, read_key(folder), _size(folder), _used(folder)))
    return sorted(found, key=lambda store: -store[3])


def read_key(folder: Path) -> dict[str, Any]:
    """What the values of a store depend on; empty where that cannot be read."""
    try:
        key = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return key if isinstance(key, dict) else {}


def _size(folder: Path) -> int:
    """Bytes of all files, of those that are there to be asked."""
    size = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(inside) / name).stat().st_size
    return size


def _used(folder: Path) -> float:
    about = folder / ABOUT
    return (about if about.exists() else folder).stat().st_mtime


def evict(root: Path, limit_bytes: int, keep: Path | None = None) -> list[Path]:
    """Removes the least recently used stores until the rest fits; those in use by a filling process are left alone.

    A process that has opened a store goes on reading it: the system frees the bytes when the last reader is done.
    """
    removed, total = [], 0
    for folder, _, size, _ in stores(root):
        total += size
        if total > limit_bytes and folder != keep:
            try:
                with FileLock(f"{folder}.lock", timeout=0):
                    shutil.rmtree(folder)
                    removed.append(folder)
                    total -= size
            except (Timeout, FileNotFoundError):  # in use, or another process was faster
                continue
    return removed
