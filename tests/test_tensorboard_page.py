"""TensorBoard, opened in a browser on a finished run, shows what the run wrote."""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from tests.browser import MARKS, WAIT, chromium, poll
from tests.runs import tiny_run

from spamlit.analysis.report import read_scalars
from spamlit.training.train import Run

pytestmark = MARKS

TABS = {"scalars", "pr_curves", "hparams", "images", "text"}

# TensorBoard's tabs live in shadow roots, which neither innerText nor querySelectorAll enters.
TEXT = """
const hidden = ['STYLE', 'SCRIPT', 'NOSCRIPT', 'TEMPLATE'];
const text = (node) => node.nodeType == Node.TEXT_NODE ? node.textContent : hidden.includes(node.nodeName) ? '' :
  [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.childNodes].map(text).join(' ');
return text(document.body).replace(/\\s+/g, ' ');
"""
POINTS = """
const found = [], look = (root) => {
  found.push(...root.querySelectorAll('svg.content path'));
  root.querySelectorAll('*').forEach((node) => node.shadowRoot && look(node.shadowRoot));
};
look(document);
return found.map((path) => (path.getAttribute('d') || '').split(/[ML]/).length - 1);
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def address(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that serves the run."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.folder), "--host", "127.0.0.1"]
    with log.open("w") as output:
        server = subprocess.Popen([*command, "--port", "0"], stdout=output, stderr=subprocess.STDOUT)
    try:
        url = poll(lambda: re.findall(r"http://[\d.:]+", log.read_text()), log.read_text)[0]
        poll(lambda: active_tabs(url) >= TABS, log.read_text)  # a page opened before the log is read stays empty
        yield url
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def active_tabs(url: str) -> set[str]:
    with urllib.request.urlopen(f"{url}/data/plugins_listing", timeout=WAIT) as answer:
        return {name for name, plugin in json.load(answer).items() if plugin["enabled"]}


def show(browser: Any, address: str, tab: str, *expected: str) -> str:
    """Opens a tab and returns its text once it contains all that is expected."""
    browser.get("about:blank")  # a change of the fragment alone would not load the page again
    browser.get(f"{address}/#{tab}")

    def text() -> str:
        return str(browser.execute_script(TEXT))

    return poll(lambda: page if all(word in (page := text()) for word in expected) else "", text)


def lines(browser: Any, count: int) -> list[int]:
    """The numbers of points of the first lines that the charts draw, once there are as many."""

    def drawn() -> list[int]:
        return [points for points in browser.execute_script(POINTS) if points > 1]

    return poll(lambda: found[:count] if len(found := drawn()) >= count else [], lambda: str(drawn()))


@pytest.mark.parametrize("tag", ["train/loss", "val/loss", "val/f1"])
def test_scalars(browser: Any, address: str, run: Run, tag: str) -> None:
    show(browser, address, f"scalars&tagFilter={quote(tag, safe='')}", f"tag: {tag}")
    steps, _ = read_scalars(run.folder / "tensorboard")[tag]
    assert len(steps) == (run.trainer.global_step if tag == "train/loss" else 2)  # validations
    assert lines(browser, count=1) == [len(steps)]


def test_precision_recall_curves(browser: Any, address: str, run: Run) -> None:
    show(browser, address, "pr_curves", "tag: validation", "tag: test", f"is at step {run.trainer.global_step}")
    assert len(lines(browser, count=2)) == 2


def test_hyperparameters_and_final_metrics(browser: Any, address: str, run: Run) -> None:
    """TensorBoard's table begins with five of each; the others are a tick away."""
    order = ("reserve/fpr", "test/accuracy", "test/f1", "val/accuracy", "val/f1")
    shown = [format(run.metrics[name], "#.5g") for name in order]
    page = show(browser, address, "hparams", "TABLE VIEW", *shown)
    choices, _, table = page.partition("TABLE VIEW")
    assert all(
        name in choices for name in ("model.trainable", "optimizer.lr", "seed", "final/test/f1", "final/reserve/fpr")
    )
    assert "tiny" in table
    assert all(figure in table for figure in shown)


def test_confusion_matrices(browser: Any, address: str) -> None:
    page = show(browser, address, "images", "tag: confusion matrix/validation", "tag: confusion matrix/test")
    assert page.count("tag: confusion matrix/") == 2


def test_misclassified_messages(browser: Any, address: str, run: Run) -> None:
    said = pd.read_csv(run.folder / "predictions.csv").query("split == 'test'")
    wrong = said[(said["probability"] >= 0.5) != (said["label"] == "spam")]
    texts = pd.read_csv(run.folder / "test.csv").set_index("id")["text"]
    assert len(wrong)
    (first, *_) = wrong.itertuples()
    words = re.findall(r"[A-Za-z]{3,}", texts[first.id])  # the rest of the text may be Markdown
    show(browser, address, "text", f"{first.label} {first.probability:.4f}", *words, "validation")
