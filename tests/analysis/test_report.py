"""report.html: what the run did, in one file that asks for nothing else and believes no message."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import Markup
from tests.runs import tiny_run

from spamlit.analysis import report as module
from spamlit.analysis.figures import curves_figure, read_scalars
from spamlit.analysis.report import judged, write_report
from spamlit.data.additions import disguised_copies
from spamlit.model.bundle import read_settings
from spamlit.training.metrics import METRICS

CHROMIUM = shutil.which("chromium")
EVIL = '<script>document.title = "owned"</script><img src=http://example.invalid/x onerror="document.title=1">&amp;'


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "trainer.max_epochs=3", "evaluate=best").folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run to spoil: each test message is on the wrong side, and the first one is markup."""
    folder = Path(shutil.copytree(finished, tmp_path / "2026-01-01" / "10-00-00"))
    predictions = pd.read_csv(folder / "predictions.csv")
    test = predictions["split"] == "test"
    predictions.loc[test, "probability"] = predictions["label"].map({"ham": 0.9, "spam": 0.1})
    predictions.to_csv(folder / "predictions.csv", index=False)
    texts = pd.read_csv(folder / "test.csv")
    texts.loc[0, "text"] = EVIL
    texts.to_csv(folder / "test.csv", index=False)
    return folder


def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def read(report: str) -> str:
    """The page as one reads it: words are marked, and are one message still."""
    return re.sub(r"</?mark[^>]*>", "", report)


def test_it_shows_the_metrics_the_settings_and_the_mistakes(run: Path) -> None:
    report, metrics = page(run), json.loads((run / "metrics.json").read_text())
    for split in ("train", "val", "test"):
        cells = [f'<td class="number">{metrics[f"{split}/{name}"]:.4f}</td>' for name in METRICS]
        assert f"<tr><td>{split}</td>{''.join(cells)}</tr>" in report
    assert f"{100 * metrics['reserve/fpr']:.2f} % were taken for spam" in report
    assert "Run 2026-01-01/10-00-00" in report
    assert "<td>model.trainable</td>" in report
    texts = pd.read_csv(run / "test.csv")["text"]
    assert f"Test: {len(texts)} messages, {len(texts)} misclassified" in report
    assert all(f'<p class="text message">{Markup.escape(text)}</p>' in read(report) for text in texts)
    assert report.count("<svg") == 7  # the curves; matrix, precision-recall and reliability of each of two splits


def test_messages_are_text_whatever_they_contain(run: Path) -> None:
    report = page(run)
    assert "<script" not in report
    assert "&lt;script&gt;document.title" in report


def test_it_loads_nothing(run: Path) -> None:
    report = page(run)
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|base)\b", report)
    markup = re.findall(r"<[^>]+>|<style>.*?</style>", report, re.DOTALL)  # the rest is text
    asked = r"""(?:src|href|url\(|@import)\s*=?\s*["']?(?:https?:|//|file:)"""
    assert not [tag for tag in markup if re.search(asked, tag)]


def test_the_surest_mistakes_are_explained_and_the_others_are_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = page(run)
    n = report.count("<article>")
    assert report.count("Log-odds: ") == n > 12
    assert "explains them all" not in report
    monkeypatch.setattr(module, "EXPLAINED_TOKENS", 2_000)
    some = page(run)
    assert 0 < some.count("Log-odds: ") < n
    assert f"Explained here: {some.count('Log-odds: ')} of" in some
    assert some.count('<p class="text message">') == report.count('<p class="text message">')
    write_report(run, explain=False)
    none = (run / "report.html").read_text(encoding="utf-8")
    assert "Log-odds: " not in none
    assert none.count('<p class="text message">') == report.count('<p class="text message">')


def test_each_mistake_has_its_nearest_training_messages(run: Path) -> None:
    train = pd.read_csv(run / "train.csv").assign(origin="source")
    copies = disguised_copies(train, 1, ["swaps"])
    pd.concat([train, copies]).to_csv(run / "train.csv", index=False)
    report, train = page(run), train["text"]
    near = re.findall(r'<li class="text">(?:ham|spam), \d\.\d\d(?: \(<b>[a-z-]+</b>\))?: (.*)</li>', report)
    assert len(near) == 3 * report.count("<article>")
    assert set(near) <= {str(Markup.escape(text)) for text in train}


def test_slices_and_suspected_labels_are_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[pd.DataFrame] = []
    monkeypatch.setattr(
        module, "suspected_labels", lambda m: seen.append(m) or m.tail(2).assign(out_of_fold=[0.03, 0.97])
    )
    report = page(run)
    assert "language (guessed)" in report
    [messages] = seen
    assert messages["split"].value_counts().to_dict() == {"train": 42, "test": 12, "validation": 6}
    assert not messages["probability"].isna().any()
    suspected = report[report.index("Suspected label errors: 2 of 60 messages") :]
    assert all(str(Markup.escape(text)) in suspected for text in messages["text"].tail(2))


def test_a_temperature_shows_before_and_after(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "before temperature" not in page(run)
    changed = read_settings(run / "classifier") | {"temperature": 2.0, "threshold": 0.6125, "unsure": [0.4, 0.8]}
    monkeypatch.setattr(module, "read_settings", lambda folder: changed)
    record = json.loads((run / "run.json").read_text())
    figures = {"before": {"ece": 0.0321, "brier": 0.02}, "after": {"ece": 0.0123, "brier": 0.01}}
    record["decision"] = {"policy": {"fpr": 0.005}, "calibration": {"test": figures}}
    (run / "run.json").write_text(json.dumps(record))
    report = page(run)
    assert report.count("before temperature") == 2
    for said in ("least 0.6125", "{&#39;fpr&#39;: 0.005}", "0.0321", "0.0123", "unsure from 0.4 to 0.8"):
        assert said in report


def test_the_curves_end_with_training(run: Path) -> None:
    """The final figures, of the best weights, stand in TensorBoard under other names."""
    steps = json.loads((run / "run.json").read_text())["steps"]
    curves = read_scalars(run / "tensorboard")
    assert len(curves["train/loss"][0]) == steps
    assert len(curves["val/loss"][0]) == len(curves["val/f1"][0]) == 3
    assert len(curves["final/val/f1"][0]) == 1


def test_the_figure_of_the_curves_counts_epochs_and_examples(run: Path) -> None:
    assert "examples seen" in page(run)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((run / "run.json").read_text())
    loss, accuracy = curves_figure(read_scalars(run / "tensorboard"), record["steps_per_epoch"], 8).axes
    epochs = {line.get_label(): list(line.get_xdata()) for line in accuracy.lines}
    assert epochs == {"training": [1, 2, 3], "validation": [1, 2, 3], "validation F1": [1, 2, 3]}
    assert len(loss.lines[0].get_xdata()) == record["steps"]
    assert loss.lines[0].get_xdata()[-1] == 3
    [above] = loss.child_axes
    loss.figure.draw_without_rendering()
    assert above.get_xlim()[1] == pytest.approx(loss.get_xlim()[1] * record["steps_per_epoch"] * 8)


def test_a_run_that_trained_nothing_has_a_report(tmp_path: Path) -> None:
    report = page(tiny_run(tmp_path / "run", "model.trainable=none", "data.reserve=false").folder)
    assert "0 epochs" in report
    assert "that no split used" not in report  # there is no reserve


@pytest.mark.parametrize("missing", ["metrics.json", "run.json", "predictions.csv", "test.csv"])
def test_an_unfinished_run_has_none(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_it_and_runs_none_of_the_messages(run: Path, tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'chromium'}", "--dump-dom"]
    command = [str(CHROMIUM), *flags, write_report(run).as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "<title>spamlit: 2026-01-01/10-00-00</title>" in shown
    assert "&lt;script&gt;document.title" in shown
    assert shown.count("</svg>") == 7


def test_a_run_without_logger_has_a_report(tmp_path: Path) -> None:
    assert "misclassified" in page(tiny_run(tmp_path / "run", "~logger", "data.reserve=false").folder)


def test_each_message_is_judged_once_and_copies_are_none() -> None:
    train = pd.DataFrame({"id": [2, 2, 1], "label": "spam", "text": "Win", "group": [0, 0, 1], "origin": "source"})
    train = pd.concat([train, disguised_copies(train, 1, ["leet"])])
    test = pd.DataFrame({"id": [3], "label": "ham", "text": "Hello", "group": 2})
    said = pd.concat([train.assign(split="train"), test.assign(split="test")]).assign(probability=0.5)
    found = judged({"train": train, "test": test}, said)
    assert found[["id", "split", "probability"]].to_numpy().tolist() == [
        [2, "train", 0.5],
        [1, "train", 0.5],
        [3, "test", 0.5],
    ]
