"""The lesson's loss curve: equal weights, the lesson's own loaders and loop on one side, `experiment=lesson` here."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from tests import lesson
from tests.synthetic import byte_tokenizer, write_collection

from spamlit.analysis.report import read_scalars
from spamlit.assets import fetch
from spamlit.cli.train import CONF
from spamlit.data.tokenizer import load_tokenizer
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS, GPT, GPTConfig
from spamlit.model.weights import load_backbone
from spamlit.training import train as recipe
from spamlit.training.module import SpamModule

SMALL = GPTConfig("small", 265, 256, n_layer=3, n_head=4, n_kv_head=4, n_embd=64, n_inner=256)
CLOSE = 1e-5  # the promise is 1e-4; measured: 3e-7
QUIET = ["~callbacks.progress", "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """All cores for what runs only alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1 if "long" in request.keywords else 1)
    yield
    torch.set_num_threads(before)


def random_backbone(config: GPTConfig) -> GPT:
    """Random in every parameter: GPT-2's initialisation alone would not tell one bias from another."""
    model, generator = GPT.random(config), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def configuration(run: Path, *overrides: str, experiment: str = "lesson"):
    run.mkdir(exist_ok=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"experiment={experiment}", *QUIET, f"run_dir={run}", *overrides])


def first_losses(cfg, backbone: GPT, steps: int = 20) -> list[float]:
    """Of the recipe's own data, classifier, optimizer and trainer, with everything computed live."""
    recipe.quiet()
    data = recipe.make_data(cfg)
    data.prepare_data()
    data.setup()
    classifier = recipe.make_classifier(cfg, backbone)
    module = SpamModule(classifier, instantiate(cfg.optimizer), total_steps=steps, ignore_index=cfg.model.ignore_index)
    recipe.make_trainer(cfg).fit(module, datamodule=data)
    losses = logged_losses(Path(cfg.run_dir))
    assert len(losses) == steps
    return losses


def logged_losses(run: Path) -> list[float]:
    """The training losses as TensorBoard shows them, one a step."""
    return read_scalars(run / "tensorboard")["train/loss"][1]


@pytest.mark.parametrize("cached", [True, False])
def test_the_losses_and_accuracies_of_the_lesson(tmp_path, monkeypatch, cached):
    """The whole recipe, past the lesson's evaluations (steps 0 and 50) and epochs, which all move its random order."""
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CONFIGS, "small", SMALL)
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    monkeypatch.setattr(recipe, "load_backbone", lambda **_: random_backbone(SMALL))
    collection = write_collection(tmp_path / "collection", n_ham=160, n_spam=100)
    model = lesson.model_with_weights_of(random_backbone(SMALL))
    lesson.new_head(model)
    loaders = lesson.loaders(collection, tmp_path, byte_tokenizer())
    theirs = lesson.training_losses(model, loaders, epochs=4)

    overrides = ["backbone.name=small", "backbone.weights=random", f"data.source={collection}", "report=false"]
    cfg = configuration(tmp_path / "run", *overrides, "trainer.max_epochs=4", f"data.prefix_cache={cached}")
    run = recipe.train(cfg)
    ours = logged_losses(run.folder)
    assert len(theirs) > 50
    assert ours == pytest.approx(theirs, abs=CLOSE)
    for split in ("val", "test"):  # training's loader drops the incomplete batch
        accuracy = lesson.chapter(6).calc_accuracy_loader(loaders[split], model, "cpu")
        assert run.metrics[f"{split}/accuracy"] == pytest.approx(accuracy)


# How the ablation script trains each row, where it is not as in row 1.
PAD = byte_tokenizer().pad_id
ROWS = {
    1: {},
    2: {"read": lambda logits, ids: logits[:, 0]},
    3: {"trained": "head"},
    4: {"trained": "last_two_blocks"},
    5: {"trained": "all"},
    10: {"trained": "all", "pretrained": False},
    11: {"trained": "lora", "rank": 16, "alpha": 16},
    14: {"batch_size": 1, "padded": False},
    15: {"batch_size": 1, "padded": False, "accumulate": 8},
    16: {"read": lambda logits, ids: logits[torch.arange(len(ids)), (ids != PAD).sum(dim=1) - 1]},
    17: {"causal": False},
    18: {},
    19: {"read": lambda logits, ids: logits.mean(dim=1)},
}


@pytest.fixture
def row_losses(tmp_path, monkeypatch):
    """row_losses(5, config): the first twenty losses of a row, the script's and ours, from equal random weights."""

    def losses(
        row: int,
        config: GPTConfig,
        batch_size=8,
        padded=True,
        pretrained=True,
        causal=True,
        read=None,
        accumulate=1,
        **head,
    ):
        monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setitem(CONFIGS, config.name, config)
        monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
        n_spam = 100 if accumulate == 1 else 150  # 20 steps: past an epoch's end, or, accumulating, before it
        collection = write_collection(tmp_path / "collection", n_ham=160, n_spam=n_spam)
        loaders = lesson.loaders(collection, tmp_path, byte_tokenizer(), batch_size, padded)
        model = lesson.model_with_weights_of(random_backbone(config)) if pretrained else lesson.new_model(config)
        lesson.new_head(model, **head)
        if not causal:
            lesson.without_causal_mask(model)
        theirs = lesson.training_losses(model, loaders, 2, 20 * accumulate, read, accumulate)[
            accumulate - 1 :: accumulate
        ]

        overrides = [f"backbone.name={config.name}", f"data.source={collection}", "trainer.max_steps=20"]
        cfg = configuration(tmp_path / "run", *overrides, experiment=f"ablation/row{row:02}")
        backbone = load_backbone(config.name, weights=cfg.backbone.weights, seed=cfg.seed) if not pretrained else None
        return theirs, first_losses(cfg, backbone or random_backbone(config))

    return losses


@pytest.mark.parametrize("row", ROWS)
def test_the_first_twenty_losses_of_the_rows(row_losses, row):
    theirs, ours = row_losses(row, SMALL, **ROWS[row])
    assert len(theirs) == 20
    assert ours == pytest.approx(theirs, abs=CLOSE)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS)
def test_the_first_twenty_losses_of_the_rows_at_the_lessons_size(row_losses, row):
    """GPT-2 124M; short messages, so that a row is a minute: python -m pytest -m long."""
    theirs, ours = row_losses(row, CONFIGS["gpt2"], **ROWS[row])
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("pooling", ["last", "last_nonpad"])
def test_the_logits_of_the_lesson(pooling):
    """Position -1, and the last real token (row 16 of its table)."""
    lengths, generator = torch.tensor([40, 7, 1]), torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 264, (3, 40), generator=generator)
    tokens[torch.arange(40) >= lengths[:, None]] = 264
    model = lesson.model_with_weights_of(random_backbone(SMALL))
    lesson.new_head(model)
    classifier = Classifier(random_backbone(SMALL), pooling=pooling).eval()
    with torch.no_grad():
        theirs = model(tokens)  # (B, T, 2)
        expected = theirs[:, -1] if pooling == "last" else theirs[torch.arange(3), lengths - 1]
        torch.testing.assert_close(classifier(tokens, lengths), expected, rtol=0, atol=1e-5)


@pytest.mark.assets
@pytest.mark.slow
def test_the_first_twenty_losses_at_the_lessons_size(tmp_path, monkeypatch):
    """GPT-2 124M, the real collection, 120 tokens; the frozen part is computed for what twenty steps read."""
    monkeypatch.setattr("spamlit.training.prefix_cache.cache_dir", lambda: tmp_path)
    backbone = random_backbone(CONFIGS["gpt2"])
    model = lesson.model_with_weights_of(backbone)
    lesson.new_head(model)
    loaders = lesson.loaders(fetch("SMSSpamCollection"), tmp_path, load_tokenizer("gpt2"))
    theirs = lesson.training_losses(model, loaders, steps=20)

    recipe.quiet()
    cfg = configuration(tmp_path / "run", "backbone.weights=random", "trainer.max_steps=20")
    data = recipe.make_data(cfg)
    data.prepare_data()
    data.setup()
    batches = list(islice(data.train_dataloader(), 20))
    assert data.max_length == loaders["train"].dataset.max_length == 120
    classifier = recipe.make_classifier(cfg, backbone)
    monkeypatch.setattr(data, "ids", lambda split: [row for batch in batches for row in batch.tokens.tolist()])
    cache = recipe.make_prefix_cache(cfg, classifier, data, ("train",))
    module = SpamModule(classifier, instantiate(cfg.optimizer), total_steps=20, prefix=cache)
    recipe.make_trainer(cfg).fit(module, datamodule=data)
    ours = logged_losses(tmp_path / "run")
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, abs=CLOSE)
