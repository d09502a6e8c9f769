"""TensorBoard, opened in a browser on a finished run, shows what the run wrote."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from spamlit.training.module import Predictions
from spamlit.training.tensorboard import log_results

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"),
]

# Without the last ones Chromium keeps asking for hosts that a closed network refuses.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--no-first-run", "--disable-quic"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
STEPS, WAIT = 20, 40  # optimizer steps of the run; seconds that the server or a page may take
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
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the log of twenty steps, written by the functions that write a real one."""
    run = tmp_path_factory.mktemp("run")
    logger = TensorBoardLogger(run, name="", version="tensorboard", default_hp_metric=False)
    for step in range(1, STEPS + 1):
        logger.log_metrics({"train/loss": 1 / step}, step=step)
    for step in (10, STEPS):
        logger.log_metrics({"val/loss": 1 / step, "val/f1": 0.8 + step / 200}, step=step)
    labels = torch.arange(40) % 2  # (40,)
    probability = 0.3 * labels + 0.7 * torch.rand(40, generator=torch.Generator().manual_seed(0))  # (40,)
    rows = Predictions(torch.arange(40), probability, labels)
    log_results(
        [logger],
        hyperparameters={"model.trainable": "last_block", "optimizer.lr": 1e-4},
        metrics={"val/f1": 0.9, "test/f1": 0.8125},
        predictions={"validation": rows, "test": rows},
        texts={split: [f"message {i} of {split}" for i in range(40)] for split in ("validation", "test")},
        threshold=0.5,
        step=STEPS,
    )
    logger.finalize("success")
    return run


@pytest.fixture(scope="module")
def address(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard that serves the run."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(finished_run), "--host", "127.0.0.1"]
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
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


T = TypeVar("T")


def poll(read: Callable[[], T], describe: Callable[[], str]) -> T:
    """What `read` returns once that is true; fails with the end of `describe()` after a while."""
    deadline = time.monotonic() + WAIT
    while not (result := read()):
        assert time.monotonic() < deadline, f"nothing after {WAIT} s; there was: {describe()[-2000:]}"
        time.sleep(0.2)
    return result


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


@pytest.mark.parametrize(("tag", "points"), [("train/loss", STEPS), ("val/loss", 2), ("val/f1", 2)])
def test_scalars(browser: Any, address: str, tag: str, points: int) -> None:
    show(browser, address, f"scalars&tagFilter={quote(tag, safe='')}", f"tag: {tag}")
    assert lines(browser, count=1) == [points]


def test_precision_recall_curves(browser: Any, address: str) -> None:
    show(browser, address, "pr_curves", "tag: validation", "tag: test", f"is at step {STEPS}")
    assert min(lines(browser, count=2)) > 100


def test_hyperparameters_and_final_metrics(browser: Any, address: str) -> None:
    page = show(browser, address, "hparams", "TABLE VIEW", "last_block", "0.81250")
    table = page[page.index("Trial ID") :]
    assert re.search(r"model.trainable optimizer.lr val/f1 test/f1 .*last_block 0.00010000 0.90000 0.81250", table)


def test_confusion_matrices(browser: Any, address: str) -> None:
    show(browser, address, "images", "tag: confusion matrix/validation", "tag: confusion matrix/test")


def test_misclassified_messages(browser: Any, address: str) -> None:
    show(browser, address, "text", "misclassified/test", "spam 0.3222 message 35 of test", "of validation")
