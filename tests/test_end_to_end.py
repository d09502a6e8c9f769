"""The main job on the real collection and the real SmolLM2, cut to three blocks and one epoch to keep it short."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from spamlit.assets import cache_dir
from spamlit.cli.train import CONF
from spamlit.data.datamodule import SMSDataModule
from spamlit.inference.predictor import Predictor
from spamlit.model.bundle import link_or_copy
from spamlit.model.weights import prepared_path
from spamlit.training.train import Run, train

pytestmark = [pytest.mark.assets, pytest.mark.slow]
OVERRIDES = ["backbone.n_layer=3", "trainer.max_epochs=1", "data.reserve=false", "report=false"]
OVERRIDES += ["~callbacks.progress", "+trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's assets, but no activations yet."""
    SMSDataModule(tokenizer="smollm2").prepare_data()
    prepared_path("smollm2-135m")
    cache = tmp_path_factory.mktemp("cache")
    for kind in ("assets", "tokenizers", "weights"):
        (cache / kind).symlink_to(cache_dir() / kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAMLIT_CACHE", str(cache))
        yield


def trained(folder: Path) -> Run:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return train(compose("train", [*OVERRIDES, f"run_dir={folder}"]))


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("run"))


def prefix(run: Run) -> dict[str, object]:
    return json.loads((run.folder / "run.json").read_text())["prefix"]


def test_it_learns(run: Run) -> None:
    """It gives 0.94 (AUPRC 0.99); the same blocks with random weights 0.85 (0.94)."""
    assert run.metrics["test/accuracy"] > 0.9
    assert run.metrics["test/auprc"] > 0.96


def test_a_warm_cache_computes_nothing_anew_and_touches_no_network(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", refuse)  # no pip either
    monkeypatch.setattr("spamlit.training.record.git_revision", lambda _: None)
    again = trained(tmp_path)
    assert prefix(run) == {"cached": True, "computed": 1214}
    assert prefix(again) == {"cached": True, "computed": 0}
    assert again.metrics == run.metrics


@pytest.fixture(scope="module")
def elsewhere(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle alone, copied (the large file linked: what is read are the same bytes)."""
    return Path(
        shutil.copytree(
            run.folder / "classifier", tmp_path_factory.mktemp("elsewhere") / "bundle", copy_function=link_or_copy
        )
    )


@pytest.fixture(scope="module")
def messages(run: Run) -> pd.DataFrame:
    """Text and the run's own probability of each test message."""
    said = pd.read_csv(run.folder / "predictions.csv").query("split == 'test'")
    return said.merge(pd.read_csv(run.folder / "test.csv", keep_default_na=False)[["id", "text"]], on="id")


def test_the_copied_bundle_says_what_the_run_said(
    elsewhere: Path, messages: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "empty"))
    answers = Predictor.load(elsewhere).classify(messages["text"].tolist())
    assert [answer.probability for answer in answers] == pytest.approx(messages["probability"].tolist(), abs=1e-5)
    assert len(messages) == 242
    assert not (tmp_path / "empty").exists()


def test_the_command_says_it_too_with_an_empty_cache_and_no_network(
    elsewhere: Path, messages: pd.DataFrame, tmp_path: Path
) -> None:
    few = messages[~messages["text"].str.startswith("-")].head(8)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"SPAMLIT_CACHE": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "spamlit", "predict", "--run", str(elsewhere), *few["text"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    said = [line.split("  ", 2) for line in done.stdout.splitlines()]
    assert [text for _, _, text in said] == few["text"].tolist()
    assert [float(probability) for _, probability, _ in said] == pytest.approx(few["probability"].tolist(), abs=1e-4)
    assert {label for label, _, _ in said} == {"spam", "ham"}


def test_a_message_gets_its_answer_in_any_company_and_order(elsewhere: Path, messages: pd.DataFrame) -> None:
    predictor, texts = Predictor.load(elsewhere), messages["text"].tolist()[:60]
    together = [answer.probability for answer in predictor.classify(texts)]
    backwards = [answer.probability for answer in predictor.classify(texts[::-1])][::-1]
    alone = [predictor.classify([text])[0].probability for text in texts]
    assert backwards == pytest.approx(together, abs=1e-6)
    assert alone == pytest.approx(together, abs=1e-6)
