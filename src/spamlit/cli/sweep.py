"""Sweeps that can be interrupted: which jobs are finished, and in which folder each of the others runs."""

from __future__ import annotations

import itertools
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from spamlit.cli.group import INTERRUPTED
from spamlit.training.run_folder import identity, is_finished, read_json, stored_overrides

OBJECTIVE = "val/f1"
"""The figure of metrics.json that a job returns to its sweep."""
NUMBERED = "${hydra.job.num}"

log = logging.getLogger(__name__)


class JobFailedError(Exception):
    """What the user asked of one job cannot be. A sweep goes on with the others and tells this at its end."""


class ResumingLauncher(Launcher):
    """A launcher in front of another one, which is given the jobs that are not finished.

    A job is known by its overrides. Where the sweep's folder has a finished job with the same ones, its figure is
    returned; where it has one that was interrupted or failed, the job goes on in that folder, from its last checkpoint.
    Any other job gets the lowest free number, so a sweep can be given more values without touching what is there.

    Args:
        launcher: runs the jobs.
        config: the sweep's composed configuration.
    """

    def __init__(self, launcher: Launcher, config: DictConfig) -> None:
        self.launcher = launcher
        self.folder = Path(config.hydra.sweep.dir)
        self.numbered = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] == NUMBERED  # type: ignore[call-overload,index]
        self.failures: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """The results of all jobs, in order; a failed one's is NaN, and its reason is in `failures`."""
        known, numbers = known_jobs(self.folder), free_numbers(self.folder)
        results: dict[int, JobReturn] = {}
        open_jobs: dict[int, list[str]] = {}
        for index, overrides in enumerate(job_overrides):
            folder = next(iter(known.get(identity(overrides), [])), None)
            if folder is not None:
                known[identity(overrides)].remove(folder)
            if folder is not None and is_finished(folder):
                results[index] = finished(overrides, read_json(folder / "metrics.json").get(OBJECTIVE, math.nan))
            else:
                open_jobs[index] = [*overrides, *self._place(folder, numbers)]
        if results:
            log.info(f"{len(results)} of {len(job_overrides)} jobs are finished already")
        if open_jobs:
            launched = self.launcher.launch(list(open_jobs.values()), initial_job_idx)
            results |= zip(open_jobs, map(self._without_failure, launched), strict=True)
        return [results[index] for index in range(len(job_overrides))]

    def _place(self, folder: Path | None, numbers: Iterator[int]) -> list[str]:
        """The overrides that put a job into its folder, and let it go on there."""
        if folder is not None:
            paths = {"hydra.sweep.subdir": folder.relative_to(self.folder), "ckpt": folder.resolve()}
            return [f"{key}={QuotedString(str(path), Quote.single).with_quotes()}" for key, path in paths.items()]
        return [f"hydra.sweep.subdir={next(numbers)}"] if self.numbered else []

    def _without_failure(self, result: JobReturn) -> JobReturn:
        if result.status != JobStatus.FAILED or not isinstance(result._return_value, JobFailedError):
            return result
        overrides = [text for text in result.overrides or () if not text.startswith("ckpt=")]
        self.failures.append(f"{','.join(overrides) or 'defaults'}: {result._return_value}")
        return finished(result.overrides or (), math.nan)


def known_jobs(sweep: Path) -> dict[frozenset[str], list[Path]]:
    """The folders of a sweep's jobs by what they compute; finished ones first, then in order of their names."""
    known = defaultdict(list)
    for hydra in sorted(sweep.rglob(".hydra"), key=lambda path: (not is_finished(path.parent), path)):
        overrides = stored_overrides(hydra.parent)
        if overrides is not None:
            known[identity(overrides)].append(hydra.parent)
    return known


def free_numbers(sweep: Path) -> Iterator[int]:
    """Numbers that no job's folder has yet, from 0 on."""
    return (number for number in itertools.count() if not (sweep / str(number)).exists())


def finished(overrides: Sequence[str], value: float) -> JobReturn:
    """A job's result as Hydra's launchers give it."""
    result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    result.return_value = value
    return result


def interrupted(sweep: Path) -> None:
    """Ends the program after Ctrl-C with the command that goes on."""
    click.echo(f"interrupted; to go on: python train.py ckpt={shown(sweep)}", err=True)
    sys.exit(INTERRUPTED)


def conclude(sweep: Path, failures: Sequence[str]) -> None:
    """The table of all finished jobs, and the failed ones with their reasons; these end the program with code 1."""
    from spamlit.cli.compare import show

    if any(sweep.rglob("metrics.json")):
        show([shown(sweep)], shown(sweep) / "compare.csv")
    if failures:
        click.echo(f"{len(failures)} of the jobs failed; the others are whole:", err=True)
        for failure in failures:
            click.echo(f"  {failure}", err=True)
        sys.exit(1)


def shown(folder: Path) -> Path:
    """A folder as one would type it here.

    >>> shown(Path.cwd() / "outputs" / "run")
    PosixPath('outputs/run')
    """
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
