"""Baselines learn, choose on validation, and leave the files of a run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from tests.synthetic import write_collection

from spamlit.analysis.baselines import choose, majority, margin_temperature, naive_bayes, tfidf_svm
from spamlit.analysis.predicted import write_predicted
from spamlit.analysis.scores import scores
from spamlit.data.sms import parse
from spamlit.data.splits import Splits, make_splits


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Messages of which every seventh has the wrong label: no baseline is perfect."""
    frame = parse(write_collection(tmp_path_factory.mktemp("data") / "collection", n_ham=160, n_spam=60))
    flip = {"ham": "spam", "spam": "ham"}
    frame["label"] = [flip[label] if i % 9 == 0 else label for i, label in enumerate(frame["label"])]
    return make_splits(frame, balance="none", seed=1)


def f1(splits, result):
    return scores(splits.test.assign(probability=result.probabilities["test"], threshold=0.5))["f1"]


@pytest.mark.parametrize(
    "fit",
    [
        naive_bayes,
        lambda s, seed: tfidf_svm(s, seed, characters=False),
        lambda s, seed: tfidf_svm(s, seed, characters=True),
    ],
    ids=["naive-bayes", "words", "characters"],
)
def test_words_beat_the_majority(splits, fit):
    nothing = majority(splits, 0)
    assert f1(splits, nothing) == 0
    share = float((splits.train["label"] == "spam").mean())
    assert nothing.probabilities["test"] == pytest.approx(np.full(len(splits.test), share))
    result = fit(splits, 0)
    assert f1(splits, result) > 0.7
    assert set(result.probabilities) == {"train", "validation", "test"}  # there is no reserve
    again = fit(splits, 0)
    assert all(np.array_equal(again.probabilities[s], result.probabilities[s]) for s in result.probabilities)


def test_the_test_split_plays_no_part(splits):
    other = Splits(splits.train, splits.validation, splits.test[::-1].head(5), splits.reserve)
    whole, few = (tfidf_svm(each, 0, characters=True) for each in (splits, other))
    assert whole.chosen == few.chosen
    assert few.probabilities["test"] == pytest.approx(whole.probabilities["test"][::-1][:5])


def test_validation_chooses_by_f1_then_auprc(splits):
    spam = (splits.validation["label"] == "spam").to_numpy(dtype=float)
    right, unsure, wrong = 0.1 + 0.8 * spam, np.where(spam, 0.9, np.linspace(0.6, 0.7, len(spam))), 0.9 - 0.8 * spam
    assert choose(splits.validation, {"wrong": wrong, "unsure": unsure, "right": right}) == "right"
    shuffled = np.where(spam, 0.2, 0.1)  # orders perfectly, flags nothing
    assert choose(splits.validation, {"wrong": np.zeros(len(spam)), "ordered": shuffled}) == "ordered"


def test_the_temperature_recovers_what_was_divided_away():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    spam = (rng.random(20_000) < expit(logits)).astype(int)
    assert margin_temperature(logits / 4, spam) == pytest.approx(0.25, rel=0.05)
    assert margin_temperature(logits * 5, spam) == pytest.approx(5, rel=0.05)


def test_files(splits, tmp_path: Path):
    result = tfidf_svm(splits, 0, characters=False)
    write_predicted(splits, result, tmp_path / "out", source="sms")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.columns) == ["id", "label", "split", "probability"]
    assert table["split"].value_counts().to_dict() == {
        name: len(frame) for name, frame in splits.frames().items() if len(frame)
    }
    test = table[table["split"] == "test"].reset_index(drop=True)
    assert test["id"].tolist() == splits.test["id"].tolist()
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["test/f1"] == pytest.approx(scores(test.assign(threshold=0.5))["f1"])
    assert written["messages_per_second"] == pytest.approx(len(splits.test) / written["predict_seconds"])
    assert json.loads((tmp_path / "out" / "run.json").read_text())["chosen"]["C"] in (0.3, 1, 3, 10)
