"""`spamlit serve` as a process on a free port of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WAIT = 60.0
"""Seconds for what takes one or two on a quiet machine."""


class Server:
    """The process, its address and its log."""

    def __init__(self, run: Path, log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", log
        command = [sys.executable, "-m", "spamlit", "serve", "--run", str(run), "--port", str(port), *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        with log.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and answer; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("/health") == (200, {"status": "ok"})
        except urllib.error.URLError:  # nobody listens yet
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT)


@contextmanager
def served(run: Path, log: Path, *options: str) -> Iterator[Server]:
    """A server that is ready, and does not outlive the block."""
    server = Server(run, log, *options)
    try:
        deadline = time.monotonic() + WAIT
        while not server.ready():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
