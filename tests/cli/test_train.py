"""The training command: what is refused and how, sweeps, resuming, Ctrl-C."""

import json
import signal
import time

import pandas as pd
import pytest
from click.testing import CliRunner
from tests.cli.command import run
from tests.synthetic import write_collection

from spamlit.cli import main as spamlit
from spamlit.cli.train import resumed

REFUSED = {
    "model.trainable=last_blok": "last_blok: choose one of none, head, last_block",
    "model.pooling=middle": "middle: choose one of last_nonpad",
    "model.pooling=last": "data.padding=fixed",
    "model.last_k=2": "model.last_k=2",
    "model.layers=[2,3]": "model.layers=[2, 3]: choose block counts",
    "model.layers=3": "model.layers=3: choose a list",
    "model.trainable=last_k": "model.last_k=None",
    "model.trainable=lora model.last_k=5": "1..4",
    "model.trainable=lora model.lora.rank=0": "model.lora.rank=0: choose a whole number from 1 on",
    "model.trainable=lora model.lora.alpha=-1": "model.lora.alpha=-1",
    "model.trainable=lora model.lora.targets=[query,q_proj]": "there is no q_proj",
    "model.trainable=lora model.lora.targets=gate": "tiny has no gate",
    "model.lora.rank=4": "choose model.trainable=lora",
    "backbone.n_layer=99": "1..4",
    "data.max_length=5000": "1024",
    "data.max_length=0": "data.max_length=0",
    "data.batch_size=1000": "data.batch_size=1000 with data.drop_last leaves no batch",
    "data.batch_size=1 trainer.limit_train_batches=0": "trainer.limit_train_batches=0 leaves nothing to train on",
    "data.batch_size=1 trainer=ddp-cpu": "data.batch_size=1 counts all processes together",
    "trainer.max_epochs=0": "trainer.max_epochs=0 leaves nothing to train on",
    "trainer.max_steps=0": "choose another number, or model.trainable=none",
    "data.split=halves": "grouped, random, challenge",
    "data.fractions=[0.8,0.1,0.2]": "add up to 1",
    "data.source=missing.txt": "missing.txt",
    "data=csv data.source=???": "data.source is not set",
    "optimizer.lr=abc": "optimizer.lr=abc",
    "optimizer.lr=0": "optimizer.lr=0",
    "optimizer.decay=none": "optimizer.decay=none: choose one of all, matrices",
    "backbone.weights=pretraind": "choose one of pretrained, random, random_torch",
    "backbone.name=gpt3": "backbone.name=gpt3: choose one of gpt2",
    "trainer.gradient_clip_val=1 trainer.precision=bf16-mixed": "optimizer.fused=false",
    "trainer=gpu": "needs an NVIDIA GPU",
    "trainer.precision=bf17": "bf17",
    "callbacks.last.every_n_steps=0": "every_n_steps=0",
    "scheduler.warmup=2": "scheduler.warmup=2",
    "ckpt=nowhere": "nowhere is not a run folder",
    "ckpt=nowhere -m": "nowhere is not the folder of a sweep",
    "ckpt=latest -m": "it has no multirun.yaml",
    "threads=0": "threads=0",
    "threshold=best": "threshold=best: choose argmax, f1",
    "threshold={fpr:2}": "threshold={fpr:2}: choose a share above 0 and below 1",
    "threshold={fpr:0.01,recall:0.9}": "or one of precision, recall, fpr, cost",
    "calibrate=often": "calibrate=often: choose true or false",
    "unsure=[0.7,0.3]": "unsure=[0.7, 0.3]: choose two probabilities",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_refused_with_the_value_and_the_fix(folder, capsys, monkeypatch, overrides):
    """And before a backbone is loaded, or the frozen part computed."""
    monkeypatch.setattr("spamlit.training.train.load_backbone", lambda **_: pytest.fail("a backbone was loaded"))
    assert run(*overrides.split()) == 2
    error = capsys.readouterr().err
    assert REFUSED[overrides] in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "said"), [("model.trainabel=head", "trainabel"), ("backbone=gpt3", "smollm2-135m")]
)
def test_unknown_keys_and_groups_are_refused_by_hydra(folder, capsys, overrides, said):
    assert run(overrides) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("ham\thello\nspam\n", "line 2"),
        ("ham\thello\nham\tanother\n", "spam"),
        ("ham\tone\nspam\ttwo\nham\tthree\n", "split"),
    ],
    ids=["malformed", "one class", "too few"],
)
def test_data_that_cannot_be_used_is_refused(folder, capsys, lines, said):
    (folder / "collection").write_text(lines)
    assert run() == 2
    assert said in capsys.readouterr().err


def test_one_failed_job_does_not_lose_the_others(folder, capsys):
    assert run("-m", "model.trainable=head,last_blok,last_block", "hydra.sweep.dir=sweep") == 1
    said = capsys.readouterr()
    assert "1 of the jobs failed" in said.err
    assert "last_blok" in said.err
    assert [(folder / f"sweep/{n}/metrics.json").exists() for n in range(3)] == [True, False, True]
    table = CliRunner().invoke(spamlit, ["compare", "sweep"])
    assert table.exit_code == 0, table.output
    written = pd.read_csv("sweep/compare.csv")
    assert written["model.trainable"].tolist() == list(
        written.sort_values("val/f1", ascending=False)["model.trainable"]
    )
    assert set(written["model.trainable"]) == {"head", "last_block"}


def test_a_sweep_of_several_processes_is_refused(folder, capsys):
    assert run("-m", "trainer=ddp-cpu", "seed=1,2", "hydra.sweep.dir=sweep") == 1
    assert "cannot be part of a sweep" in capsys.readouterr().err


def test_predict_goes_through_the_bundle(folder):
    assert run("hydra.run.dir=outputs/2026-01-01/10-00-00") == 0
    done = CliRunner().invoke(
        spamlit, ["predict", "--run", "latest", "Call now to claim your prize!", "see you tonight"]
    )
    assert done.exit_code == 0, done.output
    assert [line.split()[0] in ("spam", "ham") for line in done.output.splitlines()] == [True, True]
    percent = CliRunner().invoke(spamlit, ["predict", "--percent", "Call now to claim your prize!"]).output.split()[1]
    assert float(percent.removesuffix("%")) == pytest.approx(100 * float(done.output.split()[1]), abs=0.011)
    assert CliRunner().invoke(spamlit, ["predict", "--run", "nowhere", "text"]).exit_code == 2
    banded = CliRunner().invoke(spamlit, ["predict", "--unsure", "0,1", "--threshold", "1", "see you tonight"]).output
    assert banded.startswith("ham")
    assert banded.endswith("[unsure]\n")
    for band in ("0.3", "a,b", "0.7,0.3"):
        assert CliRunner().invoke(spamlit, ["predict", "--unsure", band, "text"]).exit_code == 2


def test_ckpt_goes_on_with_the_runs_own_settings(folder):
    assert run("model.trainable=head", "seed=3", "hydra.run.dir=first") == 0
    argv = resumed(["ckpt=first", "trainer.max_epochs=4"])
    assert "model.trainable=head" in argv
    assert "seed=3" in argv
    assert argv.count("trainer.max_epochs=4") == 1
    assert "trainer.max_epochs=1" not in argv
    assert f"hydra.run.dir={(folder / 'first').resolve()}" in argv


@pytest.mark.assets
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path, start):
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    endless = ("trainer.max_epochs=100000", "callbacks.last.every_n_steps=1", "hydra.run.dir=run")
    process = start(*endless, cwd=tmp_path)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "python train.py ckpt=run" in errors
    assert not (tmp_path / "run" / "metrics.json").exists()
    again = start("ckpt=run", "trainer.max_epochs=1", cwd=tmp_path)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/accuracy"] >= 0
