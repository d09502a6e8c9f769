"""The model card: in every bundle, with the run's own figures; editing it breaks nothing."""

from pathlib import Path

import pandas as pd
import pytest
from tests.runs import tiny_run

from spamlit.inference.predictor import Predictor
from spamlit.training.intervals import f1_interval, wilson
from spamlit.training.run_folder import read_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(
        tmp_path_factory.mktemp("runs") / "run", "calibrate=true", "threshold=f1", "data.obfuscate=1"
    ).folder


def test_it_holds_data_set_up_figures_and_decision(finished: Path) -> None:
    card = (finished / "classifier" / "MODEL_CARD.md").read_text(encoding="utf-8")
    record, settings = read_json(finished / "run.json"), read_json(finished / "classifier" / "config.json")
    assert record["data"]["sha256"] in card
    assert record["backbone"]["sha256"] in card
    assert "origin and licence are not known" in card  # a file of one's own
    assert f"{settings['threshold']:.6g} on (`threshold=f1`)" in card
    assert f"| temperature | {settings['temperature']:.4g} |" in card
    assert "| model.trainable | last_block |" in card
    assert "1 disguised copies" in card
    rows = pd.read_csv(finished / "predictions.csv").query("split == 'test'")
    spam, flagged = rows["label"] == "spam", rows["probability"] >= settings["threshold"]
    recall = wilson(int((spam & flagged).sum()), int(spam.sum()))
    assert f"| recall | {recall.value:.4f} | {recall.low:.4f} | {recall.high:.4f} |" in card
    assert "reserve" in card
    assert not [line for line in card.splitlines() if "{{" in line or "{%" in line]


def test_who_edits_it_does_not_break_the_bundle(finished: Path) -> None:
    path = finished / "classifier" / "MODEL_CARD.md"
    assert path.name not in read_json(finished / "classifier" / "config.json")["files"]
    path.write_text(path.read_text(encoding="utf-8") + "\nContact: me\n", encoding="utf-8")
    assert Predictor.load(finished).classify(["hello"])[0].probability >= 0


def test_the_interval_of_f1_is_that_of_the_resampled_messages() -> None:
    """Against the bootstrap over messages, which knows nothing of counts."""
    from spamlit.analysis.evaluate import figures

    counts = {"tp": 40, "fp": 4, "fn": 10, "tn": 96}
    labels = ["spam"] * 50 + ["ham"] * 100
    probability = [0.9] * 40 + [0.1] * 10 + [0.9] * 4 + [0.1] * 96
    rows = pd.DataFrame({"id": range(150), "label": labels, "probability": probability})
    assert f1_interval(**counts) == pytest.approx(figures(rows, 0.5)["f1"], abs=0.015)
    assert f1_interval(tp=0, fp=0, fn=5, tn=0).high == 0.0
