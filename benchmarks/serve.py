"""The server under a closed loop of callers, with and without batches.

    python -m benchmarks.serve --run latest              32 callers, 60 s each way
    python -m benchmarks.serve --run RUN --seconds 5     a look

Each caller sends a message, waits for the answer and sends the next, over a connection that stays open; callers and
server share the machine's cores. The same server started with `--batch 1 --wait 0` is the peer. Then all callers ask
for more than the queue holds. Writes serve.json beside this file, and ends with an error if a request failed, or if
nothing was refused.
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
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT

START = 120.0
"""Seconds that the server may take to load its model."""
OVERLOAD = 64
"""Texts that each caller asks for at once of a server whose queue holds four times as many."""
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


class Caller:
    """A connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def at(cls, port: int) -> Caller:
        """One to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, texts: Sequence[str]) -> tuple[int, float]:
        """Status of the answer, and the seconds that it took."""
        body = json.dumps({"texts": texts}).encode()
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        started = time.perf_counter()
        self.writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer.lower())
        assert length is not None
        await self.reader.readexactly(int(length[1]))
        return int(answer.split(b" ", 2)[1]), time.perf_counter() - started


async def load(port: int, texts: Iterator[str], callers: int, duration: float) -> dict[str, Any]:
    """What so many callers get in so many seconds, a text at a time."""
    answers: list[tuple[int, float]] = []

    async def until(end: float) -> None:
        caller = await Caller.at(port)
        while time.perf_counter() < end:
            answers.append(await caller.ask([next(texts)]))
        caller.writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(until(started + duration) for _ in range(callers)))
    took = time.perf_counter() - started
    points = statistics.quantiles([seconds for _, seconds in answers], n=100)
    return {
        "answers": len(answers),
        "errors": sum(status != 200 for status, _ in answers),
        "per_second": len(answers) / took,
        "p50_ms": 1000 * points[49],
        "p99_ms": 1000 * points[98],
    }


async def overload(port: int, texts: Iterator[str], callers: int, each: int) -> dict[str, Any]:
    """What callers get that all ask for many texts at once, more than the queue holds."""

    async def once() -> tuple[int, float]:
        return await (await Caller.at(port)).ask(list(islice(texts, each)))

    answers = await asyncio.gather(*(once() for _ in range(callers)))
    refused = [seconds for status, seconds in answers if status in (429, 503)]
    return {
        "status": dict(Counter(status for status, _ in answers)),
        "errors": sum(status not in (200, 429, 503) for status, _ in answers),
        "slowest_refusal_ms": 1000 * max(refused, default=0),
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
    queue, each = 4 * OVERLOAD, OVERLOAD
    with served(given.run, given.port, ["--max-queue", str(queue), "--max-texts", str(each), *options]):
        found["overload"] = asyncio.run(overload(given.port, cycle(texts), given.callers, each))
    print("overload", json.dumps(found["overload"]), flush=True)
    ratio = found["batches"]["per_second"] / found["one by one"]["per_second"]
    print(f"{ratio:.2f} times the throughput")
    setting = {"run": given.run, "callers": given.callers, "seconds": given.seconds, "options": given.options}
    given.out.write_text(json.dumps({**setting, **found, "ratio": ratio}, indent=2) + "\n")
    if errors := sum(way["errors"] for way in found.values()):
        sys.exit(f"error: {errors} requests failed")
    if 503 not in found["overload"]["status"]:
        sys.exit("error: nothing was refused of more than the queue holds")


if __name__ == "__main__":
    main()
