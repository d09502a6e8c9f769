"""Measures ours and the peers' in turn and writes results.json, README.md and the plot.

python -m benchmarks.run                                       everything; goes on where a stopped run was
python -m benchmarks.run --rows lesson-nonpad,predict-fp32 --again
python -m benchmarks.run --quick                               the whole path in minutes, with a tiny model
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.common import Measurement, ProcessFailedError, Record, measure
from benchmarks.rows import JOBS, ROWS, Bench, Job, Row, inputs

HERE = Path(__file__).parent
OPTIONAL = {"predict-fastest": ("--fastest-run", "--full-run")}  # rows that need to be told what to compare


def main() -> None:
    given = arguments()
    work = HERE / ".work" / ("quick" if given.quick else "full")
    remember(given, work / "predict-fastest.json")
    bench = Bench(
        work,
        quick=given.quick,
        peer_epochs=given.peer_epochs,
        challenge_steps=given.challenge_steps,
        fastest_run=given.fastest_run,
        full_run=given.full_run,
        fastest_options=given.fastest_options,
    )
    record = Record(work / "measurements.jsonl" if given.quick else HERE / "measurements.jsonl")
    rows = chosen_rows(given)
    if given.again:
        record.forget([job for row in rows for job in row.jobs])
    runner = Runner(bench, record, given.repeats, results=work if given.quick else HERE)
    if not given.report:
        runner.run(rows)
    for figures in runner.write():
        print(f"{figures['name']:22} {figures['ratio']:8.2f} ×  target {figures['target']:g}  met {figures['met']}")
    if runner.failed:
        sys.exit(f"failed: {', '.join(runner.failed)}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help=f"comma-separated; by default all of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, help="of every job, in place of its own number")
    parser.add_argument("--again", action="store_true", help="measure the rows anew")
    parser.add_argument("--report", action="store_true", help="only write the results of what has been measured")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few steps, into .work/quick")
    parser.add_argument("--peer-epochs", type=int, default=1, help="whole epochs that the lesson's peers run (5: all)")
    parser.add_argument("--challenge-steps", type=int, help="steps that the Trainer runs; by default the whole epoch")
    parser.add_argument("--fastest-run", help="predict-fastest: run folder of the fastest setting")
    parser.add_argument("--fastest-options", default="{}", help="predict-fastest: JSON object for Predictor.load")
    parser.add_argument("--full-run", help="predict-fastest: run folder of the full-depth model, for the pipeline")
    given = parser.parse_args()
    unknown = [name for name in (given.rows or "").split(",") if name and name not in ROWS]
    if unknown:
        parser.error(f"--rows {','.join(unknown)}: choose from {', '.join(ROWS)}")
    return given


def remember(given: argparse.Namespace, path: Path) -> None:
    """What predict-fastest compares stays until it is given anew."""
    names = ("fastest_run", "fastest_options", "full_run")
    if given.fastest_run and given.full_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({name: getattr(given, name) for name in names}))
    elif path.exists():
        vars(given).update(json.loads(path.read_text()))


def chosen_rows(given: argparse.Namespace) -> list[Row]:
    """The rows asked for; by default all that have what they need."""
    names = given.rows.split(",") if given.rows else list(ROWS)
    chosen = []
    for name in names:
        missing = [o for o in OPTIONAL.get(name, ()) if getattr(given, o.strip("-").replace("-", "_")) is None]
        if missing:
            print(f"{name}: left out, for it needs {' and '.join(missing)}")
        else:
            chosen.append(ROWS[name])
    return chosen


class Runner:
    """Runs the jobs of rows in rounds, ours and the peer's in turn, and keeps every measurement at once."""

    def __init__(self, bench: Bench, record: Record, repeats: int | None, results: Path) -> None:
        self.bench, self.record, self.repeats, self.results = bench, record, repeats, results
        self.inputs = inputs(bench)
        self.failed: list[str] = []

    def run(self, rows: Sequence[Row]) -> None:
        """All rounds; results are written after every measurement."""
        jobs = list(dict.fromkeys(job for row in rows for job in row.jobs))
        times = {job: self._times(JOBS[job]) for job in jobs}
        for turn in range(max(times.values(), default=0)):
            for name in jobs:
                if turn < times[name] and len(self._found(name)) <= turn and name not in self.failed:
                    self._one(JOBS[name], f"{turn + 1}/{times[name]}")
                    self.write()

    def write(self) -> list[dict[str, Any]]:
        """The results of what has been measured so far."""
        return report.write(self.results, self.bench, list(ROWS.values()), self.measured(), self.stale())

    def measured(self) -> dict[str, list[Measurement]]:
        """What is known of every job; where the code has changed since, what was measured last."""
        return {name: self.record.newest(name)[1] for name in JOBS}

    def stale(self) -> set[str]:
        """Jobs whose newest measurement is of other code than what stands here now."""
        return {name for name, job in JOBS.items() if self.record.newest(name)[0] not in ("", job.mark(self.bench))}

    def _times(self, job: Job) -> int:
        return 1 if self.bench.quick else min(job.repeats, self.repeats or job.repeats)

    def _found(self, name: str) -> list[Measurement]:
        return self.record.find(name, JOBS[name].mark(self.bench))

    def _one(self, job: Job, turn: str) -> None:
        print(f"{job.name} {turn} …", flush=True)
        try:
            for need in job.needs:
                self._provide(need)
            mark = job.mark(self.bench)
            measurement = self._measure(job)
        except ProcessFailedError as error:
            self.failed.append(job.name)
            print(f"{job.name} FAILED: {error}", flush=True)
            return
        self.record.add(job.name, mark, measurement)
        whole = job.whole(self.bench, measurement)
        print(f"    {whole:.1f} s, peak {measurement.peak_mb:.0f} MB, load before {measurement.load:.1f}", flush=True)

    def _provide(self, need: str) -> None:
        """Makes an input, or the run folder of another job, unless it is there."""
        if need in JOBS:
            if not (self.bench.run_folder(need) / "metrics.json").exists():
                for deeper in JOBS[need].needs:
                    self._provide(deeper)
                self._measure(JOBS[need])
            return
        path, command = self.inputs[need]
        if not path.exists():
            print(f"    making {need}", flush=True)
            measure(command, self.bench.work / "logs" / f"{need}.log")

    def _measure(self, job: Job) -> Measurement:
        folder = self.bench.run_folder(job.name)
        if job.told != "script":
            shutil.rmtree(folder, ignore_errors=True)
        if job.cache == "cold":
            shutil.rmtree(self.bench.cache / "prefix", ignore_errors=True)
        (self.bench.work / "told").mkdir(parents=True, exist_ok=True)
        told = {"run": folder / "run.json", "script": self.bench.told(job.name), "nothing": None}[job.told]
        env = {} if job.peer else {"SPAMLIT_CACHE": str(self.bench.cache)}
        log = self.bench.work / "logs" / f"{job.name}.log"
        os.sync()  # what an earlier job wrote shall not slow this one
        measurement = measure(job.command(self.bench, job.name), log, env=env, told=told)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if job.told == "run":
            measurement.told = {key: measurement.told[key] for key in ("timing", "prefix", "git")}
            if job.cache == "warm" and measurement.told["prefix"]["computed"]:
                return self._measure(job)
        return measurement


if __name__ == "__main__":
    main()
