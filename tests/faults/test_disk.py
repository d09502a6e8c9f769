"""A full disk, a quota, a read-only folder: one clear line, a non-zero exit code, and what there was is still there.

Then there is room, and the command goes on.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from tests.faults.disk import limit_files, read_only, resize, size_of, small
from tests.faults.finished import check_cache, check_same, check_tidy, fresh
from tests.faults.outcome import Lost, Wrong, cases
from tests.faults.processes import Started, start, train
from tests.faults.test_kill import BODY, NAME, PLAIN, RUN, Reference, offer, undisturbed, workspace
from tests.loopback import Loopback

from spamlit.assets import sha256_file
from spamlit.training.run_folder import stored_overrides

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return undisturbed(tmp_path_factory.getbasetemp() / "undisturbed")


def check_said(failed: Started, *reasons: str) -> None:
    """That a command failed, with a line that names the reason and without a traceback."""
    code, said = failed.wait(), failed.said.read_text()
    if code == 0:
        raise Wrong(f"it says that all is well: {said}")
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code in (1, 2), f"{code}: {said}"
    assert len(lines) == 1, said
    assert any(reason in lines[0] for reason in reasons), said
    assert "Traceback" not in said or "Exception in thread" in said, said  # TensorBoard's, which raises it here as well


def go_on(root: Path, reference: Reference) -> None:
    resumable = stored_overrides(root / "run") is not None
    train(root, *(("ckpt=run",) if resumable else PLAIN)).done()
    check_same(root / "run", reference.outcome)
    check_tidy(root)


FULL = "No space left"
SHARES = 10


@pytest.mark.fault("full disk", "run folder")
@pytest.mark.parametrize("seed", cases(1, SHARES))
def test_a_disk_that_fills_in_a_run(tmp_path: Path, reference: Reference, seed: int) -> None:
    root = workspace(tmp_path / "case")
    share = (0.6, 0.1, 0.02, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9)[seed]
    with small(root / "run", int(share * size_of(reference.root / "run"))):
        check_said(train(root, *RUN), FULL)
        resize(root / "run", PLENTY)
        go_on(root, reference)


@pytest.mark.fault("full disk", "a finished run begun again")
@pytest.mark.parametrize("seed", cases(1, 4))
def test_what_a_run_wrote_outlasts_a_full_disk(tmp_path: Path, reference: Reference, seed: int) -> None:
    root, room = workspace(tmp_path / "case"), (0, 8192, 40_000, 120_000)[seed]
    with small(root / "run", PLENTY):
        train(root, *PLAIN).done()
        resize(root / "run", size_of(root / "run") + room)
        failed = train(root, *PLAIN, "seed=7")
        if failed.wait() == 0:
            pytest.skip("there was room enough")
        check_said(failed, FULL)
        try:
            check_same(root / "run", reference.outcome)
        except (OSError, ValueError, Wrong) as error:
            if seed == 0:
                raise Lost(f"a full disk spoilt a finished run: {error}") from error
        resize(root / "run", PLENTY)
        train(root, *PLAIN).done()
        check_same(root / "run", reference.outcome)


@pytest.mark.fault("full disk", "prefix cache")
@pytest.mark.parametrize("seed", cases(0, 4))
def test_a_disk_that_fills_with_the_prefix_cache(tmp_path: Path, reference: Reference, seed: int) -> None:
    root, share = workspace(tmp_path / "case"), (0.7, 0.01, 0.3, 0.95)[seed]
    with small(root / "cache", int(share * size_of(reference.root / "cache"))):
        check_said(train(root, *PLAIN), FULL)
        check_cache(root / "cache")
        resize(root / "cache", PLENTY)
        go_on(root, reference)
        check_cache(root / "cache")


@pytest.mark.fault("quota", "run and cache")
@pytest.mark.parametrize("seed", cases(1, 6))
def test_files_that_may_not_grow(tmp_path: Path, reference: Reference, seed: int) -> None:
    root, largest = workspace(tmp_path / "case"), (100_000, 3_000, 3_000_000, 5_000, 50_000, 6_000_000)[seed]
    check_said(train(root, *PLAIN, before=limit_files, given=(largest,)), "File too large")
    go_on(root, reference)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, int]]:
    path = tmp_path_factory.mktemp("served") / "body"
    path.write_bytes(BODY)
    with Loopback() as server:
        server.files["/thing"] = BODY
        yield server.url("/thing"), sha256_file(path), len(BODY)


@pytest.mark.fault("full disk", "fetch")
@pytest.mark.parametrize("seed", cases(1, 3))
def test_a_disk_that_fills_with_a_download(tmp_path: Path, server: tuple[str, str, int], seed: int) -> None:
    root = fresh(tmp_path / "case")
    with small(root / "cache", (4_000_000, 4096 * 3, 7_900_000)[seed]):
        check_said(start(["fetch", NAME], root, before=offer, given=server), FULL.lower())
        check_tidy(root)
        resize(root / "cache", PLENTY)
        start(["fetch", NAME], root, before=offer, given=server).done()


def predict(reference: Reference, output: str) -> list[str]:
    table = reference.root / "in.csv"
    pd.read_csv(reference.root / "run/test.csv")[["id", "text"]].to_csv(table, index=False)
    files = ["--input", str(table), "--output", output]
    return ["predict", "--run", str(reference.root / "run"), *files]


@pytest.mark.fault("full disk", "prediction")
@pytest.mark.parametrize("seed", cases(1, 2))
def test_a_disk_that_fills_with_labelled_messages(tmp_path: Path, reference: Reference, seed: int) -> None:
    out = tmp_path / "out"
    with small(out, 8192):
        (out / "mine.csv").write_text("earlier\n")
        check_said(start(predict(reference, ("out/mine.csv", "out/other.csv")[seed]), tmp_path), FULL)
        if {path.name: path.read_text() for path in out.iterdir()} != {"mine.csv": "earlier\n"}:
            raise Lost("the earlier file is gone, or half a new one is there")
        resize(out, PLENTY)
        start(predict(reference, "out/mine.csv"), tmp_path).done()


READ_ONLY = "Read-only file system"


@pytest.mark.fault("read-only", "outputs")
@pytest.mark.parametrize("seed", cases(1, 3))
def test_outputs_that_are_read_only(tmp_path: Path, reference: Reference, seed: int) -> None:
    root = workspace(tmp_path / "case")
    (root / "outputs").mkdir()
    (root / "run").mkdir()
    (root / "run" / "kept").write_text("kept")
    command = ((*PLAIN, "hydra.run.dir=run"), PLAIN[:-1], ("-m", "seed=1,2", "hydra.sweep.dir=run"))[seed]
    without = tuple(text for text in command if seed != 1 or not text.startswith("hydra.run.dir"))
    with read_only(root / "run"), read_only(root / "outputs"):
        check_said(train(root, *without), READ_ONLY)
    assert [path.name for path in (root / "run").iterdir()] == ["kept"]


@pytest.mark.fault("read-only", "cache")
@pytest.mark.parametrize("seed", cases(1, 2))
def test_a_cache_that_is_read_only(tmp_path: Path, reference: Reference, seed: int) -> None:
    root = workspace(tmp_path / "case")
    (root / "cache").mkdir()
    with read_only(root / "cache"):
        if seed:
            train(root, *PLAIN, "data.prefix_cache=false").done()
        else:
            check_said(train(root, *PLAIN), READ_ONLY)
            assert not any((root / "cache").iterdir())


@pytest.mark.fault("read-only", "prediction")
def test_a_folder_for_labelled_messages_that_is_read_only(tmp_path: Path, reference: Reference) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.csv").write_text("earlier\n")
    with read_only(out):
        check_said(start(predict(reference, "out/mine.csv"), tmp_path), "the folder out cannot be written to")
    if (out / "mine.csv").read_text() != "earlier\n":
        raise Lost("the earlier file is gone")
