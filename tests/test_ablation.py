"""The ablation table: each row is the lesson with a few overrides, fits together, and names its published figures."""

import shlex
import subprocess

import hydra
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from spamlit.cli.train import CONF
from spamlit.model.classifier import Classifier
from spamlit.model.config import CONFIGS
from spamlit.model.gpt import GPT
from spamlit.training.checks import check
from spamlit.training.settings import lora_settings
from spamlit.training.train import make_classifier, make_data, make_trainer

LORA = "model.trainable=lora model.lora.rank=16 model.lora.scaling=alpha model.lora.init=rank"
LORA += " model.lora.targets=[query,key,value,out,gate,up,down,head]"
UNPADDED = "data.batch_size=1 data.padding=longest data.max_length=context model.pooling=last_nonpad"
OVERRIDES = {
    1: "",
    2: "model.pooling=first",
    3: "model.trainable=head",
    4: "model.trainable=last_two_blocks",
    5: "model.trainable=all",
    6: "backbone=gpt2-medium",
    7: "backbone=gpt2-large",
    8: "backbone=gpt2-xl",
    9: "backbone=gpt2-xl model.trainable=all",
    10: "backbone.weights=random_torch model.trainable=all",
    11: f"{LORA} model.lora.alpha=16",
    12: f"{LORA} model.lora.alpha=8 backbone=gpt2-xl",
    13: "data.max_length=context",
    14: UNPADDED,
    15: f"{UNPADDED} trainer.accumulate_grad_batches=8",
    16: "model.pooling=last_nonpad data.padding=longest",
    17: "model.causal=false",
    18: "model.ignore_index=50256",
    19: "model.pooling=mean",
}
MESSAGES = {"train": 1040, "val": 149, "test": 300}  # training's loader drops the incomplete batch
ROWS = sorted((CONF / "experiment" / "ablation").glob("*.yaml"))


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*overrides, "run_dir=none"])


def row(n, *overrides):
    return composed(f"experiment=ablation/row{n:02}", *overrides)


def test_there_are_nineteen():
    assert [path.stem for path in ROWS] == [f"row{n:02}" for n in OVERRIDES] == [f"row{n:02}" for n in range(1, 20)]


@pytest.mark.parametrize("n", OVERRIDES)
def test_a_row_is_the_lesson_with_these_overrides(n):
    ours, same = (OmegaConf.to_container(cfg) for cfg in (row(n), composed("experiment=lesson", *OVERRIDES[n].split())))
    for cfg in (ours, same):
        cfg.pop("published")
    assert ours == same


@pytest.mark.parametrize("n", OVERRIDES)
def test_a_row_fits_together(n):
    """Everything but the weights: data module, trainer, and the classifier on the meta device."""
    cfg = row(n)
    check(cfg)
    make_data(cfg)
    assert make_trainer(cfg).max_epochs == 5
    classifier = make_classifier(cfg, GPT(CONFIGS[cfg.backbone.name]))
    total, trained = classifier.parameter_counts()
    assert total > 124e6
    assert trained == sum(p.numel() for group in optimizer(cfg, classifier).param_groups for p in group["params"])


def optimizer(cfg, classifier: Classifier):
    return hydra.utils.instantiate(cfg.optimizer)([p for p in classifier.parameters() if p.requires_grad])


def test_lora_rows_train_what_the_script_does():
    """Its count, 2,666,528 in appendix E, where the head is frozen under its LoRA; here it is trained: 1,538 more."""
    classifier = make_classifier(row(11), GPT(CONFIGS["gpt2"]))
    assert classifier.parameter_counts()[1] == 2_666_528 + 768 * 2 + 2
    assert [lora_settings(row(n)).scale for n in (11, 12)] == [16, 8]


@pytest.mark.parametrize("n", OVERRIDES)
def test_published_figures_are_those_of_whole_messages(n):
    """A slip in copying would not be a number of messages out of all. One is in the original: row 8's validation."""
    published = row(n).published
    assert published.keys() == {*MESSAGES, "minutes"}
    for split, messages in (MESSAGES | {"train": 1045} if n in (14, 15) else MESSAGES).items():
        possible = {round(100 * k / messages, 2) for k in range(messages + 1)}
        assert (published[split] in possible) == ((n, split) != (8, "val")), split


@pytest.mark.parametrize("n", [n for n in OVERRIDES if n not in (1, 18)])
def test_no_row_shows_the_figures_of_another(n):
    assert row(n).published != row(1).published


def test_any_backbone_and_seed_can_take_a_row():
    cfg = row(11, "backbone=smollm2-135m", "seed=7", "trainer.max_epochs=1")
    check(cfg)
    assert (cfg.backbone.name, cfg.data.seed, cfg.model.trainable) == ("smollm2-135m", 7, "lora")


@pytest.mark.parametrize("rows", ["", "row01,row16"])
def test_make_ablation_runs_the_rows_and_then_tables_them(rows):
    """What `make` would run."""
    variables = ["BACKBONE=gpt2", "SEEDS=1,2", f"ROWS={rows}"]
    told = subprocess.run(
        ["make", "-n", "--no-print-directory", "ablation", *variables],  # even where make runs these tests
        cwd=CONF.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    *_, train, table = [shlex.split(line) for line in told.stdout.replace("\\\n", "").splitlines()]
    assert table[1:] == ["ablation", "outputs/ablation/gpt2"]
    given = dict(text.split("=", 1) for text in train[2:])
    chosen = given.pop("experiment", None) or composed_sweep(given["sweep"])
    assert set(chosen.split(",")) <= {f"ablation/row{n:02}" for n in OVERRIDES}
    assert not rows or chosen == "ablation/row01,ablation/row16"
    assert given == {
        "sweep": "ablation",
        "backbone": "gpt2",
        "seed": "1,2",
        "hydra.sweep.dir": "outputs/ablation/gpt2",  # the same each time: a stopped table goes on
    }


def composed_sweep(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"sweep={name}"], return_hydra_config=True)
    return cfg.hydra.sweeper.params.experiment
