"""The Ray engine: files through a Ray Data pipeline whose workers each hold a Predictor. Needs Ray (extra `ray`).

A row of the pipeline is a file, which a worker labels as the local engine does. Without `RAY_ADDRESS`, Ray starts on
this machine; with it, the paths of files and of the run must be the same on all machines of that cluster.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from spamlit.inference.labelling import Counts, Job, Options, Report, label_file
from spamlit.inference.tables import TableError
from spamlit.training.run_folder import find_bundle


class Worker:
    """One model, and the files that it labels.

    Args:
        options: with the number of threads.
        jobs: all of them.
    """

    def __init__(self, options: Options, jobs: Sequence[Job]) -> None:
        self.options, self.jobs = options, jobs
        self.predictor = options.load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """From a job's number to its counts, as JSON, or the reason why its file cannot be read."""
        job, found, error = self.jobs[row["id"]], Counter[str](), ""
        try:
            found = label_file(job.source, job.target, job.kind, self.options, lambda: self.predictor, _untracked)
        except TableError as refused:
            error = str(refused)
        return {"id": row["id"], "counts": json.dumps(found), "error": error}


def label_files(jobs: Sequence[Job], options: Options, *, workers: int) -> Iterator[tuple[Job, Counts | str]]:
    """Files as they are finished; for one that cannot be read, why (the others go on).

    Args:
        jobs: a file each, at least one.
        options: with the number of threads of each worker, for which Ray reserves as many processors.
        workers: how many models there are at once, at most.

    Raises:
        TableError: Ray is not installed, or more processors are needed than there are.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read at import; nothing is told to anybody
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
    except ModuleNotFoundError as error:
        raise TableError('--engine ray needs Ray: pip install "spamlit[ray]", or choose --engine local.') from error
    workers = min(workers, len(jobs))
    threads = options.threads or max(1, (os.cpu_count() or 1) // workers)
    options = replace(options, threads=threads, run=str(find_bundle(options.run).resolve()))  # workers may be elsewhere
    placed = [replace(job, source=job.source.resolve(), target=job.target.resolve()) for job in jobs]
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    needed, there = workers * threads, int(ray.cluster_resources().get("CPU", 0))
    if needed > there:  # Ray would wait for more
        raise TableError(f"--workers {workers} with {threads} threads take {needed} processors; Ray has {there}.")
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    labelled = ray.data.range(len(jobs), override_num_blocks=len(jobs)).map(
        Worker,
        fn_constructor_args=(options, placed),
        compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=threads,
    )
    for row in labelled.iter_rows():
        yield jobs[row["id"]], row["error"] or Counter(json.loads(row["counts"]))


def _untracked(name: str, n_rows: int | None) -> AbstractContextManager[Report]:
    return nullcontext(lambda done: None)
