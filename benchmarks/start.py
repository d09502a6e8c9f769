"""How long the commands take from cold with a warm file cache: the median of five, beside the processor's seconds.

    python -m benchmarks.start --run latest

Writes start.json beside this file; a median above its limit is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import ROOT

TEXT = "You have been selected to receive a cash prize"


def once(command: list[str]) -> tuple[float, float]:
    """Seconds of wall time, and of the processor's, from the process's start to its end."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("start.json"))
    given = parser.parse_args()
    spamlit = [sys.executable, "-m", "spamlit"]
    commands = {
        "python -c pass": ([sys.executable, "-c", "pass"], None),
        "import spamlit": ([sys.executable, "-c", "import spamlit"], 0.3),
        "spamlit --help": ([*spamlit, "--help"], 0.5),
        "spamlit predict TEXT": ([*spamlit, "predict", "--run", given.run, TEXT], 3.0),
    }
    rows, late = {}, []
    for name, (command, limit) in commands.items():
        once(command)  # warms the file cache
        walls, cpus = zip(*(once(command) for _ in range(given.repeats)), strict=True)
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        rows[name] = {"seconds": round(wall, 3), "processor_s": round(cpu, 3), "limit": limit}
        print(f"{name:22} {wall:6.3f} s  (processor {cpu:.3f} s)  limit {limit}", flush=True)
        late += [name] if limit is not None and wall > limit else []
    given.out.write_text(json.dumps({"run": given.run, "commands": rows}, indent=2) + "\n")
    if late:
        sys.exit(f"error: too slow: {', '.join(late)}")


if __name__ == "__main__":
    main()
