"""The real configuration, shrunk: a tiny random GPT, a synthetic collection, a tokenizer without files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tests.synthetic import byte_tokenizer, write_collection

from spamlit.cli.train import CONF
from spamlit.training.train import Run, train

Compose = Callable[..., DictConfig]
Train = Callable[..., Run]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """config("model.trainable=head", folder="a") composes conf/train.yaml for a run in tmp_path / "a"."""
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    collection = tmp_path / "collection"
    write_collection(collection, n_ham=60, n_spam=30)
    small = [
        "backbone=tiny",
        f"data.source={collection}",
        "trainer.max_epochs=2",
        "callbacks=default",
        "~callbacks.progress",
        "+trainer.enable_progress_bar=false",
        "optimizer.lr=1e-3",
    ]

    def composed(*overrides: str, folder: str = "run") -> DictConfig:
        (tmp_path / folder).mkdir(exist_ok=True)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [*small, f"run_dir={tmp_path / folder}", *overrides])

    return composed


@pytest.fixture
def run(config: Compose) -> Train:
    """run("model.trainable=head", folder="a") trains."""
    return lambda *overrides, folder="run": train(config(*overrides, folder=folder))
