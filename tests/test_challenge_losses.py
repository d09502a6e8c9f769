"""The challenge's losses: equal weights and batches, the Trainer of `transformers` against `experiment=challenge`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tests.layouts import gpt2_layout
from tests.synthetic import byte_tokenizer, write_collection
from tests.test_lesson_losses import QUIET, SMALL, logged_losses, random_backbone
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

from spamlit.cli.train import CONF
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS, GPTConfig
from spamlit.training import train as recipe
from spamlit.training.module import SpamModule

STEPS = 20


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1 if "long" in request.keywords else 1)
    yield
    torch.set_num_threads(before)


class Recording(Trainer):
    """Takes the batches it is given, in order, and keeps each step's loss."""

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=None)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


def their_losses(classifier: Classifier, batches: list[dict[str, torch.Tensor]], folder: Path) -> list[float]:
    """The challenge's model and Trainer, with the settings it names and the Trainer's defaults for the rest."""
    c = classifier.backbone.config
    shape = {"vocab_size": c.vocab_size, "n_positions": c.context, "n_embd": c.n_embd, "n_layer": c.n_layer}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    pad = {"pad_token_id": byte_tokenizer().pad_id, "bos_token_id": None, "eos_token_id": None}
    model = GPT2ForSequenceClassification(GPT2Config(**shape, n_head=c.n_head, num_labels=2, **dropout, **pad))
    state = {f"transformer.{name}": value for name, value in gpt2_layout(classifier.backbone).items()}
    model.load_state_dict(state | {"score.weight": classifier.head.weight.detach().clone()}, strict=True)
    arguments = TrainingArguments(
        folder,
        max_steps=STEPS,
        learning_rate=5e-5,
        weight_decay=0.01,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Recording(model, arguments, train_dataset=batches)
    trainer.train()
    return trainer.losses


SIZES = [pytest.param(SMALL, id="small"), pytest.param(CONFIGS["gpt2"], id="124M", marks=pytest.mark.long)]


@pytest.mark.parametrize("config", SIZES)
def test_the_first_twenty_losses_of_the_challenge(tmp_path, monkeypatch, config: GPTConfig):
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CONFIGS, config.name, config)
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    collection = write_collection(tmp_path / "collection", n_ham=160, n_spam=100)
    overrides = [f"backbone.name={config.name}", f"data.source={collection}", f"run_dir={tmp_path / 'run'}"]
    changes = ["model.dropout=0", f"trainer.max_steps={STEPS}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["experiment=challenge", *QUIET, *overrides, *changes])
    recipe.quiet()
    data = recipe.make_data(cfg)
    data.prepare_data()
    data.setup()
    classifier = recipe.make_classifier(cfg, random_backbone(config))
    batches = [
        {
            "input_ids": batch.tokens,
            "attention_mask": (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).long(),
            "labels": batch.labels,
        }
        for batch in data.train_dataloader()
    ][:STEPS]
    assert len(batches) == STEPS
    theirs = their_losses(classifier, batches, tmp_path)

    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    module = SpamModule(classifier, optimizer, scheduler, total_steps=STEPS)
    recipe.make_trainer(cfg).fit(module, datamodule=data)
    assert logged_losses(tmp_path / "run") == pytest.approx(theirs, abs=1e-4)
