"""Where runs are and what they contain: the contract of `outputs/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spamlit.assets import atomic_write

OUTPUTS = Path("outputs")
HOW = ("ckpt", "threads", "sweep", "launcher")
"""Keys of the command line that say how a run is made, not what it computes."""
_TIME = re.compile(r"\d\d-\d\d-\d\d")


class RunNotFoundError(ValueError):
    """No run folder where one was named; the message lists what there is."""


def find_run(name: str | Path, outputs: Path = OUTPUTS) -> Path:
    """The run folder that a user means: a path to it, or `latest` for the newest one below `outputs`.

    Raises:
        RunNotFoundError: there is none.
    """
    if str(name) == "latest":
        runs = sorted(_runs(outputs), key=_modified)
        if not runs:
            raise RunNotFoundError(f"no run below {outputs.resolve()}: make one with `python train.py`.")
        return runs[-1]
    path = Path(name)
    if not path.is_dir():
        newest = ", ".join(str(run) for run in sorted(_runs(outputs))[-3:]) or "none"
        raise RunNotFoundError(f"{path} is not a run folder. The newest ones: {newest}; `latest` names the newest.")
    return path


def find_sweep(name: str | Path, outputs: Path = OUTPUTS) -> Path:
    """The folder of a sweep: a path to it, or `latest` for the newest one below `outputs`.

    Raises:
        RunNotFoundError: there is none.
    """
    sweeps = sorted((path.parent for path in outputs.glob("multirun/*/*/multirun.yaml")), key=_modified)
    if str(name) == "latest" and sweeps:
        return sweeps[-1]
    path = Path(name)
    if str(name) == "latest" or not is_sweep(path):
        newest = ", ".join(map(str, sweeps[-3:])) or "none"
        raise RunNotFoundError(f"{path} is not the folder of a sweep (it has no multirun.yaml). The newest: {newest}.")
    return path


def find_bundle(name: str | Path, outputs: Path = OUTPUTS) -> Path:
    """The bundle of a run: a bundle folder itself, a run folder, or `latest`.

    Raises:
        RunNotFoundError: there is none, or the run has not finished.
    """
    if str(name) == "latest":
        finished = [run for run in _runs(outputs) if is_bundle(run / "classifier")]
        if finished:
            return max(finished, key=_modified) / "classifier"
    path = find_run(name, outputs)
    for folder in (path, path / "classifier"):
        if is_bundle(folder):
            return folder
    raise RunNotFoundError(
        f"{path} has no classifier/: the run did not finish. Go on with `python train.py ckpt={path}`."
    )


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle that predicts."""
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


def is_sweep(path: Path) -> bool:
    """Whether a folder holds the jobs of a sweep."""
    return (path / "multirun.yaml").is_file()


def is_finished(run: Path) -> bool:
    """Whether a run wrote all that it writes, and was not begun again since with other settings."""
    if not (run / "metrics.json").is_file() or not (run / "run.json").is_file():
        return False
    given, now = given_overrides(run), stored_overrides(run)
    if given is not None and (now is None or identity(given) != identity(now)):
        return False
    config = run / ".hydra" / "config.yaml"
    try:
        content = read_yaml(config) if config.is_file() else None
    except ValueError:  # cut off when it was begun again
        return False
    wants_report = isinstance(content, dict) and content.get("report")
    return not wants_report or (run / "report.html").is_file()


def write_results(run: Path, record: dict[str, Any], metrics: dict[str, float]) -> None:
    """Writes run.json and metrics.json, which belong together; the report of an earlier start goes.

    Both are written before either gets its name: a full disk leaves what there was, a kill at most an unfinished run.
    """
    with atomic_write(run / "metrics.json") as last, atomic_write(run / "run.json") as first:
        first.write_text(_json(record), encoding="utf-8")
        last.write_text(_json(metrics), encoding="utf-8")
        for earlier in ("report.html", "metrics.json"):
            (run / earlier).unlink(missing_ok=True)


def given_overrides(run: Path) -> list[str] | None:
    """What the command line of a finished run had that gave its metrics; None where run.json does not say.

    Not always what `stored_overrides` gives: Hydra writes that down when the run is begun again.
    """
    try:
        return _texts(read_json(run / "run.json").get("overrides"))
    except (FileNotFoundError, ValueError):
        return None


def stored_overrides(run: Path) -> list[str] | None:
    """What was given on the command line of a run; None where that was not recorded, or not to the end."""
    try:
        return _texts(read_yaml(run / ".hydra" / "overrides.yaml"))
    except (FileNotFoundError, ValueError):
        return None


def _texts(stored: Any) -> list[str] | None:
    return stored if isinstance(stored, list) and all(isinstance(text, str) for text in stored) else None


def identity(overrides: Iterable[str]) -> frozenset[str]:
    """What a run computes: its overrides but for those that only say how.

    >>> identity(["sweep=seeds", "seed=1", "threads=2"])
    frozenset({'seed=1'})
    """
    return frozenset(text for text in overrides if text.split("=", 1)[0].lstrip("+") not in HOW)


def read_yaml(path: Path) -> Any:
    """A YAML file of plain values: tags that name Python objects are refused.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file.
    """
    import yaml  # prediction does without

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not plain YAML: {' '.join(str(error).split())}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A run's metrics.json or run.json.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(_json(content), encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _runs(outputs: Path) -> list[Path]:
    found = [*outputs.glob("*/*/.hydra"), *outputs.glob("multirun/*/*/*/.hydra")]
    return [folder.parent for folder in found if _TIME.search(str(folder))]


def _modified(path: Path) -> float:
    return path.stat().st_mtime
