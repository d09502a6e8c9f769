"""Figures that are no numbers stop a run and lose nothing; seeds and messages mean the same in any surroundings."""

import csv
import json
import math
import random
import re
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from tests.cli.command import run, started
from tests.faults.outcome import Lost, Wrong, cases
from tests.inference.bundles import FAMILIES, random_bundle
from tests.synthetic import HAM, SPAM, byte_tokenizer, messages, write_collection
from torch import Tensor

from spamlit.cli import main as spamlit
from spamlit.inference import predictor as inference
from spamlit.inference.predictor import Prediction, Predictor
from spamlit.model.classifier import Classifier
from spamlit.training.divergence import DivergedError, check_finite, told_by_id
from spamlit.training.module import SpamModule

LONG = ("trainer.max_epochs=3", "model.dropout=0.2", "trainer.val_check_interval=2")
STEPS = 15
CLOSE = 2e-6
"""Of probabilities: what is left to the order in which float32 numbers are added up."""


def spoil_gradient(losses: Tensor) -> Tensor:
    losses.register_hook(lambda gradient: gradient * math.nan)
    return losses


SPOILT = {
    "NaN": lambda losses: losses * math.nan,
    "overflow": lambda losses: losses * 1e30 * 1e30,
    "gradient": spoil_gradient,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The metrics of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPAMLIT_CACHE", str(folder / "cache"))
        patch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
        write_collection(folder / "collection", n_ham=60, n_spam=30)
        assert run(*LONG, "hydra.run.dir=run") == 0
    return json.loads((folder / "run/metrics.json").read_text())


@pytest.mark.fault("numerics", "training")
@pytest.mark.parametrize("case", cases(2, 40))
def test_what_is_no_number_stops_training_and_costs_no_more_than_the_step(
    case: int,
    folder: Path,
    undisturbed: dict[str, float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = random.Random(case)
    how, step, every = drawn.choice(list(SPOILT)), drawn.randrange(STEPS), drawn.choice([1, 2, 3, 100])
    training_step, learn, rows = SpamModule.training_step, Classifier.learn, []

    def spoilt(*given: Any) -> tuple[Tensor, Tensor]:
        logits, losses = learn(*given)
        return logits, SPOILT[how](losses)

    def watched(module: SpamModule, batch: Any, batch_idx: int) -> Tensor:
        due = module.global_step == step
        patch.setattr(Classifier, "learn", spoilt if due else learn)
        rows.extend(batch.index.tolist() if due else [])
        return training_step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SpamModule, "training_step", watched)
        code = run(*LONG, f"callbacks.last.every_n_steps={every}", "hydra.run.dir=run")
    said = capsys.readouterr().err
    if code != 2 or Path("run/metrics.json").exists() or Path("run/classifier").exists():
        raise Wrong(f"exit code {code}: {said}")
    with Path("run/train.csv").open() as file:
        ids = [message["id"] for message in csv.DictReader(file)]
    assert f"of train.csv, by id: {', '.join(ids[row] for row in rows)}. " in said
    good = re.search(r"The last good checkpoint is (\S+) \(step (\d+)\)", said)
    if good:
        checkpoint = torch.load(good[1], weights_only=True)
        assert checkpoint["global_step"] == int(good[2]) <= step
        if not all(value.isfinite().all() for value in checkpoint["state_dict"].values()):
            raise Wrong(f"{good[1]} is not good")
    elif step >= 2:  # where validation was sound
        raise Lost(said)
    assert run(*LONG, "ckpt=run") == 0
    if json.loads(Path("run/metrics.json").read_text()) != undisturbed:
        raise Lost("going on from the last checkpoint does not end where the undisturbed run does")


@pytest.mark.fault("numerics", "two processes")
def test_what_one_process_finds_stops_all_and_names_all_rows() -> None:
    """What is sound here, and not in the other process."""
    here, there = torch.tensor([4, 5]), torch.tensor([6, -1])
    strategy: Any = SimpleNamespace(
        reduce=lambda finite, reduce_op: (finite + 0.0) / 2, all_gather=lambda rows: torch.stack([rows, there])
    )
    with pytest.raises(DivergedError, match="the loss is NaN") as caught:
        check_finite(torch.zeros(2), "the loss", "train", here, 3, strategy)
    assert caught.value.rows == [4, 5, 6]


def test_every_learning_rate_is_named(tmp_path: Path) -> None:
    splits: Any = SimpleNamespace(train=pd.DataFrame({"id": [7, 8]}))
    rates = {"optimizer.lr": 2e-3, "model.head.block": 1e-3}
    advice = "by id: 8. .* with optimizer.lr below 0.002 or model.head.block below 0.001, or"
    with pytest.raises(FloatingPointError, match=advice), told_by_id(splits, tmp_path, rates):
        raise DivergedError("the loss is NaN", "train", torch.tensor([1, -1]), 0)


@pytest.mark.assets
@pytest.mark.fault("numerics", "two processes")
def test_two_processes_end_and_say_why(tmp_path: Path) -> None:
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    overrides = ("trainer=ddp-cpu", "model.trainable=head", "optimizer.lr=3e38", "hydra.run.dir=run")
    process = started(*overrides, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    if process.returncode != 2 or (tmp_path / "run/metrics.json").exists():
        raise Wrong(f"exit code {process.returncode}: {said}")
    assert re.search(r"^error: .* of train\.csv, by id: (\d+, ){7}\d+\. ", said, re.M), said  # of both


@pytest.mark.fault("numerics", "training")
@pytest.mark.parametrize("choices", [("model.trainable=head",), ("evaluate=last", "~callbacks.best")], ids=" ".join)
def test_a_learning_rate_that_destroys_the_weights_gives_no_classifier(
    folder: Path, choices: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(*choices, "optimizer.lr=3e38", "optimizer.weight_decay=0", "hydra.run.dir=run")
    said = capsys.readouterr().err
    if code != 2 or Path("run/metrics.json").exists() or Path("run/classifier").exists():
        raise Wrong(f"exit code {code}: {said}")
    assert "Start again with optimizer.lr below 3e+38, or with" in said


def left_behind(folder: Path) -> dict[str, Any]:
    """What must be the same of two runs that are the same."""
    names = ("metrics.json", "predictions.csv", "train.csv", "classifier/model.safetensors")
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {name: (folder / name).read_bytes() for name in names} | {
        name: value.tolist() for name, value in last["state_dict"].items()
    }


VARIANTS = (
    ("model.dropout=0.2",),
    ("model.dropout=0.2", "data.padding=longest"),
    ("model.trainable=lora", "model.dropout=0.1"),
    ("model.trainable=all", "data.obfuscate=1"),
)


@pytest.mark.fault("numerics", "same seed")
@pytest.mark.parametrize("case", cases(1, 12))
def test_the_number_of_data_workers_changes_nothing(folder: Path, case: int) -> None:
    drawn = random.Random(case)
    choices = (*VARIANTS[case % len(VARIANTS)], f"seed={drawn.randrange(1000)}", "trainer.max_epochs=2")
    workers = drawn.choice([1, 2, 3])
    assert run(*choices, "hydra.run.dir=without") == 0
    assert run(*choices, f"data.num_workers={workers}", "hydra.run.dir=with") == 0
    if left_behind(Path("with")) != left_behind(Path("without")):
        raise Wrong(f"{workers} workers are not none, with {' '.join(choices)}")


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.fault("numerics", "same seed")
@pytest.mark.parametrize("case", cases(1, 4))
def test_two_processes_with_the_same_seed_are_the_same_run(
    tmp_path: Path, start: Any, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    runs = []
    for salt, workers in ((1, 0), (2, 2)):  # sets and dictionaries of another order
        monkeypatch.setenv("PYTHONHASHSEED", str(salt))
        choices = (*VARIANTS[case], f"data.num_workers={workers}", "data.prefix_cache=false")
        process = start(*choices, f"hydra.run.dir=run-{salt}", cwd=tmp_path)
        said = process.communicate()[1]
        assert process.returncode == 0, said
        runs.append(left_behind(tmp_path / f"run-{salt}"))
    if runs[0] != runs[1]:
        raise Wrong("the same seed gave another run")


def texts_of(seed: int) -> list[str]:
    """Messages of every length, and some that are odd, in an order drawn from the seed."""
    drawn = random.Random(seed)
    texts = [*islice(messages(HAM, drawn), 30), *islice(messages(SPAM, drawn), 30)]
    texts += ["", " ", "x", "£ ü 😀", "\u202e\0", *("long " * drawn.randrange(1, 40) for _ in range(10)), texts[0]]
    drawn.shuffle(texts)
    return texts


def same(found: list[Prediction], wanted: list[Prediction], threshold: float) -> None:
    """Raises Wrong where they are not: probabilities within CLOSE, labels equal unless that near to the threshold."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        on_the_edge = abs(other.probability - threshold) <= CLOSE
        if abs(one.probability - other.probability) > CLOSE or not (one.label == other.label or on_the_edge):
            raise Wrong(f"{one} is not {other}")


@pytest.fixture(scope="module", params=FAMILIES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundles") / request.param, request.param)


@pytest.mark.fault("numerics", "prediction")
@pytest.mark.parametrize("case", cases(3, 60))
def test_company_batch_size_padding_and_order_change_no_answer(
    bundle: Path, case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, texts = Predictor.load(bundle), texts_of(case)
    alone = {text: predictor.classify([text])[0] for text in texts}
    drawn = random.Random(case)
    monkeypatch.setattr(inference, "BATCH_TOKENS", drawn.choice([1, 64, 500, 4096]))
    monkeypatch.setattr(inference, "TOGETHER", drawn.choice([1, 7, 8192]))
    predictor.pad_to = drawn.choice([None, predictor.max_length])
    drawn.shuffle(texts)
    same(predictor.classify(texts), [alone[text] for text in texts], predictor.threshold)


@pytest.mark.fault("numerics", "prediction")
@pytest.mark.parametrize("case", cases(1, 10))
def test_the_rows_of_a_file_in_another_order_get_the_same_answers(bundle: Path, case: int, tmp_path: Path) -> None:
    texts = [text for text in texts_of(case) if "\0" not in text]
    answers = []
    for order in (range(len(texts)), random.Random(case).sample(range(len(texts)), len(texts))):
        source, target = tmp_path / f"in-{len(answers)}.csv", tmp_path / f"out-{len(answers)}.csv"
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *([i, texts[i]] for i in order)])
        command = ["predict", "--run", str(bundle), "--input", str(source), "--column", "text", "--output", str(target)]
        done = CliRunner().invoke(spamlit, command)
        assert done.exit_code == 0, done.output
        with target.open(newline="") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        assert {int(i): row["text"] for i, row in rows.items()} == dict(enumerate(texts))
        in_order = [rows[str(i)] for i in sorted(order)]
        answers.append([Prediction(row["label"], float(row["probability"]), "") for row in in_order])
    same(*answers, Predictor.load(bundle).threshold)


@pytest.mark.fault("numerics", "prediction")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_label_nothing(bundle: Path, value: float) -> None:
    predictor = Predictor.load(bundle)
    predictor.classifier.head.weight = torch.nn.Parameter(torch.full_like(predictor.classifier.head.weight, value))
    with pytest.raises(FloatingPointError, match="its weights are damaged"):
        predictor.classify(["hello"])
