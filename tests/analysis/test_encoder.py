"""The encoders' loop on a tiny random BERT; MiniLM where its weights are wanted; DistilBERT from a stand-in hub."""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tests.loopback import Loopback
from tests.synthetic import write_collection
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig, DistilBertForMaskedLM

from spamlit.analysis import encoder, results_page, systems
from spamlit.analysis import results as analysis_results
from spamlit.analysis.systems import SYSTEMS
from spamlit.assets import ASSETS, fetch, store
from spamlit.cli import main
from spamlit.data.sms import parse
from spamlit.data.splits import make_splits


@pytest.fixture
def tiny(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(encoder, "LEARNING_RATE", 1e-2)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, initializer_range=0.2, **size))


def messages(n, seed):
    """Spam has the token 7 somewhere."""
    rng = np.random.default_rng(seed)
    rows = [[2, *rng.integers(10, 50, rng.integers(2, 12)).tolist(), 3] for _ in range(n)]
    return [([*row[:2], 7, *row[2:]], 1) if i % 2 else (row, 0) for i, row in enumerate(rows)]


def test_it_learns_and_keeps_its_best_epoch(tiny):
    train, validation = messages(256, 0), messages(32, 1)
    before = encoder.log_loss(tiny, validation)
    losses = encoder.fit(tiny, train, validation, epochs=12, seed=0)
    assert min(losses) < before / 2
    assert encoder.log_loss(tiny, validation) == pytest.approx(min(losses))
    spam = encoder.probabilities(tiny, [ids for ids, _ in validation])
    assert np.mean((spam > 0.5) == [label for _, label in validation]) > 0.9


def test_padding_and_company_change_nothing(tiny):
    rows = [ids for ids, _ in messages(20, 2)]
    together = encoder.probabilities(tiny, rows)
    alone = [float(encoder.probabilities(tiny, [row])[0]) for row in rows]
    assert together == pytest.approx(alone, abs=1e-6)


def test_an_epoch_sees_each_message_once():
    lengths = np.random.default_rng(0).integers(1, 99, 1000).tolist()
    first, second = (encoder._buckets(lengths, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert sorted(row for batch in first for row in batch) == list(range(1000))
    assert first != second
    assert np.mean([np.ptp([lengths[row] for row in batch]) for batch in first]) < 10


@pytest.mark.assets
@pytest.mark.slow
def test_the_pretrained_one_is_read_whole_and_understands(tmp_path, monkeypatch):
    splits = make_splits(parse(write_collection(tmp_path / "sms", n_ham=60, n_spam=60)), balance="none", seed=0)
    monkeypatch.setattr(encoder, "BATCH", 8)
    result = encoder.finetuned(splits, 0, name="minilm", epochs=3)
    assert set(result.probabilities) == {"validation", "test"}
    right = (result.probabilities["test"] > 0.5) == (splits.test["label"] == "spam")
    assert right.mean() > 0.9
    assert encoder.load_tokenizer(encoder.ENCODERS["minilm"]).encode("Free PRIZE!").tokens == [
        "[CLS]",
        "free",
        "prize",
        "!",
        "[SEP]",
    ]


DISTILBERT = encoder.ENCODERS["distilbert"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The published repository with small random weights under the published names; the pins are of these files."""
    messages = parse(write_collection(tmp_path / "sms", n_ham=80, n_spam=60))
    words = sorted(set(" ".join(messages["text"]).split()))
    vocabulary = {piece: n for n, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    small = partial(DistilBertConfig, vocab_size=len(vocabulary), dim=32, hidden_dim=64, n_layers=1, n_heads=2)
    monkeypatch.setattr(encoder, "DistilBertConfig", small)
    monkeypatch.setattr(encoder, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(encoder, "BATCH", 4)
    state = DistilBertForMaskedLM(small()).state_dict()
    del state["vocab_projector.weight"]  # the embedding, stored once
    save_file(state, tmp_path / "model.safetensors")
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    pinned = {}
    with Loopback() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        for name in (DISTILBERT.weights, DISTILBERT.tokenizer):
            [source] = ASSETS[name].sources
            body = (tmp_path / source.filename).read_bytes()
            server.hub_file(source.repo, source.revision, source.filename, body, large="json" not in name)
            sha256 = hashlib.sha256(body).hexdigest()
            pinned[name] = replace(ASSETS[name], sha256=sha256, size=len(body))
        monkeypatch.setattr(store, "ASSETS", {**ASSETS, **pinned})
        yield server


def results(tmp_path, *systems):
    """The command with these systems, or, where none is named, with all that are left."""
    named = ["--systems", ",".join(systems)] if systems else []
    chosen = [*named, "--protocols", "grouped", "--seeds", "0", "--source", tmp_path / "sms"]
    where = ["--folder", tmp_path / "results", "--to", tmp_path / "docs"]
    return CliRunner().invoke(main, ["results", *map(str, [*chosen, *where])])


def test_distilbert_comes_from_the_hub_and_is_compared(tmp_path, hub):
    done = results(tmp_path, "naive-bayes", "distilbert")
    assert done.exit_code == 0, done.stderr
    assert {path.rsplit("/", 1)[1] for verb, path, _ in hub.requests if verb == "GET"} == {
        "model.safetensors",
        "tokenizer.json",
    }
    predictions = pd.read_csv(tmp_path / "results" / "grouped" / "distilbert" / "0" / "predictions.csv")
    assert set(predictions["split"]) == {"validation", "test"}
    right = (predictions["probability"] > 0.5) == (predictions["label"] == "spam")
    assert right.mean() > 0.9
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| distilbert | own | naive-bayes | 1 |" in page
    body = encoder.load_encoder(DISTILBERT, seed=1).base_model.state_dict()
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(weight, saved[f"distilbert.{name}"]) for name, weight in body.items())


def test_where_the_hub_does_not_answer_distilbert_is_left_out_unless_it_is_named(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    few = {name: SYSTEMS[name] for name in ("distilbert", "naive-bayes")}
    for module in (systems, analysis_results, results_page):
        monkeypatch.setattr(module, "SYSTEMS", few)
    done = results(tmp_path, "distilbert")
    assert done.exit_code == 1
    assert "model hub distilbert/distilbert-base-uncased@12040acc" in done.stderr
    assert not (tmp_path / "docs").exists()
    done = results(tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "left out distilbert: " in done.stderr
    assert "model hub distilbert/distilbert-base-uncased@12040acc" in done.stderr
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| naive-bayes | 1 |" in page
    assert "distilbert" not in page


def test_a_baseline_of_the_package_index_is_not_left_out(tmp_path, hub, monkeypatch):
    few = {"naive-bayes": SYSTEMS["naive-bayes"]}
    for module in (systems, analysis_results, results_page):
        monkeypatch.setattr(module, "SYSTEMS", few)
    monkeypatch.setattr(analysis_results, "fit", lambda *_: fetch("all-MiniLM-L6-v2.safetensors", offline=True))
    done = results(tmp_path)
    assert done.exit_code == 1
    assert "all-MiniLM-L6-v2.safetensors" in done.stderr
    assert "left out" not in done.stderr


def test_other_tensors_than_the_model_has_are_refused(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(encoder, "DistilBertConfig", partial(encoder.DistilBertConfig, n_layers=2))
    with pytest.raises(RuntimeError, match=r"Missing key.*transformer\.layer\.1"):
        encoder.load_encoder(DISTILBERT, seed=0)
