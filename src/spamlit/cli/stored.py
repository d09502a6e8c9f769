"""What a run's folder may put on the command line that goes on with it: choices, and nobody's code.

A run folder may come from a stranger, and Hydra's overrides can name any function of any module. So what is stored
there chooses among what conf/ has; what conf/ has not (a `_target_`, Hydra's own settings, a folder to write to) counts
only where it is given again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

_WRITTEN = frozenset({"run_dir", "dirpath", "filename", "save_dir", "default_root_dir", "artifact_location"})
_OF_HYDRA = frozenset({"hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"})
_OF_HYDRA |= {"hydra.launcher.partition"}
_HYDRA_GROUPS = frozenset({"hydra/launcher", "hydra/sweeper"})
_OPTION = re.compile(r"[\w-]+(/[\w-]+)*")
"""A file of a config group, or one in a folder below it."""


def check_stored(folder: Path, overrides: Sequence[str], conf: Path) -> list[str]:
    """The overrides that a run's or sweep's folder holds, if they only choose among what `conf` has.

    Raises:
        ValueError: one that does more; with the folder and what to do.
    """
    parser = OverridesParser.create()
    for text in overrides:
        try:
            why = _refused(parser.parse_override(text), conf)
        except HydraException:
            why = "is no override"
        if why:
            raise ValueError(
                f"{folder}: its stored override {text[:80]!r} {why}, which is not taken from a folder. If it is "
                "yours, give it again beside ckpt=…"
            )
    return list(overrides)


def _refused(override: Override, conf: Path) -> str | None:
    """Why an override of a folder is not taken; None: it is."""
    key = override.key_or_group
    parts = re.split(r"[./@:]", f"{key}@{override.package or ''}")
    values = list(_leaves(override.value()))
    if any(map(_is_special, chain(parts, (name for name, is_key in values if is_key)))):
        return "names code to run"
    strings = [value for value, _ in values if isinstance(value, str)]
    if any("${" in text and ":" in text for text in strings):
        return "asks a resolver"
    if parts[0] == "hydra" and key not in _OF_HYDRA | _HYDRA_GROUPS and (strings or override.is_delete()):
        return "sets up Hydra itself"
    if _WRITTEN & set(parts):
        return "says where to write"
    is_group = key in _HYDRA_GROUPS or ("." not in key and (conf / key).is_dir())
    if is_group and not all(_OPTION.fullmatch(text) for text in strings):
        return "names a file outside of conf/"
    return None


def _is_special(name: object) -> bool:
    """Whether a key has a meaning for `hydra.utils.instantiate`: `_target_` and the like."""
    return isinstance(name, str) and name.startswith("_") and name.endswith("_") and name != "_"


def _leaves(value: Any) -> Iterable[tuple[Any, bool]]:
    """The plain values within a parsed one, and whether each is a key of a mapping."""
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
    else:  # a range of numbers
        yield str(value), False
