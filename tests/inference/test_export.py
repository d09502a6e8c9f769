"""Exports: what other software says of any text is what the Predictor says, or there is no export."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inference.bundles import full_bundle, random_bundle
from tests.synthetic import byte_tokenizer

from spamlit.cli import main
from spamlit.cli.export import command
from spamlit.data.normalise import normalise
from spamlit.data.tokenizer import load_tokenizer
from spamlit.inference.export import FORMATS, ExportError, export
from spamlit.inference.export import check as checks
from spamlit.inference.export.tokenizer import fast_tokenizer
from spamlit.inference.predictor import Predictor
from spamlit.model.head import HeadSettings

pytest.importorskip("tokenizers")

TEXTS = ["You have won a prize!", "see you <|endoftext|>", "<|endoftext|>", "k", "£ ü 😀 中文\t\x00 1000", "win " * 50]
tricky = st.text(
    st.one_of(
        st.sampled_from("09²½٣Ⅷ \t\n\r\x85\xa0\u2003'sretlldm!?.aZé中ß\x00\x04\x06\x13\x1d<|>"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    ),
    min_size=1,
)

HEAD = HeadSettings(hidden=8, members=2, spelling=32, sources=True, lean=1.0, joint=0.1, block=1e-3)


def card_function(folder: Path, name: str):
    """The function that the export's card shows, run as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "MODEL_CARD.md").read_text(encoding="utf-8"), re.S)
    scope = {"FOLDER": str(folder)}
    exec(code, scope)
    return scope[name]


def assert_same(classify, predictor: Predictor, texts: list[str]) -> None:
    ours, theirs = predictor.classify(texts), classify(texts)
    assert [p for _, p in theirs] == pytest.approx([answer.probability for answer in ours], abs=1e-4)
    sure = [abs(answer.probability - predictor.threshold) > 1e-4 for answer in ours]
    labels = [(label, answer.label) for (label, _), answer in zip(theirs, ours, strict=True)]
    assert all(theirs == ours for (theirs, ours), clear in zip(labels, sure, strict=True) if clear)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def hub(request, tmp_path_factory):
    """A bundle and its folder for transformers, with temperature, bias and typed special tokens in play."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp(request.param)
    bundle = random_bundle(folder / "bundle", request.param, settings={"temperature": 1.7})
    return bundle, export(bundle, "hf", folder / "hub"), request.param


def test_transformers_loads_the_class_and_says_the_same(hub) -> None:
    from transformers import AutoModelForSequenceClassification

    bundle, done, family = hub
    assert done.checked.difference <= 1e-4
    assert done.checked.answers > done.checked.messages > 50
    predictor = Predictor.load(bundle)
    probabilities = [answer.probability for answer in predictor.classify(TEXTS)]
    assert max(probabilities) - min(probabilities) > 0.05  # else anything would be the same
    assert_same(card_function(done.folder, "classify"), predictor, TEXTS)
    model = AutoModelForSequenceClassification.from_pretrained(done.folder)
    assert type(model).__name__ == {"gpt2": "GPT2", "llama": "Llama"}[family] + "ForSequenceClassification"
    assert model.config.id2label == {0: "ham", 1: "spam"}
    assert model.config.pad_token_id == predictor.tokenizer.pad_id
    assert model.config.spamlit["threshold"] == 0.4


def test_transformers_says_the_same_of_any_text(hub) -> None:
    bundle, done, _ = hub
    predictor, classify = Predictor.load(bundle), card_function(done.folder, "classify")

    @settings(max_examples=25)
    @given(st.lists(tricky.filter(str.strip), min_size=1, max_size=6))
    def same(texts: list[str]) -> None:
        assert_same(classify, predictor, texts)

    same()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{"head_bias": False}, {"trainable": "lora"}], ids=str)
def test_heads_without_a_bias_and_lora_for_transformers(tmp_path, family, options) -> None:
    pytest.importorskip("transformers")
    bundle = random_bundle(tmp_path / "bundle", family, **options)
    assert_same(card_function(export(bundle, "hf", tmp_path / "hub").folder, "classify"), Predictor.load(bundle), TEXTS)
    depth = json.loads((tmp_path / "hub" / "config.json").read_text()).get("num_hidden_layers", 3)
    assert depth == 3 + (family == "llama" and "head_bias" not in options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pooling": "mean_nonpad"}, r"model.pooling=mean_nonpad: .* Choose --to onnx"),
        ({"pooling": "first"}, r"model.pooling=first"),
        ({"layers": [1, 3]}, r"model.layers=\[1, 3\]"),
        ({"causal": False}, r"model.causal=false"),
        ({"head": HEAD}, r"model.head.hidden=8"),
    ],
    ids=str,
)
def test_what_transformers_cannot_express_is_refused(tmp_path, options, reason) -> None:
    pytest.importorskip("transformers")
    bundle = random_bundle(tmp_path / "bundle", "gpt2", **options)
    with pytest.raises(ValueError, match=reason):
        export(bundle, "hf", tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"settings": {"temperature": 1.7}}),
        ("llama", {"trainable": "lora"}),
        ("llama", {"pooling": "mean_nonfirst", "causal": False}),
        ("gpt2", {"pooling": "mean", "layers": [1, 3]}),
        ("llama", {"pooling": "mean_nonfirst", "layers": [1, 3], "head": HEAD}),
    ],
    ids=str,
)
def test_onnxruntime_says_the_same(tmp_path, family, options) -> None:
    pytest.importorskip("onnxruntime")
    bundle = random_bundle(tmp_path / "bundle", family, **options)
    done = export(bundle, "onnx", tmp_path / "onnx")
    assert done.checked.difference <= 1e-4
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "MODEL_CARD.md", "config.json", "model.onnx", "tokenizer.json",
    ]  # fmt: skip
    predictor, classify = Predictor.load(bundle), card_function(done.folder, "classify_onnx")
    assert_same(classify, predictor, TEXTS)
    for text in TEXTS:
        assert_same(classify, predictor, [text])

    @settings(max_examples=25)
    @given(st.lists(tricky.filter(str.strip), min_size=1, max_size=6))
    def same(texts: list[str]) -> None:
        assert_same(classify, predictor, texts)

    same()


def test_eight_bits_leave_out_what_the_predictor_leaves_out_and_report_the_difference(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    bundle = random_bundle(tmp_path / "bundle", "llama")
    result = CliRunner().invoke(
        main, ["export", "--run", str(bundle), "--to", "onnx", "--int8", "--output", str(tmp_path / "onnx")]
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"probabilities within 0\.0\d+, \d+ labels changed", result.stdout)
    kinds = [each.op_type for each in onnx.load(tmp_path / "onnx" / "model.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 3 * (4 + 2)  # of each block attention's four layers, gate and up
    assert not list((tmp_path / "onnx").glob("float32*"))


def test_texts_are_normalised_before_they_are_compared_and_the_card_says_so(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = random_bundle(tmp_path / "bundle", "gpt2", settings={"normalise": "unicode"})
    result = CliRunner().invoke(main, ["export", "--run", str(bundle), "--to", "onnx", "--output", str(tmp_path / "o")])
    assert result.exit_code == 0, result.output
    assert "normalise=unicode" in result.stderr
    assert 'normalise(text, "unicode")' in (tmp_path / "o" / "MODEL_CARD.md").read_text(encoding="utf-8")
    disguised = ["Ｆ\u200bree рrіzе 𝓯𝓸𝓻 уоu"]
    (answer,) = Predictor.load(bundle).classify(disguised)
    classify = card_function(tmp_path / "o", "classify_onnx")
    assert classify([normalise(disguised[0], "unicode")])[0][1] == pytest.approx(answer.probability, abs=1e-4)
    assert classify(disguised)[0][1] != pytest.approx(answer.probability, abs=1e-4)


def test_an_export_that_says_something_else_is_not_there(tmp_path, monkeypatch) -> None:
    pytest.importorskip("transformers")
    bundle = random_bundle(tmp_path / "bundle", "gpt2")
    monkeypatch.setattr("spamlit.inference.export.hub._shift", lambda weight, bias: 0 * weight[0])  # forgets the bias
    result = CliRunner().invoke(main, ["export", "--run", str(bundle), "--to", "hf", "--output", str(tmp_path / "hub")])
    assert result.exit_code == 1
    assert re.search(r"error: the export's spam probability differs by 0\.\d+ .* more than 0.0001", result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_other_ids_and_answers_that_are_no_number_fail_the_check(tmp_path) -> None:
    predictor = Predictor.load(random_bundle(tmp_path / "bundle", "gpt2"))
    encode = predictor.tokenizer.encode_batch

    def cut(texts):
        return [ids[: predictor.max_length] for ids in encode(texts)]

    def nothing(tokens, lengths):
        return np.full(len(tokens), np.nan)

    with pytest.raises(ExportError, match="other ids for 'WINNER"):
        checks.check(predictor, [], lambda texts: [ids[1:] for ids in cut(texts)], nothing)
    with pytest.raises(ExportError, match="differs by nan"):
        checks.check(predictor, ["hello"], cut, nothing)


def test_what_is_there_is_not_overwritten_and_bad_choices_are_refused(tmp_path) -> None:
    (to,) = (option for option in command.params if option.name == "to")
    assert tuple(to.type.choices) == FORMATS
    bundle = random_bundle(tmp_path / "bundle", "gpt2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="not empty"):
        export(bundle, "hf", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    with pytest.raises(ValueError, match="--to gguf: choose one of hf, onnx"):
        export(bundle, "gguf", tmp_path / "out")
    with pytest.raises(ValueError, match="--int8 goes with --to onnx"):
        export(bundle, "hf", tmp_path / "out", int8=True)


BYTES = byte_tokenizer()
FAST = fast_tokenizer(BYTES)


@given(tricky)
def test_ids_of_any_text_are_the_same(text: str) -> None:
    assert FAST.encode(text).ids == BYTES.encode(text)


@pytest.mark.assets
@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_ids_of_real_vocabularies_are_the_same(name: str) -> None:
    tokenizer = load_tokenizer(name)
    fast = fast_tokenizer(tokenizer)
    assert fast.get_vocab_size() == tokenizer.vocab_size

    @settings(max_examples=300)
    @given(tricky)
    def same(text: str) -> None:
        assert (fast.encode(text).ids or [tokenizer.pad_id]) == tokenizer.encode(text)

    same()


@pytest.mark.assets
@pytest.mark.long
@pytest.mark.parametrize(("backbone", "n_layer"), [("gpt2", 3), ("smollm2-135m", 30)])
def test_all_messages_of_the_collection(tmp_path, backbone, n_layer, monkeypatch, capsys) -> None:
    """GPT-2's width with random weights, SmolLM2 whole; heads that part the messages about in half."""
    from spamlit.assets import fetch
    from spamlit.data.sms import parse

    texts = [text for text in parse(fetch("SMSSpamCollection"))["text"] if text.strip()]
    texts.sort(key=len)  # batches with little padding
    assert len(texts) == 5574
    bundle = full_bundle(tmp_path / "bundle", backbone, n_layer)
    monkeypatch.setattr("spamlit.inference.export.formats.real_texts", lambda bundle: texts)
    answered: dict[tuple[int, ...], float] = {}  # the Predictor's, which both exports are compared with
    probabilities = Predictor.probabilities

    def remembered(predictor, ids):
        rows = [tuple(row) for row in ids]
        new = list(dict.fromkeys(row for row in rows if row not in answered))
        answered.update(zip(new, probabilities(predictor, new), strict=True))
        return [answered[row] for row in rows]

    monkeypatch.setattr(Predictor, "probabilities", remembered)
    for to in FORMATS:
        done = export(bundle, to, tmp_path / to)
        with capsys.disabled():
            print(f"\n{backbone}, {n_layer} blocks, {to}: {done.checked}")
        assert done.checked.changed == 0
        assert done.checked.messages > 5000  # repeats of a message are one
    spam = sum(answered[tuple(row[:128])] >= 0.5 for row in Predictor.load(bundle).tokenizer.encode_batch(texts))
    assert 0.3 < spam / len(texts) < 0.7
