"""The real commands as processes that need no time to start, so that many can be killed.

They are forked from a server that has imported torch, Lightning and spamlit, and computed nothing; what a process does
then is what `python train.py …` and `spamlit …` do. Their tokenizer is made of bytes and needs no file.
"""

import functools
import importlib
import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
IMPORTED = ["tests.faults.processes", "spamlit.cli.train", "spamlit.training.train", "spamlit.cli.summary"]
IMPORTED += ["spamlit.analysis.report", "spamlit.analysis.compare", "spamlit.inference.predictor"]
CONTEXT.set_forkserver_preload(IMPORTED)
TOUCHING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.rmtree")
"""Audit events with a path first."""
DEADLINE = 240.0
"""Seconds after which a process counts as hung."""

TINY = ["backbone=tiny", "optimizer.lr=1e-3", "threads=1", "explain=false", "~callbacks.progress"]
TINY += ["+trainer.enable_progress_bar=false", "data.source=collection"]


@dataclass
class Started:
    """A running command."""

    process: BaseProcess
    said: Path

    def kill(self) -> None:
        """Ends it as the kernel does when memory is short; it may have ended already."""
        if self.process.pid and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def wait(self) -> int:
        """Its exit code.

        Raises:
            AssertionError: it does not end.
        """
        self.process.join(DEADLINE)
        if self.process.is_alive():
            self.kill()
            raise AssertionError(f"hung: {self.said.read_text()}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def killed(self) -> None:
        """Waits for its end by SIGKILL."""
        code = self.wait()
        assert code == -signal.SIGKILL, f"not killed, exit code {code}: {self.said.read_text()}"

    def done(self) -> str:
        """What it said, when it ended well."""
        code = self.wait()
        assert code == 0, f"exit code {code}: {self.said.read_text()}"
        return self.said.read_text()


def start(
    command: Sequence[str], cwd: Path, *, before: Callable[..., None] | None = None, given: Sequence[Any] = ()
) -> Started:
    """Starts `train …` or `spamlit …` in a folder; its cache is `cwd/cache`, unless SPAMLIT_CACHE is in `before`.

    Args:
        command: `["train", "seed=1"]`, `["predict", "--run", …]`.
        cwd: where.
        before: called in the process first, with `given`: limits, other assets.
        given: what it is called with.
    """
    said = cwd / f"said-{time.monotonic_ns()}.txt"
    process = CONTEXT.Process(target=_child, args=(list(command), cwd, said, before, tuple(given)))
    process.start()
    return Started(process, said)


def train(cwd: Path, *overrides: str, **how: Any) -> Started:
    """`python train.py` with a tiny backbone on `cwd/collection`."""
    return start(["train", *TINY, *overrides], cwd, **how)


def kill_at_path(pattern: str, times: int, within: float) -> None:
    """In a process: SIGKILL when it touches paths of a pattern so many times, or a bit later."""
    found, seen = re.compile(pattern).search, itertools.count(1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        paths = [str(path) for path in arguments[:2] if isinstance(path, str | Path)] if event in TOUCHING else ()
        if any(map(found, paths)) and next(seen) == times:
            _kill_self(within)

    sys.addaudithook(watch)


def kill_in_call(what: str, times: int, within: float) -> None:
    """In a process: SIGKILL in a method, `module:Class.method`, called so many times, or a bit later."""
    module, _, name = what.partition(":")
    owner, seen = getattr(importlib.import_module(module), name.split(".")[0]), itertools.count(1)
    method = getattr(owner, name.split(".")[1])

    def called(*arguments: Any) -> Any:
        if next(seen) == times:
            _kill_self(within)
        return method(*arguments)

    setattr(owner, method.__name__, functools.wraps(method)(called))


def _kill_self(within: float) -> None:
    kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    if within:
        threading.Timer(within, kill).start()
    else:
        kill()


def _child(command: list[str], cwd: Path, said: Path, before: Callable[..., None] | None, given: Sequence[Any]) -> None:
    os.chdir(cwd)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["SPAMLIT_CACHE"] = str(cwd / "cache")
    import torch
    from tests.synthetic import byte_tokenizer

    import spamlit.data.datamodule
    from spamlit import cli
    from spamlit.cli.train import main as train_command

    torch.set_num_threads(1)
    spamlit.data.datamodule.load_tokenizer = lambda name: byte_tokenizer()
    if before is not None:
        before(*given)
    if command[0] == "train":
        train_command(command[1:])
    else:
        cli.main(command)
    sys.exit(0)
