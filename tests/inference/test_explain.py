"""Words add up to the decision, whatever the model; they are those of the text, whatever it is written in."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import tiny_run
from tests.synthetic import byte_tokenizer

from spamlit.data.tokenizer import Tokenizer
from spamlit.inference import explain as module
from spamlit.inference.explain import TOLERANCE, Explanation, cost, explain, mean_shares
from spamlit.inference.predictor import Predictor
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import GPT, GPTConfig
from spamlit.model.pooling import POOLINGS, READS_PADDING

TEXT = "WINNER!! Call 09061 now 😀 for a £1000 prize"
LLAMA = GPTConfig(
    "llama-like", vocab_size=300, context=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_inner=48,
    norm="rmsnorm", position="rotary", mlp="swiglu", bias=False,
)  # fmt: skip
GPT2 = GPTConfig("gpt2-like", vocab_size=300, context=64, n_layer=2, n_head=4, n_kv_head=4, n_embd=32, n_inner=64)


def predictor(
    config: GPTConfig = LLAMA,
    pooling: str = "last_nonpad",
    temperature: float = 1.0,
    layers: Sequence[int] | None = None,
) -> Predictor:
    """A random classifier with a decided opinion."""
    classifier = Classifier(GPT.random(config, seed=1), pooling=pooling, layers=layers).eval()
    classifier.head.weight.data.mul_(20)
    settings = {"labels": ["ham", "spam"], "threshold": 0.5, "max_length": 60, "pooling": pooling}
    return Predictor(classifier, byte_tokenizer(), settings | {"temperature": temperature})


def check(explained: Explanation, of: Predictor) -> None:
    """The scores add up to what the Predictor says of the message, less what it says of no words."""
    whole, nothing = of.log_odds([of.tokenizer.encode(explained.text)[: of.max_length], of.tokenizer.encode("")])
    assert sum(word.score for word in explained.words) == pytest.approx(whole - nothing, abs=1e-4)
    assert abs(explained.gap) <= TOLERANCE
    assert (explained.log_odds, explained.baseline) == pytest.approx((whole, nothing), abs=1e-4)
    assert max(abs(word.score) for word in explained.words) > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: config.name)
def test_scores_add_up_in_both_families_and_every_pooling(config: GPTConfig, pooling: str) -> None:
    of = predictor(config, pooling, temperature=1.7)
    check(explain(of, TEXT), of)


def test_scores_add_up_with_lora(tmp_path: Path) -> None:
    changes = ["model.trainable=lora", "optimizer.lr=1e-2", "data.reserve=false", "data.score_train=false"]
    of = Predictor.load(tiny_run(tmp_path / "run", *changes).folder)
    check(explain(of, "WINNER!! You have won a holiday. Call now to claim"), of)


def test_a_word_that_alone_decides_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that counts one word, it gets the whole effect, and the others none."""
    of = predictor()
    monkeypatch.setattr(Classifier, "reads_on", False)
    ids = set(of.tokenizer.encode(" 09061")[1:])
    monkeypatch.setattr(of, "log_odds", lambda rows: [3.0 * (ids <= set(row)) - 1 for row in rows])
    explained = explain(of, TEXT)
    scores = {TEXT[word.start : word.end]: word.score for word in explained.words}
    assert scores.pop("09061") == pytest.approx(3)
    assert set(scores.values()) == {0.0}
    assert (explained.log_odds, explained.baseline) == (2.0, -1.0)


def test_words_are_those_between_spaces_and_single_ideographs() -> None:
    text = "  You've won\t£1000!!😀\u200d👍 www.a.com/b 你好"
    words = explain(predictor(), text).words
    assert [text[w.start : w.end] for w in words] == ["You've", "won", "£1000!!😀\u200d👍", "www.a.com/b", "你", "好"]


@given(text=st.text(max_size=40))
def test_words_cover_what_was_read_of_any_text(text: str) -> None:
    explained = explain(predictor(), text)
    spans = [(word.start, word.end) for word in explained.words]
    assert spans == sorted(spans)
    assert all(a_end <= b_start for (_, a_end), (b_start, _) in pairwise(spans))
    if len(byte_tokenizer().encode(text)) <= 60:
        covered = "".join(text[start:end] for start, end in spans)
        assert "".join(covered.split()) == "".join(text.split())


def test_what_is_cut_off_is_not_explained() -> None:
    of = predictor()
    text = "x " * 100
    assert len(explain(of, text).words) == 31  # one of one token, 29 of two, and one whose first alone is read


def test_nothing_is_explained_by_nothing() -> None:
    explained = explain(predictor(), " \n")
    assert explained.words == ()
    assert explained.log_odds == explained.baseline


@pytest.mark.parametrize("pooling", [pooling for pooling in POOLINGS if pooling not in READS_PADDING])
@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=lambda config: config.name)
def test_one_pass_says_of_each_excerpt_what_the_predictor_says(config: GPTConfig, pooling: str) -> None:
    of = predictor(config, pooling, temperature=0.8, layers=[1, 2])
    text = "win a £5 prize now"
    starts = [0, 3, 5, 8, 14]  # of the words, each with the space before it
    values = np.full((6, 6), of.log_odds([[of.tokenizer.pad_id]])[0])
    for i, j in combinations(range(6), 2):
        values[i, j] = of.log_odds([of.tokenizer.encode(text[starts[i] : [*starts, None][j]])])[0]
    scores = [word.score for word in explain(of, text).words]
    assert scores == pytest.approx(mean_shares(values).tolist(), abs=1e-3)


def test_mean_shares_are_the_mean_over_all_ways_to_grow() -> None:
    n = 5
    values = np.random.default_rng(0).normal(size=(n + 1, n + 1))
    values[range(n + 1), range(n + 1)] = 0.25

    def grown(left: int, right: int, chance: float) -> Iterator[tuple[int, float, float]]:
        """(word, chance, share) of every step from the excerpt of words left to right - 1 on."""
        before, outside = values[left, right], n - (right - left)
        if left:
            yield left - 1, chance * left / outside, values[left - 1, right] - before
            yield from grown(left - 1, right, chance * left / outside)
        if right < n:
            yield right, chance * (n - right) / outside, values[left, right + 1] - before
            yield from grown(left, right + 1, chance * (n - right) / outside)

    expected = np.zeros(n)
    for first in range(n):
        expected[first] += (values[first, first + 1] - 0.25) / n
        for word, chance, share in grown(first, first + 1, 1 / n):
            expected[word] += chance * share
    assert mean_shares(values) == pytest.approx(expected)
    assert expected.sum() == pytest.approx(values[0, n] - 0.25)


def test_sampled_ways_come_near_the_exact_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    of = predictor()
    exact = [word.score for word in explain(of, TEXT).words]
    monkeypatch.setattr(Classifier, "reads_on", False)
    monkeypatch.setattr(module, "SAMPLED_TOKENS", 300_000)
    sampled = [word.score for word in explain(of, TEXT).words]
    assert np.corrcoef(exact, sampled)[0, 1] > 0.98


def test_the_cost_is_what_the_model_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    of, read = predictor(), []
    once, log_odds = cost(of, TEXT), of.log_odds
    monkeypatch.setattr(Classifier, "reads_on", False)
    monkeypatch.setattr(of, "log_odds", lambda rows: read.append(sum(map(len, rows))) or log_odds(rows))
    explain(of, TEXT)
    assert sum(read) == pytest.approx(cost(of, TEXT), rel=0.3)
    assert once < cost(of, TEXT)


def test_a_model_whose_excerpts_do_not_add_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of = predictor()
    monkeypatch.setattr(of, "log_odds", lambda rows: [float("nan")] * len(rows))
    with pytest.raises(ArithmeticError, match=r"off by nan.*WINNER"):
        explain(of, TEXT)
    monkeypatch.setattr(of, "log_odds", lambda rows: [7.0, -7.0])  # not what the passes over the words say
    with pytest.raises(ArithmeticError, match=r"off by .*WINNER"):
        explain(of, TEXT)


@given(text=st.text(max_size=40))
def test_offsets_are_where_each_token_s_bytes_are(text: str) -> None:
    ids, spans = byte_tokenizer().encode_with_offsets(text)
    assert ids == byte_tokenizer().encode(text)
    assert len(ids) == len(spans)
    for i, (start, end) in zip(ids, spans, strict=True):
        assert text == "" or start < end
        assert i == byte_tokenizer().pad_id or byte_tokenizer().decode([i]).strip("\ufffd") in text[start:end]
    assert {at for start, end in spans for at in range(start, end)} == set(range(len(text)))


def test_offsets_skip_bytes_without_a_token() -> None:
    ranks = {bytes([byte]): n for n, byte in enumerate(b for b in range(256) if b != 7)}
    tokenizer = Tokenizer("lacking", ranks=ranks, pattern=r"\s+|\S+", special={"<pad>": 255}, pad_id=255)
    assert tokenizer.encode_with_offsets("a\x07é")[1] == [(0, 1), (2, 3), (2, 3)]
    assert tokenizer.encode_with_offsets("\x07") == ([255], [(0, 1)])
