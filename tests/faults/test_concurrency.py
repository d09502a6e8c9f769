"""Eight processes at once on an empty cache: one download, one prefix pass, whole runs; nobody waits for the dead."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.finished import check_cache, check_tidy, fresh, prefix_computed
from tests.faults.outcome import Wrong, cases
from tests.faults.processes import Started, train
from tests.faults.test_kill import NAME, offer
from tests.loopback import Loopback
from tests.synthetic import write_collection

from spamlit.assets import sha256_file
from spamlit.training.run_folder import read_json

PROCESSES = 8
BOUND = 240
"""Seconds in which all are to be done on a busy machine; a deadlock takes forever."""
COMMAND = ("data.source=sms", "trainer.max_epochs=1", "report=false", "data.balance=none", "data.batch_size=32")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Loopback, tuple[str, str, int]]]:
    path = write_collection(tmp_path / "served", n_ham=420, n_spam=120)
    with Loopback() as server:
        server.files["/sms"] = path.read_bytes()
        yield server, (server.url("/sms"), sha256_file(path), path.stat().st_size)


def check_runs(root: Path, n: int) -> list[Path]:
    """That there are so many runs, each in a folder of its own, all with the same metrics; gives them."""
    runs = sorted(path.parent for path in root.glob("outputs/*/*/run.json"))
    if len(runs) != n:
        raise Wrong(f"{len(runs)} folders for {n} runs: {runs}")
    metrics = [read_json(run / "metrics.json") for run in runs]
    if any(found != metrics[0] for found in metrics):
        raise Wrong("runs at once differ from each other")
    check_cache(root / "cache")
    check_tidy(root)
    return runs


@pytest.mark.fault("concurrency", "fetch, prefix cache, runs")
@pytest.mark.parametrize("seed", cases(1, 6))
def test_eight_at_once(tmp_path: Path, server: tuple[Loopback, tuple[str, str, int]], seed: int) -> None:
    served, given = server
    rng, root = random.Random(seed), fresh(tmp_path / "case")
    began, started = time.monotonic(), list[Started]()
    for _ in range(PROCESSES):
        started.append(train(root, *COMMAND, before=offer, given=given))
        time.sleep(rng.uniform(0, 0.3) if seed % 2 else 0)
    for process in started:
        process.done()
    assert time.monotonic() - began < BOUND
    runs = check_runs(root, PROCESSES)
    if served.gets("/sms") != 1:
        raise Wrong(f"{served.gets('/sms')} downloads")
    computed = sorted(prefix_computed(run) for run in runs)
    if computed[:-1] != [0] * (PROCESSES - 1):
        raise Wrong(f"the prefix was computed more than once: {computed}")
    assert len(list(root.glob(f"cache/assets/*/{NAME}"))) == 1


@pytest.mark.fault("concurrency", "killed holder of a lock")
@pytest.mark.parametrize("seed", cases(0, 6))
def test_the_dead_hold_nobody_up(tmp_path: Path, server: tuple[Loopback, tuple[str, str, int]], seed: int) -> None:
    """The process that fills the prefix cache is killed while the others wait for it."""
    _, given = server
    rng, root = random.Random(seed), fresh(tmp_path / "case")
    holder = train(root, *COMMAND, "hydra.run.dir=killed", before=offer, given=given)
    others = list[Started]()
    while not any(root.glob("cache/prefix/*/*.part")):
        assert holder.running, holder.said.read_text()
    os.kill(holder.process.pid, signal.SIGSTOP)  # it holds the lock for as long as is wanted
    others = [train(root, *COMMAND, before=offer, given=given) for _ in range(3)]
    time.sleep(rng.uniform(8, 12))
    assert all(process.running for process in others), "they did not wait"
    holder.kill()
    began = time.monotonic()
    for process in others:
        process.done()
    assert time.monotonic() - began < BOUND
    check_runs(root, 3)
