"""A run that lets its backbone write messages: what it is shown, what it learns from, and that it does so once."""

import json
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tests.synthetic import SPAM, byte_tokenizer, messages

from spamlit.assets import cache_dir
from spamlit.data.splits import read_split
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.training import generated
from spamlit.training.checks import check


@pytest.fixture
def prompts(monkeypatch):
    """The prompts of a backbone that writes the words of what it is shown in another order; the first has no end."""
    seen = []

    def write(model, ids, max_new_tokens, n_rows, *, stop_ids, generator, **_):
        tokenizer = byte_tokenizer()
        assert {token for i in stop_ids if (token := tokenizer.decode([i])) != "<|endoftext|>"} == {"\n"}
        seen.append(tokenizer.decode(ids))
        words = seen[-1].split()
        rows = [[words[i] for i in torch.randperm(len(words), generator=generator)[:6]] for _ in range(n_rows)]
        return [[65] * max_new_tokens, *(tokenizer.encode(" ".join(row))[: max_new_tokens - 1] for row in rows[1:])]

    monkeypatch.setattr(generated, "generate_many", write)
    return seen


def test_generated_messages_are_learned_from_and_written_once(run, prompts):
    wanted = ["data.generated.spam=12", "data.generated.ham=5"]
    done = run(*wanted, folder="a")
    train = read_split(done.folder / "train.csv")
    own, new = train[train["origin"] == "source"], train[train["origin"] == "generated"]
    assert new["label"].value_counts().to_dict() == {"spam": 12, "ham": 5}
    assert not new["text"].str.startswith("AAAA").any()
    assert {line for prompt in prompts for line in prompt.splitlines()} <= set(own["text"])
    record = json.loads((done.folder / "run.json").read_text())
    assert record["data"]["train_from"] == {"source": 42, "generated": 17}
    assert record["hyperparameters"]["data.generated.spam"] == 12
    card = (done.folder / "classifier" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "17 training messages were written by the backbone itself" in card
    calls = len(prompts)
    assert run(*wanted, folder="b").metrics == done.metrics
    assert len(prompts) == calls
    [kept] = (cache_dir() / "generated").glob("*.json")
    kept.write_text(kept.read_text().replace("spam", "span", 1))
    assert run(*wanted, folder="healed").metrics == done.metrics
    healed = len(prompts)
    assert healed == 2 * calls
    other = run(*wanted, "seed=7", folder="c")
    assert len(prompts) > healed
    assert not set(read_split(other.folder / "train.csv").query("origin == 'generated'")["text"]) & set(new["text"])


def test_nothing_is_written_by_default(config):
    assert generated.make_writer(config(), byte_tokenizer()) is None


def test_the_noise_of_an_untrained_backbone_does_not_join(caplog):
    source = messages(SPAM, random.Random(0))
    train = pd.DataFrame({"label": "spam", "text": [next(source) for _ in range(8)]})
    backbone = GPT.random(replace(CONFIGS["tiny"], vocab_size=265)).eval()
    found = generated.write_messages(backbone, byte_tokenizer(), train, train["text"], {"spam": 3, "ham": 0}, seed=0)
    assert found.empty
    assert "data.generated.spam=3: of 30 messages written only 0" in caplog.text


def test_a_count_that_is_none_is_refused_before_anything_is_loaded(config):
    with pytest.raises(ValueError, match=r"data.generated.ham=-1"):
        check(config("data.generated.ham=-1"))
