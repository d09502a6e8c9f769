"""A real run of the recipe in a second: a tiny random GPT, ninety synthetic messages, a tokenizer without files."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.synthetic import byte_tokenizer, write_collection

from spamlit.cli.train import CONF
from spamlit.training.train import Run, train

SMALL = ["backbone=tiny", "trainer.max_epochs=1", "optimizer.lr=1e-3"]
SMALL += ["trainer.log_every_n_steps=1", "~callbacks.progress", "+trainer.enable_progress_bar=false"]


def tiny_run(folder: Path, *overrides: str) -> Run:
    """Trains with the real configuration, shrunk, into `folder`; like a command's it gets .hydra/overrides.yaml."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    collection = write_collection(folder / "collection", n_ham=60, n_spam=30)
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(CONF), version_base="1.3"):
        patch.setenv("SPAMLIT_CACHE", str(folder / "cache"))
        patch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
        return train(compose("train", [*SMALL, f"data.source={collection}", f"run_dir={folder}", *overrides]))
