"""The Predictor: labels, probabilities, flags; the same answer in any company, and the one that training gave."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import tiny_run
from torch import nn

from spamlit.inference.predictor import Prediction, Predictor
from spamlit.model.bundle import BundleError
from spamlit.model.pooling import POOLINGS
from spamlit.training.run_folder import RunNotFoundError

TEXTS = ["You have won a prize!", "see you tonight", "ok", "Call 09061701461 now to claim", "£ ü 😀", "a" * 500]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return tiny_run(folder, "model.trainable=last_block", "data.max_length=24", "data.reserve=false").folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.load(run)


def test_it_imports_nothing_that_training_needs(run: Path) -> None:
    needless = {"lightning", "torchmetrics", "pandas", "scipy", "matplotlib", "hydra", "omegaconf", "transformers"}
    needless |= {"rich", "torch._dynamo"}  # PyTorch's compiler: seconds
    code = f"""import sys; from spamlit import Predictor; Predictor.load({str(run)!r}).classify(["hello"])
print(sorted({needless!r} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_text_gets_a_label_a_probability_and_a_flag(predictor: Predictor) -> None:
    answers = predictor.classify(TEXTS)
    assert [answer.label for answer in answers] == [
        "spam" if answer.probability >= 0.5 else "ham" for answer in answers
    ]
    assert all(0 < answer.probability < 1 for answer in answers)
    assert [answer.flag for answer in answers] == ["", "", "", "truncated", "", "truncated"]


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0\u2003"])
def test_a_text_without_words_is_ham_and_says_so(predictor: Predictor, text: str) -> None:
    assert predictor.classify([text], threshold=0.0) == [Prediction("ham", 0.0, "empty")]


def test_no_texts_no_answers(predictor: Predictor) -> None:
    assert predictor.classify([]) == []


def test_exactly_the_longest_message_is_not_truncated(predictor: Predictor) -> None:
    longest = "x" * predictor.max_length  # the tokenizer has no merge of two x
    whole, cut = predictor.classify([longest, longest + "y"])
    assert (whole.flag, cut.flag) == ("", "truncated")
    assert whole.probability == pytest.approx(cut.probability, abs=1e-6)


@given(text=st.text(max_size=60))
def test_any_string_is_answered(predictor: Predictor, text: str) -> None:
    (answer,) = predictor.classify([text])
    assert answer.label in ("spam", "ham")
    assert 0 <= answer.probability <= 1


def test_the_threshold_is_the_least_probability_of_spam(predictor: Predictor) -> None:
    (answer,) = predictor.classify(["see you tonight"])
    at = [predictor.classify(["see you tonight"], threshold=t)[0] for t in (0.0, answer.probability, 1.0)]
    assert [a.label for a in at] == ["spam", "spam", "ham"]
    assert {a.probability for a in at} == {answer.probability}


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_threshold_that_is_no_probability_is_refused(predictor: Predictor, threshold: float) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*from 0 to 1"):
        predictor.classify(TEXTS, threshold=threshold)


def test_probabilities_within_the_band_are_flagged_and_labelled_all_the_same(predictor: Predictor) -> None:
    plain = predictor.classify(TEXTS)
    low, high = sorted(answer.probability for answer in plain)[1:3]
    flagged = predictor.classify(TEXTS, unsure=(low, high))
    assert [answer.label for answer in flagged] == [answer.label for answer in plain]
    for answer, before in zip(flagged, plain, strict=True):
        unsure = ["unsure"] if low <= answer.probability <= high else []
        assert answer.flag.split(";") == [*filter(None, [before.flag]), *unsure] or not (answer.flag or unsure)
    banded = Predictor(predictor.classifier, predictor.tokenizer, predictor.settings | {"unsure": [low, high]})
    assert banded.classify(TEXTS) == flagged
    assert banded.classify([""]) == [Prediction("ham", 0.0, "empty")]
    with pytest.raises(ValueError, match=r"unsure=\(0.9, 0.1\)"):
        predictor.classify(TEXTS, unsure=(0.9, 0.1))


@pytest.mark.fault("numerics", "prediction")
@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_says_what_training_said_in_any_order_and_company(tmp_path: Path, pooling: str) -> None:
    """Where padding is read (`last`, `mean`), a message alone is padded as far as in training."""
    padding = "fixed" if pooling in ("last", "mean") else "longest"
    folder = tiny_run(tmp_path / "run", f"model.pooling={pooling}", f"data.padding={padding}").folder
    said = pd.read_csv(folder / "predictions.csv")
    texts = pd.concat(pd.read_csv(folder / f"{split}.csv") for split in ("train", "validation", "test"))
    said = said.merge(texts[["id", "text"]], on="id")
    expected = pytest.approx(said["probability"].tolist(), abs=1e-5)
    predictor, texts = Predictor.load(folder), said["text"].tolist()
    assert [answer.probability for answer in predictor.classify(texts)] == expected
    assert [answer.probability for answer in predictor.classify(texts[::-1])][::-1] == expected
    assert [predictor.classify([text])[0].probability for text in texts[:20]] == pytest.approx(
        said["probability"].tolist()[:20], abs=1e-5
    )


def test_a_folder_without_a_bundle_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="is not a run folder"):
        Predictor.load(tmp_path / "nothing")
    with pytest.raises(RunNotFoundError, match="did not finish"):
        Predictor.load(tmp_path)
    assert Predictor.load(run / "classifier").classify(TEXTS) == Predictor.load(run).classify(TEXTS)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": None},
        {"threshold": "half"},
        {"threshold": 2},
        {"temperature": 0},
        {"unsure": 1},
        {"max_length": None},
        {"normalise": "nfkc"},
    ],
)
def test_settings_that_make_no_sense_are_refused(predictor: Predictor, change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="lacks or spoils a setting"):
        Predictor(predictor.classifier, predictor.tokenizer, predictor.settings | change)


def test_it_reads_disguised_letters_as_the_bundle_says(tmp_path: Path) -> None:
    """What the settings do not say of it, as those of older bundles, is no normalisation."""
    predictor = Predictor.load(tiny_run(tmp_path / "run", "data.normalise=unicode").folder)
    plain, disguised, hidden = ["claim your prize", "сlаіm y\u200bour ｐｒｉｚｅ", "\u200b\u2060"]
    one, same, nothing = predictor.classify([plain, disguised, hidden])
    assert one == same
    assert nothing == Prediction("ham", 0.0, "empty")
    assert predictor.settings.pop("normalise") == "unicode"
    older = Predictor(predictor.classifier, predictor.tokenizer, predictor.settings)
    one, other = older.classify([plain, disguised])
    assert one.probability != other.probability


def test_eight_bits_say_nearly_the_same(run: Path, predictor: Predictor) -> None:
    exact, fast = predictor.classify(TEXTS), Predictor.load(run, precision="int8").classify(TEXTS)
    assert [answer.probability for answer in fast] == pytest.approx([a.probability for a in exact], abs=0.05)
    assert [answer.flag for answer in fast] == [answer.flag for answer in exact]


def test_eight_bits_leave_the_last_layer_of_the_mlp_and_the_head_alone(run: Path) -> None:
    classifier = Predictor.load(run, precision="int8").classifier
    kept = {name.rpartition(".")[2] for name, layer in classifier.named_modules() if type(layer) is nn.Linear}
    assert kept == {"down", "head"}


def test_equal_messages_are_computed_once(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = predictor.classifier.forward
    monkeypatch.setattr(
        predictor.classifier, "forward", lambda tokens, lengths: seen.append(len(tokens)) or forward(tokens, lengths)
    )
    answers = predictor.classify([TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]])
    assert sum(seen) == 2
    assert answers[0] == answers[2] == answers[3] != answers[1]


def test_many_messages_are_taken_some_at_a_time_in_order(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    together = predictor.classify(TEXTS)
    monkeypatch.setattr("spamlit.inference.predictor.TOGETHER", 2)
    apart = predictor.classify(TEXTS)
    assert [answer.label for answer in apart] == [answer.label for answer in together]
    assert [a.probability for a in apart] == pytest.approx([a.probability for a in together], abs=1e-6)


def test_another_precision_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"precision=int4: choose one of fp32, int8"):
        Predictor.load(run, precision="int4")
