"""The encoder's loop on a tiny random BERT; the pretrained one where its weights are wanted."""

import numpy as np
import pytest
import torch
from tests.synthetic import write_collection
from transformers import BertConfig, BertForSequenceClassification

from spamlit.analysis import encoder
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
    result = encoder.finetuned(splits, 0, epochs=3)
    assert set(result.probabilities) == {"validation", "test"}
    right = (result.probabilities["test"] > 0.5) == (splits.test["label"] == "spam")
    assert right.mean() > 0.9
    assert encoder.load_tokenizer().encode("Free PRIZE!").tokens == ["[CLS]", "free", "prize", "!", "[SEP]"]
