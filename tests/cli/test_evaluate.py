"""`spamlit evaluate`: the run's own figures again, and a user's table with intervals; bad tables are refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from tests.runs import tiny_run

from spamlit.analysis.evaluate import figures
from spamlit.analysis.robustness import obfuscated_scores
from spamlit.analysis.statistics import wilson
from spamlit.cli import main
from spamlit.data.obfuscate import INVARIANCES, TRANSFORMS
from spamlit.data.splits import read_split
from spamlit.inference.predictor import Predictor


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "trainer.max_epochs=2", "data.reserve=false").folder


def evaluate(run: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "--run", str(run), *arguments])


def test_a_run_s_test_split_gets_the_run_s_own_figures(finished: Path) -> None:
    result = evaluate(finished)
    assert result.exit_code == 0, result.output
    folder = finished / "evaluation" / "test"
    own, again = (json.loads((place / "metrics.json").read_text()) for place in (finished, folder))
    for name in ("accuracy", "precision", "recall", "f1", "auprc", "mcc"):
        assert again[name] == pytest.approx(own[f"test/{name}"], abs=1e-4)
        assert again[f"{name}/low"] <= again[name] <= again[f"{name}/high"]
    said = pd.read_csv(finished / "predictions.csv").query("split == 'test'")
    found = pd.read_csv(folder / "predictions.csv")
    assert found["probability"].tolist() == pytest.approx(said["probability"].tolist(), abs=1e-5)
    report = (folder / "report.html").read_text()
    assert report.count("<article>") == report.count("Log-odds: ") > 0
    assert "Suspected label errors" in report
    assert str(folder / "report.html") in result.output


def test_a_user_s_table_with_its_own_columns_and_labels(finished: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.tsv"
    rows = ["0044 call me\tgood", "You have won a holiday, call now\tbad", "NA\tgood", "see you at the pub\tgood"]
    table.write_text("\n".join(["body\tkind", *rows]))
    options = ["--text-column", "body", "--label-column", "kind", "--positive", "BAD"]
    result = evaluate(finished, "--input", str(table), *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    found = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert found["label"].tolist() == ["ham", "spam", "ham", "ham"]
    assert found["split"].tolist() == ["mine"] * 4
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    taken = int(((found["probability"] >= 0.5) & (found["label"] == "ham")).sum())
    rate = [metrics[f"fp_per_1000{end}"] for end in ("", "/low", "/high")]
    assert rate == pytest.approx([1000 * value for value in wilson(taken, 3)])
    assert "Mine: 4 messages" in (tmp_path / "out" / "report.html").read_text()


def test_messages_are_disguised_when_asked_for(finished: Path, tmp_path: Path) -> None:
    result = evaluate(finished, "--disguise", "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    predictor = Predictor.load(finished)
    test = read_split(finished / "test.csv")
    table = obfuscated_scores(
        lambda texts: [answer.probability for answer in predictor.classify(texts)], test, threshold=predictor.threshold
    )
    for transform in (*TRANSFORMS, "mean"):
        for rate, value in table.loc[transform].items():
            assert metrics[f"disguised/{transform}/{rate}"] == pytest.approx(value)
    assert metrics["disguised/mean/recall_before"] == pytest.approx(metrics["recall"])
    assert {key.split("/")[1] for key in metrics if key.startswith("invariance/")} == {*INVARIANCES, "mean"}
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Disguised</h2>" in report
    assert all(f"<td>{name}</td>" in report for name in (*TRANSFORMS, *INVARIANCES))
    assert f"disguised    recall {metrics['recall']:.4f}, disguised" in result.output
    row = table.loc["mean"]
    shown = ("changed", "recall_before", "recall_after", "fpr_before", "fpr_after")
    cells = "".join(f'<td class="number">{100 * row[rate]:.1f} %</td>' for rate in shown)
    assert f"<tr><td>mean</td>{cells}</tr>" in report
    assert evaluate(finished, "--output", str(tmp_path / "plain")).exit_code == 0
    assert "<h2>Disguised</h2>" not in (tmp_path / "plain" / "report.html").read_text()


def test_a_table_called_like_a_split_is_not_that_split(finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / "test.csv", tmp_path / "test.csv")
    assert evaluate(finished, "--input", str(tmp_path / "test.csv"), "--text-column", "text").exit_code == 0
    found = pd.read_csv(finished / "evaluation" / "input-test" / "predictions.csv")
    assert set(found["split"]) == {"input-test"}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "is not a table with a header"),
        ("a,b\n1,2\n", "no column 'text'"),
        ("text,label\nhello,spam\n,ham\n", "empty in 1 of 2 records (record 2)"),
        ("text,label\nhello,ham\nyou,ham\n", "must hold two labels, and holds 1: ham"),
        ("text,label\nhello,0\nyou,1\n", "holds: 0, 1"),
    ],
)
def test_bad_tables_are_refused_before_anything_is_loaded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, line: str
) -> None:
    monkeypatch.setattr("spamlit.inference.predictor.load_bundle", lambda folder: pytest.fail("loaded"))
    (tmp_path / "bad.csv").write_text(content)
    result = evaluate(finished, "--input", str(tmp_path / "bad.csv"))
    assert result.exit_code == 2
    assert line in result.output
    assert "Traceback" not in result.output


def test_a_bundle_alone_needs_messages(finished: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(finished / "classifier", tmp_path / "bundle"))
    result = evaluate(alone)
    assert result.exit_code == 2
    assert "no test.csv beside it: name the labelled messages with --input FILE" in result.output
    result = evaluate(alone, "--input", str(finished / "test.csv"), "--output", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "Worded most alike" not in (tmp_path / "out" / "report.html").read_text()  # nobody knows what it learnt from


def test_figures_are_counted_and_their_intervals_repeat() -> None:
    rows = pd.DataFrame(
        {"label": ["spam"] * 20 + ["ham"] * 30, "probability": [0.9] * 18 + [0.1] * 2 + [0.8] * 3 + [0.2] * 27}
    ).assign(id=range(50))
    found = figures(rows, 0.5)
    assert found["recall"] == wilson(18, 20)
    assert found["precision"] == wilson(18, 21)
    assert found["fp_per_1000"] == pytest.approx([1000 * value for value in wilson(3, 30)])
    assert found["accuracy"] == wilson(45, 50)
    assert found["f1"].value == pytest.approx(36 / 41)
    assert 0.7 < found["f1"].low < found["f1"].value < found["f1"].high <= 1
    assert figures(rows, 0.5) == found
