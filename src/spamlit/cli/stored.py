"""What a run's folder may put on the command line that goes on with it: choices, and nobody's code.

A run folder may come from a stranger, and Hydra's overrides can name any function of any module. So what is stored
there chooses among what conf/ has and sets plain values of data, model, optimizer, scheduler and the like. What builds,
writes, tells or sets up more (a `_target_`, Hydra's own settings, a folder to write to, a server to log to) counts only
where it is given again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

_WRITES = frozenset({"run_dir", "dirpath", "filename", "default_root_dir", "profiler", "plugins"})
"""Keys of the recipe, of the trainer and of callbacks that say where something is written, or add what writes."""
_BUILDS = frozenset({"callbacks", "logger", "trainer"})
"""Groups of objects: of theirs, a folder sets plain values of those that conf/ has, and adds none."""
_NUMBERS = re.compile(r"hydra\.(launcher|sweeper)\.\w+")
_OPTION = re.compile(r"[\w-]+(/[\w-]+)*")
"""A file of a config group, or one in a folder below it."""


def check_stored(folder: Path, overrides: Sequence[str], conf: Path) -> list[str]:
    """The overrides that a run's or sweep's folder holds, if they only choose among what `conf` has.

    Raises:
        ValueError: one that does more; with the folder and what to do.
    """
    parser = OverridesParser.create()
    refused = []
    for text in overrides:
        try:
            why = _refused(parser.parse_override(text), conf)
        except HydraException:
            why = "is no choice or value"
        if why:
            refused.append(f"{text[:80]!r} {why}")
    if refused:
        raise ValueError(
            f"{folder}: of its stored overrides {'; '.join(refused[:5])}, which is not taken from a folder. What is "
            "yours, give again beside ckpt=…"
        )
    return list(overrides)


def _refused(override: Override, conf: Path) -> str | None:
    """Why an override of a folder is not taken; None: it is."""
    key = override.key_or_group
    leaves = list(_leaves(override.value()))
    keys = [name for name, is_key in leaves if is_key]
    texts = [value for value, is_key in leaves if isinstance(value, str) and not is_key]
    names = [*re.split(r"[./]", key), *map(str, keys)]
    if any(re.fullmatch(r"_.+_", name) for name in names):  # what hydra.utils.instantiate heeds
        return "names code to run"
    if override.package is not None:
        return "moves a part of the configuration"
    if any("${" in text for text in texts):
        return "refers to something else"
    if names[0] == "hydra":
        return (
            None if _NUMBERS.fullmatch(key) and not (texts or keys or override.is_delete()) else "sets up Hydra itself"
        )
    if _WRITES.intersection(names) or names[:2] == ["trainer", "logger"]:
        return "says where to write"
    if "." not in key and (conf / key).is_dir():
        if key == "launcher" and "slurm" in texts:
            return "has results read that only your own jobs may write"
        return None if not keys and all(map(_OPTION.fullmatch, texts)) else "names a file outside of conf/"
    if names[0] in _BUILDS and keys:
        return "builds more than conf/ has"
    if names[0] == "logger" and texts:
        return "says where to write, or whom to tell"
    return None


def _leaves(value: Any) -> Iterable[tuple[Any, bool]]:
    """The plain values within a parsed one, and whether each is a key of a mapping.

    Raises:
        HydraException: a kind of value that no setting of ours has.
    """
    if isinstance(value, QuotedString):
        yield value.text, False
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield getattr(key, "text", key), True
            yield from _leaves(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _leaves(inner)
    elif value is None or isinstance(value, str | int | float | bool):
        yield value, False
    elif isinstance(value, ChoiceSweep):
        yield from _leaves(value.list)
    elif isinstance(value, RangeSweep | IntervalSweep):
        yield 0, False  # numbers
    else:
        raise HydraException(f"{type(value).__name__} is not taken")
