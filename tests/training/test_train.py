"""The recipe as behaviour: what a run leaves behind, and what must not change its results."""

import json

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import spamlit.training.train as recipe
from spamlit.analysis.figures import read_scalars
from spamlit.data.batch import Example, collate
from spamlit.data.splits import read_split
from spamlit.inference.predictor import Predictor
from spamlit.model.classifier import TRAINABLES
from spamlit.training.checks import check
from spamlit.training.decision import Decision, decide
from spamlit.training.metrics import METRICS
from spamlit.training.module import SpamModule
from spamlit.training.train import make_trainer


def same(first, second, tolerance=1e-5, but=()):
    """Whether two runs' figures agree."""
    names = [name for name in first if not name.endswith(but or ("-",))]
    return first.keys() == second.keys() and all(abs(first[n] - second[n]) <= tolerance for n in names)


# messages that begin alike get the same probability from `first`, up to the last bits: their rank is chance
TIES = {"first": ("auprc",)}


def weights(run):
    return {name: value.clone() for name, value in run.module.classifier.trained_state().items()}


def weights_with_gradients(run):
    """Without the key's bias: softmax ignores it, so its gradient is rounding noise, which Adam scales up."""
    return {name: value for name, value in weights(run).items() if not name.endswith("key.bias")}


def test_run_folder_holds_the_contract(run):
    done = run()
    metrics = json.loads((done.folder / "metrics.json").read_text())
    record = json.loads((done.folder / "run.json").read_text())
    figures = (*METRICS, "ece", "brier")
    names = {f"{split}/{figure}" for split in ("train", "val", "test") for figure in figures}
    assert metrics.keys() == names | {"reserve/fpr", "reserve/n"}
    assert record["timing"].keys() >= {"assets", "prepare", "prefix", "fit", "test", "total"}
    assert sum(v for k, v in record["timing"].items() if k != "total") == pytest.approx(
        record["timing"]["total"], abs=0.1
    )
    assert record["backbone"]["trained"] < record["backbone"]["parameters"]
    assert record["data"]["counts"]["train"] == {"ham": 21, "spam": 21}
    for name in (
        "classifier/model.safetensors",
        "classifier/config.json",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    ):
        assert (done.folder / name).is_file()
    for split in ("train", "validation", "test"):
        assert len(pd.read_csv(done.folder / f"{split}.csv")) == sum(record["data"]["counts"][split].values())
    assert list((done.folder / "tensorboard").glob("events*"))
    assert not list(done.folder.rglob("*.part"))


def test_checkpoints_hold_what_is_trained_and_no_pickle(run):
    done = run()
    checkpoint = torch.load(done.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == {f"classifier.{name}" for name in weights(done)}


@pytest.mark.parametrize("trainable", TRAINABLES)
def test_every_choice_of_what_is_trained_runs(run, trainable):
    more = ["model.last_k=3"] if trainable == "last_k" else []
    done = run(f"model.trainable={trainable}", *more)
    assert done.trainer.global_step == (0 if trainable == "none" else 10)


def test_nothing_trained_is_what_training_starts_from(run, monkeypatch):
    """Accuracy before training, as a run of its own: the figures of the same head on the same messages."""
    before = run("model.trainable=none", folder="before")
    monkeypatch.setattr(recipe, "fit", lambda *_: None)
    assert before.metrics == pytest.approx(run("model.trainable=all", folder="never").metrics, abs=1e-5)


def test_the_newest_checkpoints_of_steps_are_kept(run):
    done = run("callbacks=steps", "callbacks.steps.every_n_train_steps=3")
    assert done.trainer.global_step == 10
    kept = {path.name for path in (done.folder / "checkpoints").glob("step*")}
    assert kept == {"step-6.ckpt", "step-9.ckpt"}


def test_evaluation_and_logging_by_steps_across_epochs(run):
    done = run("trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null", "trainer.log_every_n_steps=2")
    steps = {tag: at for tag, (at, _) in read_scalars(done.folder / "tensorboard").items()}
    assert steps["train/loss"] == [1, 3, 5, 7, 9]
    assert {tuple(steps[f"val/{name}"]) for name in METRICS} == {(3, 7)}  # counted from 0


def test_debug_fast_is_four_steps_from_end_to_end(run):
    done = run("debug=fast", "trainer.max_epochs=1")
    assert done.trainer.global_step == 4
    assert (done.folder / "classifier" / "model.safetensors").is_file()


def test_overfitting_sees_the_same_batches_again(run, monkeypatch):
    seen, step = [], SpamModule.training_step
    monkeypatch.setattr(
        SpamModule, "training_step", lambda self, batch, i: seen.append(batch.index.tolist()) or step(self, batch, i)
    )
    run("debug=overfit", "trainer.overfit_batches=2", "trainer.max_epochs=3")
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]


def test_the_training_split_is_scored_only_where_wanted(run):
    done = run("data.score_train=false", "data.prefix_cache=true")
    assert {name.split("/")[0] for name in done.metrics} == {"val", "test", "reserve"}
    assert "train" not in set(pd.read_csv(done.folder / "predictions.csv")["split"])


def test_training_learns(run):
    assert run("trainer.max_epochs=15", "model.trainable=all").metrics["test/accuracy"] > 0.9


def test_same_seed_same_run(run):
    first, second = run("model.dropout=0.1", folder="a"), run("model.dropout=0.1", folder="b")
    assert first.metrics == second.metrics
    other = run("model.dropout=0.1", "seed=5", folder="c")
    assert first.metrics != other.metrics


@pytest.mark.parametrize("trainable", ["head", "last_block", "last_two_blocks"])
@pytest.mark.parametrize("pooling", ["last_nonpad", "mean_nonpad", "first"])
def test_cached_prefix_changes_nothing(run, trainable, pooling):
    choices = [f"model.trainable={trainable}", f"model.pooling={pooling}"]
    cached, live = run(*choices, folder="a"), run(*choices, "data.prefix_cache=false", folder="b")
    assert same(cached.metrics, live.metrics, but=TIES.get(pooling))
    for name, value in weights_with_gradients(live).items():
        torch.testing.assert_close(weights_with_gradients(cached)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainable", ["head", "last_block", "lora"])
@pytest.mark.parametrize("pooling", ["mean_nonfirst", "last_nonpad"])
def test_cached_prefix_changes_nothing_where_layers_are_read(run, trainable, pooling):
    choices = [f"model.trainable={trainable}", f"model.pooling={pooling}", "model.layers=[1,3]", "backbone.n_layer=3"]
    more = ["model.last_k=1"] if trainable == "lora" else []
    cached = run(*choices, *more, folder="a")
    live = run(*choices, *more, "data.prefix_cache=false", folder="b")
    assert cached.module.prefix.computed
    assert same(cached.metrics, live.metrics)
    table = pd.read_csv(cached.folder / "predictions.csv").query("split == 'test'")
    answers = Predictor.load(cached.folder).classify(pd.read_csv(cached.folder / "test.csv")["text"].tolist())
    assert [answer.probability for answer in answers] == pytest.approx(table["probability"].tolist(), abs=1e-5)


def test_other_layers_are_other_stores(run):
    layers = {"a": "[1,3]", "b": "[2,3]", "c": "null"}
    choices = ["model.trainable=head", "backbone.n_layer=3"]
    runs = [run(*choices, f"model.layers={read}", folder=folder) for folder, read in layers.items()]
    assert len({done.module.prefix.folder for done in runs}) == 3


@pytest.mark.parametrize("choice", ["model.lora.targets=[value,down]", "model.lora.scaling=alpha"])
def test_cached_prefix_changes_nothing_below_lora(run, choice):
    choices = ["model.trainable=lora", "model.last_k=2", "model.lora.rank=2", choice]
    cached, live = run(*choices, folder="a"), run(*choices, "data.prefix_cache=false", folder="b")
    assert cached.module.prefix.computed
    assert same(cached.metrics, live.metrics)


def test_a_lora_run_is_tested_and_bundled_alike(run):
    """Both merged; the checkpoint, like the bundle's file, holds the matrices and the head alone."""
    done = run("model.trainable=lora", "trainer.max_epochs=4", "optimizer.lr=1e-2")
    table = pd.read_csv(done.folder / "predictions.csv").query("split == 'test'")
    answers = Predictor.load(done.folder).classify(pd.read_csv(done.folder / "test.csv")["text"].tolist())
    assert [answer.probability for answer in answers] == pytest.approx(table["probability"].tolist(), abs=1e-6)
    names = weights(done).keys()
    assert all(name.startswith("head.") or ".lora_" in name for name in names)
    checkpoint = torch.load(done.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == {f"classifier.{name}" for name in names}
    record = json.loads((done.folder / "run.json").read_text())
    assert record["backbone"]["trained"] == sum(value.numel() for value in weights(done).values())
    assert record["hyperparameters"]["model.lora.rank"] == 8


def test_cached_prefix_is_kept_in_the_runs_precision(run):
    choices = ["trainer.precision=bf16-mixed", "evaluate=last"]
    cached, live = run(*choices, folder="a"), run(*choices, "data.prefix_cache=false", folder="b")
    assert cached.module.prefix.dtype == torch.bfloat16
    assert same(cached.metrics, live.metrics, tolerance=0.05)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_cached_prefix_changes_nothing_where_padding_is_read(run, pooling):
    choices = [f"model.pooling={pooling}", "data.padding=fixed"]
    cached, live = run(*choices, folder="a"), run(*choices, "data.prefix_cache=false", folder="b")
    assert same(cached.metrics, live.metrics)


@pytest.mark.parametrize("pooling", ["last_nonpad", "mean_nonpad", "first"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing_where_it_is_not_read(run, pooling, causal):
    choices = [f"model.pooling={pooling}", f"model.causal={causal}", "trainer.max_epochs=1"]
    longest = run(*choices, "data.padding=longest", folder="a")
    fixed = run(*choices, "data.padding=fixed", "data.prefix_cache=false", folder="b")
    assert same(longest.metrics, fixed.metrics, but=TIES.get(pooling))


def test_predictions_are_those_of_the_metrics(run):
    done = run()
    table = pd.read_csv(done.folder / "predictions.csv")
    test = table[table["split"] == "test"]
    right = (test["probability"] >= 0.5) == (test["label"] == "spam")
    assert right.mean() == pytest.approx(done.metrics["test/accuracy"])
    reserve = table[table["split"] == "reserve"]
    assert len(reserve) == done.metrics["reserve/n"]
    assert (reserve["probability"] >= 0.5).mean() == pytest.approx(done.metrics["reserve/fpr"])


def test_by_default_scores_are_taken_as_they_are(run):
    """What a batch-wise count of argmax gave before thresholds could be chosen."""
    done = run()
    assert done.module.decision == Decision()
    _, logits, labels = done.module.outputs["test"]
    assert done.metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert done.metrics["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    said = pd.read_csv(done.folder / "predictions.csv").query("split == 'test'")["probability"]
    assert said.tolist() == pytest.approx(logits.softmax(1)[:, 1].tolist())
    settings = json.loads((done.folder / "classifier" / "config.json").read_text())
    assert [settings[k] for k in ("threshold", "temperature", "threshold_policy", "unsure")] == [
        0.5,
        1.0,
        "argmax",
        None,
    ]


def test_validation_chooses_what_everything_else_uses(run):
    chosen = ["threshold={recall:0.5}", "calibrate=true", "unsure=[0.2,0.8]", "trainer.max_epochs=6"]
    done, plain = run(*chosen, folder="a"), run("trainer.max_epochs=6", folder="b")
    _, logits, labels = plain.module.outputs["validation"]
    decision = decide(logits, labels, {"recall": 0.5}, calibrate=True)
    assert decision == done.module.decision
    assert decision.temperature != 1
    table = pd.read_csv(done.folder / "predictions.csv")
    test = table[table["split"] == "test"]
    expected = decision.probability(plain.module.outputs["test"].logits)
    assert test["probability"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    right = (test["probability"] >= decision.threshold) == (test["label"] == "spam")
    assert done.metrics["test/accuracy"] == pytest.approx(right.mean())
    reserve = table[table["split"] == "reserve"]["probability"]
    assert done.metrics["reserve/fpr"] == pytest.approx((reserve >= decision.threshold).mean())
    record = json.loads((done.folder / "run.json").read_text())["decision"]
    assert (record["policy"], record["threshold"], record["temperature"], record["unsure"], record["bins"]) == (
        {"recall": 0.5}, decision.threshold, decision.temperature, [0.2, 0.8], 10,
    )  # fmt: skip
    for split, name in {"validation": "val", "test": "test"}.items():
        for figure in ("ece", "brier"):
            assert record["calibration"][split]["after"][figure] == done.metrics[f"{name}/{figure}"]
            assert record["calibration"][split]["before"][figure] == plain.metrics[f"{name}/{figure}"]
    answers = Predictor.load(done.folder).classify(pd.read_csv(done.folder / "test.csv")["text"].tolist())
    assert [a.probability for a in answers] == pytest.approx(test["probability"].tolist(), abs=1e-6)
    assert {a.flag for a in answers if 0.2 <= a.probability <= 0.8} == {"unsure"}


def test_a_target_out_of_reach_is_said_and_recorded(run, caplog):
    done = run("threshold={fpr:0.001}")
    assert "'fpr': 0.001} is more than 3 ham and 3 spam of validation can promise" in caplog.text
    record = json.loads((done.folder / "run.json").read_text())["decision"]
    assert (record["attained"], record["estimate"]) == (False, pytest.approx(1 / 4))
    table = pd.read_csv(done.folder / "predictions.csv").query("split == 'validation' and label == 'ham'")
    assert (table["probability"] < record["threshold"]).all()


def test_best_weights_are_the_ones_tested(run):
    done = run("trainer.max_epochs=4", "optimizer.lr=0.05")
    best = torch.load(done.folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(best[f"classifier.{name}"], value) for name, value in weights(done).items())
    last = run("trainer.max_epochs=4", "optimizer.lr=0.05", "evaluate=last", folder="b")
    assert last.metrics["val/loss"] >= done.metrics["val/loss"]


def test_what_joined_the_training_split_is_told_and_predicted(run, tmp_path):
    extra = tmp_path / "extra.csv"
    extra.write_text("label,text\nspam,Your toll is unpaid\nham,Your table is booked\n")
    more = [f"data.extra=[{extra}]", "data.obfuscate=1", "data.normalise=unicode", "trainer.max_epochs=1"]
    done, live = run(*more, folder="a"), run(*more, "data.prefix_cache=false", folder="b")
    assert same(done.metrics, live.metrics)
    record = json.loads((done.folder / "run.json").read_text())["data"]
    assert record["train_from"] == {"source": 42, str(extra): 2, "disguised": 42}
    assert record["counts"]["train"] == {"ham": 43, "spam": 43}
    assert record["extra"].keys() == {str(extra)}
    table = pd.read_csv(done.folder / "predictions.csv").query("split == 'train'")
    rows = read_split(done.folder / "train.csv")
    assert rows["id"].is_unique
    assert table[["id", "label"]].values.tolist() == rows[["id", "label"]].values.tolist()
    answers = Predictor.load(done.folder).classify(rows["text"].tolist())
    assert [answer.probability for answer in answers] == pytest.approx(table["probability"].tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.normalise=nfkc", "data.normalise=nfkc is not known"),
        ("data.obfuscate=-2", "data.obfuscate=-2"),
        ("data.extra=modern", r"data.extra=modern: expected a list"),
        ("data.extra=[no/such.csv]", "no/such.csv .*is not a file"),
    ],
)
def test_nonsense_about_the_text_is_refused_before_anything_is_loaded(config, override, message):
    with pytest.raises(ValueError, match=message):
        check(config(override))


def test_a_callback_that_is_null_is_none(config):
    with_null, plain = (
        [type(callback) for callback in make_trainer(config(*more)).callbacks] for more in (["callbacks.last=null"], [])
    )
    assert len(with_null) == len(plain) - 1


def test_class_weights_and_gradient_accumulation_run(run):
    assert run("data.balance=class_weights", "trainer.accumulate_grad_batches=2").trainer.global_step > 0


def test_a_label_that_the_loss_ignores_is_not_learned(run):
    more = ["model.trainable=all", "trainer.max_epochs=6"]
    plain, nothing = run(*more, folder="a"), run(*more, "model.ignore_index=50256", folder="b")
    assert nothing.metrics == plain.metrics
    ham_only = run(*more, "model.ignore_index=1", "evaluate=last", folder="c")
    assert ham_only.metrics["test/recall"] == 0 < plain.metrics["test/recall"]
    spam_only = run(*more, "model.ignore_index=0", "evaluate=last", "data.batch_size=2", folder="d")
    assert spam_only.metrics["test/recall"] == 1


def test_early_stopping_stops(run):
    done = run("callbacks=early_stopping", "trainer.max_epochs=50", "optimizer.lr=0.5")
    assert done.trainer.current_epoch < 50


def test_a_run_without_logger_is_whole(run):
    done = run("~logger")
    assert done.metrics["test/loss"] > 0
    assert not (done.folder / "tensorboard").exists()


PERCEPTRONS = ["model.trainable=head", "model.pooling=mean_nonfirst", "model.layers=[2,4]", "optimizer.lr=1e-2"]
PERCEPTRONS += ["model.head.hidden=16", "model.head.members=2", "model.head.dropout=0.1", "model.head.spelling=64"]


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A table of messages worded like none of the collection's."""
    path = tmp_path_factory.mktemp("added") / "extra.csv"
    rows = [(label, f"{word} {n}") for n in range(8) for label, word in (("spam", "toll unpaid"), ("ham", "your code"))]
    pd.DataFrame([(label, f"{text} {'abcdefgh'[i % 8]}") for i, (label, text) in enumerate(rows)]).to_csv(
        path, header=["label", "text"], index=False
    )
    return path


def test_a_head_of_perceptrons_learns_and_comes_back(run, added):
    done = run(*PERCEPTRONS, "model.head.sources=true", f"data.extra=[{added}]", "trainer.max_epochs=12")
    assert done.metrics["test/accuracy"] > 0.8
    head = done.module.classifier.head
    sources = done.data.sources
    assert sources.tolist() == [0] * 42 + [1] * (len(sources) - 42)
    vectors = torch.cat(
        [done.module.classifier.prefix(torch.tensor([ids]), torch.tensor([len(ids)])) for ids in done.data.ids("train")]
    )
    torch.testing.assert_close(head.mean[: vectors.shape[1]], vectors.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        head.scale[: vectors.shape[1]], 1 / (vectors.std(0, correction=0) + 1e-6), rtol=1e-2, atol=1e-3
    )
    predicted = pd.read_csv(done.folder / "predictions.csv").query("split == 'test'")
    answers = Predictor.load(done.folder).classify(done.data.texts("test"))
    assert [a.probability for a in answers] == pytest.approx(predicted["probability"].tolist(), abs=1e-5)


BLOCK = [*PERCEPTRONS, "model.head.sources=true", "model.head.block=3e-3", "data.obfuscate=1", "trainer.max_epochs=3"]
BLOCK += ["data.score_train=false"]


def test_a_block_of_the_heads_own_learns_from_the_own_messages_as_written(run, added):
    done = run(*BLOCK, f"data.extra=[{added}]")
    origins = done.data.splits.train["origin"].tolist()
    assert done.data.as_written.tolist() == [origin == "source" for origin in origins]
    assert 0 < sum(done.data.as_written) < len(origins)
    block, backbone = done.module.classifier.block.block, done.module.classifier.backbone.blocks[-1]
    assert not torch.equal(block.mlp.up.weight, backbone.mlp.up.weight)
    rates = [group["initial_lr"] for group in done.trainer.optimizers[0].param_groups]
    assert rates == [1e-2, 3e-3]
    predicted = pd.read_csv(done.folder / "predictions.csv").query("split == 'test'")
    answers = Predictor.load(done.folder).classify(done.data.texts("test"))
    assert [a.probability for a in answers] == pytest.approx(predicted["probability"].tolist(), abs=1e-5)


def test_a_block_of_the_heads_own_learns_the_same_without_the_cache(run, added):
    cached, live = (run(*BLOCK, f"data.extra=[{added}]", f"data.prefix_cache={on}") for on in ("true", "false"))
    for name, value in cached.module.classifier.block.state_dict().items():
        torch.testing.assert_close(live.module.classifier.block.state_dict()[name], value, rtol=1e-3, atol=5e-4)
    assert live.metrics["test/loss"] == pytest.approx(cached.metrics["test/loss"], rel=1e-3)


def test_a_batch_of_added_messages_alone_teaches_the_block_nothing(run, added):
    done = run(*BLOCK, f"data.extra=[{added}]", "model.trainable=none")
    rows = torch.tensor([row for row, plain in enumerate(done.data.as_written) if not plain][:4])
    ids = [done.data.ids("train")[row] for row in rows]
    batch = collate([Example(i, 1, row) for row, i in zip(rows.tolist(), ids, strict=True)], pad_id=0)
    done.module.classifier.set_trainable("head")
    losses = done.module._block_losses(batch, batch.labels, None)
    losses.sum().backward()
    assert losses.tolist() == [0, 0, 0, 0]
    assert all(not parameter.grad.any() for parameter in done.module.classifier.block.parameters())


def test_a_block_of_the_heads_own_goes_with_frozen_ones(config, added):
    with pytest.raises(ValueError, match=r"model.head.block=0.003 .* choose model.trainable=head, not last_block"):
        check(config(*BLOCK, f"data.extra=[{added}]", "model.trainable=last_block"))
    with pytest.raises(ValueError, match=r"model.head.block=0.003 reads no padding, model.pooling=mean does"):
        check(config(*BLOCK, f"data.extra=[{added}]", "model.pooling=mean", "data.padding=fixed"))


def test_a_gate_needs_two_kinds_of_source(config):
    with pytest.raises(ValueError, match=r"model.head.sources=true .* give data.extra"):
        check(config(*PERCEPTRONS, "model.head.sources=true"))
