"""What every measurement shares: one process from start to end, its time and memory, and the record on disk.

Only the standard library: the driver must stay small, because a child's peak memory counts from the driver's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STARTED = "BENCH_STARTED"  # environment variable: when the driver started the process, seconds since the epoch


@dataclass
class Measurement:
    """One process: seconds of wall time from its start to its end, and what it told about itself."""

    seconds: float
    peak_mb: float
    """largest resident size, mapped files included (`ru_maxrss`)"""
    anonymous_mb: float
    """largest anonymous resident size, sampled: what no other process could share"""
    load: float
    """the machine's load average before the start; above 0.5 other people's work slowed this down"""
    told: dict[str, Any] = field(default_factory=dict)


class ProcessFailedError(RuntimeError):
    """A measured process did not end well."""


def measure(
    command: Sequence[str], log: Path, *, env: dict[str, str] | None = None, told: Path | None = None
) -> Measurement:
    """Runs a command in the repository's root and measures it.

    Args:
        command: the program and its arguments.
        log: where its output goes.
        env: variables on top of this process's.
        told: JSON file that the process writes about itself.

    Raises:
        ProcessFailedError: it ended with an error; the message has the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if told is not None:
        told.unlink(missing_ok=True)
    load = os.getloadavg()[0]
    started = time.time()
    environment = {**os.environ, **(env or {}), STARTED: repr(started), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        with _sampled(process.pid) as anonymous:
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
    seconds = time.time() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = log.read_text(errors="replace")[-2000:]
        raise ProcessFailedError(f"{' '.join(command)} ended with {process.returncode}; {log} ends:\n{end}")
    content = json.loads(told.read_text()) if told is not None else {}
    return Measurement(seconds, usage.ru_maxrss / 1024, anonymous[0], load, content)


@contextmanager
def _sampled(pid: int, every: float = 0.1) -> Iterator[list[float]]:
    """The process's largest anonymous resident size in MB, in a list of one that fills while it runs."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(every):
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                return
            sizes = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")]
            peak[0] = max([peak[0], *sizes])

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def since_start() -> float:
    """Seconds since the driver started this process, imports included."""
    return time.time() - float(os.environ.get(STARTED) or time.time())


def tell(path: str | Path, **content: Any) -> None:
    """Writes what a measured process says about itself."""
    Path(path).write_text(json.dumps(content))


def fingerprint(command: Sequence[str], code: Sequence[str]) -> str:
    """A hash of a command and of the files (glob patterns below the root) that it runs."""
    digest = hashlib.sha256("\0".join(command).encode())
    for pattern in code:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Record:
    """Measurements as they come, one JSON object a line, so that a stopped run goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("}")]

    def find(self, job: str, mark: str) -> list[Measurement]:
        """The job's measurements that were made by the same command and code."""
        fields = Measurement.__dataclass_fields__
        found = [line for line in self.lines if (line["job"], line["mark"]) == (job, mark)]
        return [Measurement(**{name: line[name] for name in fields}) for line in found]

    def newest(self, job: str) -> tuple[str, list[Measurement]]:
        """The mark of the job's newest measurement and all that share it; an empty mark where there is none."""
        mark = next((line["mark"] for line in reversed(self.lines) if line["job"] == job), "")
        return mark, self.find(job, mark)

    def add(self, job: str, mark: str, measurement: Measurement) -> None:
        """Appends a measurement."""
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        self.lines.append({"job": job, "mark": mark, "when": when, **asdict(measurement)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")

    def forget(self, jobs: Sequence[str]) -> None:
        """Drops all measurements of some jobs."""
        self.lines = [line for line in self.lines if line["job"] not in jobs]
        if self.path.exists():
            self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
