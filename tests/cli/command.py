"""The training command on a tiny model and ninety messages: in this process, or as one of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from spamlit.cli.train import main

ROOT = Path(__file__).parents[2]
SMALL = ["backbone=tiny", "trainer.max_epochs=1", "optimizer.lr=1e-3", "report=false", "~callbacks.progress"]
SMALL += ["+trainer.enable_progress_bar=false", "data.source=collection"]


def run(*overrides: str) -> int:
    """Runs the command in this process; gives its exit code."""
    argv = sys.argv
    try:
        main([*SMALL, *overrides])
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = argv
    return 0


def started(*overrides: str, cwd: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Starts the command as a process, or by a launcher (arguments of Python); it uses the real vocabulary."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "train.py"), *SMALL, *overrides],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell that started the tests in the background has Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
