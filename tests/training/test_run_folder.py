"""Which folder a user means, and files that are whole or not there."""

import os
from pathlib import Path

import pytest

from spamlit.training.run_folder import RunNotFoundError, find_bundle, find_run, is_bundle, read_json, write_json


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three runs, the newest not finished, one of them a sweep's."""
    names = ["2026-01-01/10-00-00", "multirun/2026-01-02/11-00-00/0", "2026-01-03/12-00-00"]
    for age, name in zip((300, 200, 100), names, strict=True):
        run = tmp_path / "outputs" / name
        (run / ".hydra").mkdir(parents=True)
        if age > 100:
            (run / "classifier").mkdir()
            (run / "classifier" / "config.json").touch()
            (run / "classifier" / "model.safetensors").touch()
        os.utime(run, (1e9 - age, 1e9 - age))
    (tmp_path / "outputs" / "2026-01-04" / "notes").mkdir(parents=True)  # no run
    return tmp_path / "outputs"


def test_latest_is_the_newest_run(outputs: Path) -> None:
    assert find_run("latest", outputs) == outputs / "2026-01-03/12-00-00"


def test_latest_to_predict_with_is_the_newest_finished_one(outputs: Path) -> None:
    assert find_bundle("latest", outputs) == outputs / "multirun/2026-01-02/11-00-00/0/classifier"


def test_a_run_a_bundle_and_a_copied_bundle_can_be_named(outputs: Path, tmp_path: Path) -> None:
    run = outputs / "2026-01-01/10-00-00"
    assert find_run(str(run)) == run
    assert find_bundle(run) == find_bundle(run / "classifier") == run / "classifier"
    (run / "classifier").rename(tmp_path / "copied")
    assert find_bundle(tmp_path / "copied") == tmp_path / "copied"
    assert not is_bundle(run / "classifier")


def test_what_is_no_run_is_refused_with_those_there_are(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"nowhere is not a run folder.*12-00-00.*`latest`"):
        find_run("nowhere", outputs)
    with pytest.raises(RunNotFoundError, match="The newest ones: none"):
        find_run("nowhere", tmp_path)
    with pytest.raises(RunNotFoundError, match=r"no run below .*python train\.py"):
        find_run("latest", tmp_path)


def test_an_unfinished_run_is_refused_with_the_way_to_finish_it(outputs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"did not finish.*ckpt=.*12-00-00"):
        find_bundle(outputs / "2026-01-03/12-00-00", outputs)
    (tmp_path / "only" / "2026-01-03" / "12-00-00" / ".hydra").mkdir(parents=True)
    with pytest.raises(RunNotFoundError, match="did not finish"):
        find_bundle("latest", tmp_path / "only")


def test_json_comes_back_and_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"test/f1": 0.5, "note": "ü"})
    with pytest.raises(TypeError):
        write_json(path, {"test/f1": object()})
    assert read_json(path) == {"test/f1": 0.5, "note": "ü"}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_other_content_is_a_value_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError):
        read_json(tmp_path / "metrics.json")
