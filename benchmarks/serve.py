"""The server under a closed loop of callers, with and without batches.

    python -m benchmarks.serve --run latest              32 callers, 60 s each way
    python -m benchmarks.serve --run RUN --seconds 5     a look

Each caller sends a message, waits for the answer and sends the next, over a connection that stays open; callers and
server share the machine's cores. The same server started with `--batch 1 --wait 0` is the peer. Writes serve.json
beside this file, and ends with an error if a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT

START = 120.0
"""Seconds that the server may take to load its model."""
WAYS = {"batches": [], "one by one": ["--batch", "1", "--wait", "0"]}


@contextmanager
def served(run: str, port: int, options: Sequence[str]) -> Iterator[None]:
    """`spamlit serve` as a process, once it is ready; its log goes to a temporary file."""
    command = [sys.executable, "-m", "spamlit", "serve", "--run", run, "--port", str(port), *options]
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START
            while not ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} did not start:\n{Path(log.name).read_text()}")
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def ready(port: int) -> bool:
    """Whether a worker has its model."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:  # nobody listens yet
        return False


async def caller(port: int, texts: Iterator[str], until: float, seconds: list[float], status: Counter[int]) -> None:
    """Asks until then; adds how long each answer took, and its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        body = json.dumps({"texts": [next(texts)]}).encode()
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        started = time.perf_counter()
        writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer.lower())
        assert length is not None
        await reader.readexactly(int(length[1]))
        seconds.append(time.perf_counter() - started)
        status[int(answer.split(b" ", 2)[1])] += 1
    writer.close()


async def load(port: int, texts: Iterator[str], callers: int, duration: float) -> dict[str, Any]:
    """What so many callers get in so many seconds."""
    seconds: list[float] = []
    status: Counter[int] = Counter()
    started = time.perf_counter()
    await asyncio.gather(*(caller(port, texts, started + duration, seconds, status) for _ in range(callers)))
    took = time.perf_counter() - started
    points = statistics.quantiles(seconds, n=100)
    return {
        "answers": len(seconds),
        "errors": len(seconds) - status[200],
        "per_second": len(seconds) / took,
        "p50_ms": 1000 * points[49],
        "p99_ms": 1000 * points[98],
    }


def messages(path: Path | None) -> list[str]:
    """Those of a JSON list, or of the collection, in an order that does not change."""
    if path is not None:
        found: list[str] = json.loads(path.read_text())
    else:
        from spamlit.assets import fetch
        from spamlit.data.sms import parse

        found = parse(fetch("SMSSpamCollection"))["text"].tolist()
    random.Random(0).shuffle(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--messages", type=Path, help="JSON list of texts; default: the collection")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=5)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--options", nargs="*", default=[], help="of both servers, such as precision=int8")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("serve.json"))
    given = parser.parse_args()
    texts = messages(given.messages)
    options = [part for option in given.options for part in f"--{option}".split("=", 1)]
    found: dict[str, Any] = {}
    for name, way in WAYS.items():
        with served(given.run, given.port, [*way, *options]):
            asyncio.run(load(given.port, cycle(texts), given.callers, given.warm_up))
            found[name] = asyncio.run(load(given.port, cycle(texts), given.callers, given.seconds))
        print(name, json.dumps(found[name]), flush=True)
    ratio = found["batches"]["per_second"] / found["one by one"]["per_second"]
    print(f"{ratio:.2f} times the throughput")
    setting = {"run": given.run, "callers": given.callers, "seconds": given.seconds, "options": given.options}
    given.out.write_text(json.dumps({**setting, **found, "ratio": ratio}, indent=2) + "\n")
    if errors := sum(way["errors"] for way in found.values()):
        sys.exit(f"error: {errors} requests failed")


if __name__ == "__main__":
    main()
