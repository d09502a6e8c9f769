"""SIGKILL at any moment: the same command, or `ckpt=`, ends as if nothing had been.

Moments are random, or a phase's: the process is killed when it touches a phase's file, or is in a phase's method, for a
random number of times, or a random little later. Each case's number is its seed.
"""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.faults.finished import (
    check_cache,
    check_killed,
    check_same,
    check_tidy,
    fresh,
    outcome,
    prefix_computed,
)
from tests.faults.outcome import Lost, Wrong, cases
from tests.faults.processes import kill_at_path, kill_in_call, start, train
from tests.loopback import Fault, Loopback
from tests.synthetic import write_collection

from spamlit.assets import ASSETS, Asset, UrlSource, sha256_file, store
from spamlit.training.run_folder import is_finished, stored_overrides

# Messages enough for two shards of the prefix cache; last.ckpt after each step, validation after every other.
RUN = ("trainer.max_epochs=2", "trainer.val_check_interval=2", "callbacks.last.every_n_steps=1", "model.dropout=0.2")
RUN += ("data.balance=none", "data.batch_size=32", "hydra.run.dir=run")
PLAIN = (*RUN, "report=false")


@dataclass
class Reference:
    """An undisturbed run."""

    root: Path
    outcome: dict[str, Any]
    seconds: float
    computed: int


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return undisturbed(tmp_path_factory.getbasetemp() / "undisturbed")


@cache
def undisturbed(root: Path) -> Reference:
    """What all tests of kills and disks compare with; made once."""
    workspace(root)
    began = time.monotonic()
    train(root, *RUN).done()
    return Reference(root, outcome(root / "run"), time.monotonic() - began, prefix_computed(root / "run"))


def workspace(root: Path) -> Path:
    write_collection(fresh(root) / "collection", n_ham=420, n_spam=120)
    return root


# --- runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
        before: what waits for it in the process.
        what: a path's pattern, or a method.
        most: the time it happens is drawn from 1 to this.
        within: seconds that it may go on.
    """

    before: Callable[..., None]
    what: str
    most: int
    within: float = 0.0
    command: tuple[str, ...] = PLAIN


MOMENTS = {
    "prefix pass": Moment(kill_at_path, r"prefix/.*\.part", 6, 0.05),
    "training": Moment(kill_in_call, "spamlit.training.module:SpamModule.training_step", 20, 0.01),
    "validation": Moment(kill_in_call, "spamlit.training.module:SpamModule.validation_step", 12, 0.005),
    "checkpoint writing": Moment(kill_at_path, r"checkpoints/\.(last|best)\.ckpt", 60, 0.001),
    "bundle writing": Moment(kill_at_path, r"run/classifier", 12, 0.002),
    "results writing": Moment(kill_at_path, r"run/\.?(predictions\.csv|run\.json|metrics\.json)", 8),
    "report writing": Moment(kill_at_path, r"run/\.?(metrics\.json|report\.html|curves\.png)", 14, 0.3, RUN),
}


def go_on(root: Path, command: tuple[str, ...], seed: int) -> None:
    """The same command, or `ckpt=` where there is a run to go on with."""
    resumable = stored_overrides(root / "run") is not None
    overrides = ("ckpt=run",) if seed % 2 and resumable else command
    train(root, *overrides).done()


def check_gone_on(root: Path, reference: Reference, command: tuple[str, ...], seed: int) -> None:
    run = root / "run"
    check_killed(root, run, reference.outcome)
    sound = list(root.glob("cache/prefix/*/*.shard"))
    go_on(root, command, seed)
    check_same(run, reference.outcome)
    check_cache(root / "cache")
    check_tidy(root)
    if not is_finished(run):
        raise Wrong(f"{run} is not finished")
    if sound and prefix_computed(run) >= reference.computed:
        raise Lost("the frozen part was computed again")


def kill_in(phase: str, tmp_path: Path, reference: Reference, seed: int) -> None:
    moment, rng, root = MOMENTS[phase], random.Random(seed), workspace(tmp_path / "case")
    given = (moment.what, rng.randint(1, moment.most), rng.uniform(0, moment.within))
    train(root, *moment.command, before=moment.before, given=given).killed()
    check_gone_on(root, reference, moment.command, seed)


@pytest.mark.fault("kill", "prefix pass")
@pytest.mark.parametrize("seed", cases(1, 6))
def test_killed_in_the_prefix_pass(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("prefix pass", tmp_path, reference, seed)


@pytest.mark.fault("kill", "training")
@pytest.mark.parametrize("seed", cases(1, 10))
def test_killed_in_training(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("training", tmp_path, reference, seed)


@pytest.mark.fault("kill", "validation")
@pytest.mark.parametrize("seed", cases(1, 8))
def test_killed_in_validation(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("validation", tmp_path, reference, seed)


@pytest.mark.fault("kill", "checkpoint writing")
@pytest.mark.parametrize("seed", cases(1, 8))
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("checkpoint writing", tmp_path, reference, seed)


@pytest.mark.fault("kill", "bundle writing")
@pytest.mark.parametrize("seed", cases(0, 6))
def test_killed_while_the_bundle_is_written(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("bundle writing", tmp_path, reference, seed)


@pytest.mark.fault("kill", "results writing")
@pytest.mark.parametrize("seed", cases(0, 4))
def test_killed_while_the_results_are_written(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("results writing", tmp_path, reference, seed)


@pytest.mark.fault("kill", "report writing")
@pytest.mark.parametrize("seed", cases(1, 4))
def test_killed_while_the_report_is_written(tmp_path: Path, reference: Reference, seed: int) -> None:
    kill_in("report writing", tmp_path, reference, seed)


@pytest.mark.fault("kill", "any moment of a run")
@pytest.mark.parametrize("seed", cases(0, 12))
def test_killed_again_and_again(tmp_path: Path, reference: Reference, seed: int) -> None:
    """At random moments, up to three times in one run."""
    rng, root = random.Random(1000 + seed), workspace(tmp_path / "case")
    for _ in range(rng.randint(1, 3)):
        resumable = stored_overrides(root / "run") is not None
        process = train(root, *(("ckpt=run",) if resumable else PLAIN))
        time.sleep(rng.uniform(0, reference.seconds))
        process.kill()
        check_killed(root, root / "run", reference.outcome)
    check_gone_on(root, reference, PLAIN, seed)


@pytest.mark.fault("kill", "a finished run begun again")
@pytest.mark.parametrize("seed", cases(1, 4))
def test_a_longer_run_that_was_killed_is_not_taken_for_the_longer_one(
    tmp_path: Path, reference: Reference, seed: int
) -> None:
    """Its folder has the results of the shorter one, and the settings of the longer."""
    root, rng = tmp_path / "case", random.Random(seed)
    shutil.copytree(reference.root, root)
    process = train(root, "ckpt=run", "trainer.max_epochs=50", "report=false")
    while "trainer.max_epochs=50" not in (stored_overrides(root / "run") or []):
        assert process.running, process.said.read_text()
    time.sleep(rng.uniform(0, reference.seconds / 2))
    process.kill()
    if is_finished(root / "run"):
        raise Wrong("the settings of a run that was killed stand beside the metrics of an earlier one")
    start(["compare", "."], root).done()
    if pd.read_csv(root / "compare.csv")["trainer.max_epochs"].tolist() != [2]:
        raise Wrong("`spamlit compare` gives the metrics of two epochs to fifty")
    check_killed(root, root / "run", reference.outcome)


# --- sweeps --------------------------------------------------------------------------------------------------------

SWEEP = ("-m", "model.trainable=head,last_block", "seed=1,2", "trainer.max_epochs=1", "report=false")
SWEEP += ("hydra.sweep.dir=sweep",)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, float]:
    root = workspace(tmp_path_factory.mktemp("sweep") / "undisturbed")
    began = time.monotonic()
    train(root, *SWEEP).done()
    return figures(root / "sweep"), time.monotonic() - began


def figures(sweep: Path) -> pd.DataFrame:
    table = pd.read_csv(sweep / "compare.csv").drop(columns=["run", "seconds"])
    return table.sort_values(sorted(table.columns), ignore_index=True)[sorted(table.columns)]


@pytest.mark.fault("kill", "sweep")
@pytest.mark.parametrize("seed", cases(0, 6))
def test_a_sweep_that_was_killed_ends_in_the_same_table(
    tmp_path: Path, swept: tuple[pd.DataFrame, float], seed: int
) -> None:
    root, rng = workspace(tmp_path / "case"), random.Random(seed)
    process = train(root, *SWEEP)
    time.sleep(rng.uniform(0.2, 1) * swept[1])
    process.kill()
    before = {path: path.read_bytes() for path in root.glob("sweep/*/metrics.json") if is_finished(path.parent)}
    again = ("ckpt=sweep",) if seed % 2 and (root / "sweep/multirun.yaml").exists() else SWEEP
    said = train(root, *again).done()
    if any(path.read_bytes() != content for path, content in before.items()):
        raise Lost("finished jobs were run again")
    assert len(before) in (0, 4) or f"{len(before)} of 4 jobs are finished already" in said
    try:
        pd.testing.assert_frame_equal(figures(root / "sweep"), swept[0])
    except AssertionError as error:
        raise Wrong(str(error)) from error
    check_tidy(root)


# --- fetching ------------------------------------------------------------------------------------------------------

BODY = random.Random(0).randbytes(8_000_000)
NAME = "SMSSpamCollection"


def offer(url: str, sha256: str, size: int) -> None:
    """In the process to be killed: the collection comes from this address, and is this."""
    store.ASSETS = {**ASSETS, NAME: Asset(NAME, sha256, size, (UrlSource(url),))}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loopback, tuple[str, str, int]]]:
    path = tmp_path_factory.mktemp("served") / "body"
    path.write_bytes(BODY)
    with Loopback() as server:
        server.files["/thing"] = BODY
        yield server, (server.url("/thing"), sha256_file(path), len(BODY))


@pytest.mark.fault("kill", "fetch")
@pytest.mark.parametrize("seed", cases(1, 12))
def test_killed_while_fetching(tmp_path: Path, server: tuple[Loopback, tuple[str, str, int]], seed: int) -> None:
    served, given = server
    rng, root = random.Random(seed), fresh(tmp_path / "case")
    served.requests.clear()
    if seed % 2:
        served.faults["/thing"] = [Fault.STALL]  # killed with half of it on the disk, or later
    process = start(["fetch", NAME, "--quiet"], root, before=offer, given=given)
    while not served.gets("/thing"):
        assert process.running, process.said.read_text()
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    there = list(root.glob(f"cache/assets/*/{NAME}"))
    if any(path.read_bytes() != BODY for path in there):
        raise Wrong("half a file has its name in the cache")
    start(["fetch", NAME, "--quiet"], root, before=offer, given=given).done()
    (path,) = root.glob(f"cache/assets/*/{NAME}")
    if path.read_bytes() != BODY:
        raise Wrong("other bytes in the cache")
    if there and served.gets("/thing") > 1:
        raise Lost("what was there was fetched again")
    check_tidy(root)


# --- prediction ----------------------------------------------------------------------------------------------------

ROWS = 6_000


@pytest.fixture(scope="module")
def labelled(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder of tables, of which out.csv and out/ are labelled; and the seconds that out.csv took."""
    root = tmp_path_factory.mktemp("predict")
    rng, texts = random.Random(0), (reference.root / "collection").read_text().splitlines()
    tables = [root / "in.csv", *(root / "in" / f"{n}.csv" for n in range(4))]
    (root / "in").mkdir()
    for table in tables:
        rows = rng.choices(texts, k=ROWS if table.parent == root else ROWS // 8)
        pd.DataFrame({"text": [row.partition("\t")[2] for row in rows]}).to_csv(table, index=False)
    began = time.monotonic()
    start([*predict(reference), "--input", "in.csv", "--output", "out.csv"], root).done()
    took = time.monotonic() - began
    start([*predict(reference), "--input", "in/*.csv", "--output", "out/"], root).done()
    return root, took


def predict(reference: Reference) -> list[str]:
    return ["predict", "--threads", "1", "--run", str(reference.root / "run")]


@pytest.mark.fault("kill", "prediction")
@pytest.mark.parametrize("seed", cases(1, 8))
def test_killed_while_a_file_is_labelled(
    tmp_path: Path, reference: Reference, labelled: tuple[Path, float], seed: int
) -> None:
    folder, took = labelled
    rng, out = random.Random(seed), tmp_path / "out.csv"
    out.write_text("earlier\n")
    command = [*predict(reference), "--input", str(folder / "in.csv"), "--output", "out.csv"]
    given = (r"\.out\.csv\.[0-9a-f]*\.tmp", rng.randint(1, 3), rng.uniform(0, took / 10))
    start(command, tmp_path, before=kill_at_path, given=given).killed()
    if out.read_text() not in ("earlier\n", (folder / "out.csv").read_text()):
        raise Wrong("part of a labelled file stands in place of the earlier one")
    start(command, tmp_path).done()
    if out.read_bytes() != (folder / "out.csv").read_bytes():
        raise Wrong("labelled in another way than undisturbed")
    check_tidy(tmp_path)


@pytest.mark.fault("kill", "prediction, a folder")
@pytest.mark.parametrize("seed", cases(0, 4))
def test_killed_while_a_folder_is_labelled(
    tmp_path: Path, reference: Reference, labelled: tuple[Path, float], seed: int
) -> None:
    folder, took = labelled
    rng, out = random.Random(seed), tmp_path / "out"
    command = [*predict(reference), "--input", str(folder / "in/*.csv"), "--output", "out/"]
    process = start(command, tmp_path)
    time.sleep(rng.uniform(0.1, 1) * took)
    process.kill()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.csv")}
    start(command, tmp_path).done()
    if any(path.stat().st_mtime_ns != when for path, when in before.items()):
        raise Lost("files that were finished were labelled again")
    if any((out / path.name).read_bytes() != path.read_bytes() for path in (folder / "out").iterdir()):
        raise Wrong("labelled in another way than undisturbed")
    check_tidy(tmp_path)
