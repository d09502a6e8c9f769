"""The server's page in a browser: type, verdict, highlight, correction, table; accessible, no console errors."""

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import MARKS, chromium, poll
from tests.runs import tiny_run
from tests.serving import Server, served

from spamlit.data.corrections import read_corrections
from spamlit.inference.labelling import label_values
from spamlit.inference.predictor import Predictor

pytestmark = MARKS
TEXT = "WINNER!! You have won a prize, call now <b>&</b> 😀"
SIZES = {"phone": (375, 812, True), "desktop": (1280, 900, False)}
TABLE = (
    'id,text,note\r\n1,"You won, call ""now""\nor never",=1+1\r\n'
    '2,see you tonight,-5\r\n\r\n3,,"@home"\r\n4,{long},\r\n5,a\0b,\r\n'
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "trainer.max_epochs=2", "data.reserve=false").folder


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def server(run: Path, downloads: Path) -> Iterator[Server]:
    (downloads / "token").write_text("sesame\n")
    options = ["--corrections", str(downloads / "said.sqlite"), "--token-file", str(downloads / "token")]
    with served(run, downloads / "log", *options) as server:
        yield server


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("chromium"), downloads) as driver:
        yield driver


class Page:
    """What a person does and sees."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        if self.poll(lambda: self("access").is_displayed() or self("about").text) is True:
            self("token").send_keys("sesame\n")
            self.poll(lambda: self("about").text)

    def __call__(self, identity: str) -> Any:
        return self.browser.find_element("id", identity)

    def poll(self, read: Any) -> Any:
        return poll(read, lambda: str(self.browser.find_element("tag name", "body").text))

    def check(self, text: str) -> None:
        """Pastes (the driver types no emoji), and waits for verdict and explanation."""
        self.browser.execute_script("arguments[0].value = arguments[1]", self("message"), text)
        self("message").send_keys("\ue009\ue007")  # Control, Enter
        self.poll(lambda: self("summary").text.startswith("Towards"))

    def errors(self) -> list[str]:
        """On the console, but for the refusal that asks for the token."""
        return [line["message"] for line in self.browser.get_log("browser") if "401" not in line["message"]]


@pytest.fixture
def page(browser: Any, server: Server) -> Page:
    return Page(browser, server.address)


def test_type_verdict_highlight_correction(page: Page, run: Path, downloads: Path) -> None:
    page.check(TEXT)
    (said,) = Predictor.load(run).classify([TEXT])
    name = {"spam": "Spam", "ham": "Not spam"}[said.label]
    assert page("verdict").text.startswith(f"{name}\n{said.probability:.1%}".replace("%", " %"))
    assert page("verdict").get_attribute("aria-live") == "polite"
    assert page("words").text == TEXT
    marked = page("words").find_elements("tag name", "span")
    assert {mark.get_attribute("class")[:-2] for mark in marked} <= {"spam", "ham"}
    assert marked
    strongest = next(mark for mark in marked if mark.get_attribute("class").endswith("3"))
    assert f"“{strongest.text}”" in page("summary").text
    assert strongest.value_of_css_property("text-decoration-line") == "underline"
    page("wrong").click()
    page.poll(lambda: page("saved").text.startswith("Saved as"))
    assert not page("wrong").is_enabled()
    kept = read_corrections(downloads / "said.sqlite")
    assert kept[["label", "text"]].values.tolist() == [["ham" if said.label == "spam" else "spam", TEXT]]
    assert page.errors() == []


def test_examples_and_refusals(page: Page) -> None:
    page.browser.find_elements("css selector", "#examples button")[1].click()
    page.poll(lambda: page("summary").text.startswith("Towards"))
    assert "dinner" in page("words").text
    page.browser.execute_script("arguments[0].value = 'a'.repeat(10001)", page("message"))
    page("message").send_keys("\ue009\ue007")
    page.poll(lambda: page("failure").is_displayed())
    assert "has 10001 characters; send at most 10000" in page("failure").text
    assert not page("details").is_displayed()
    assert all("422" in line for line in page.errors())


def test_a_table_comes_back_with_every_row_and_no_formula(page: Page, run: Path, downloads: Path) -> None:
    long = "x" * 10_001
    (downloads / "mine.csv").write_text(TABLE.format(long=long), encoding="utf-8", newline="")
    page("file").send_keys(str(downloads / "mine.csv"))
    page.poll(lambda: page("table-form").is_displayed())
    assert page("column").get_property("selectedOptions")[0].text == "text"
    page("table-form").find_element("class name", "primary").click()
    page.poll(lambda: page("download").is_displayed())
    assert page("table-status").text.startswith("5 messages: ")
    page("download").click()
    result = downloads / "mine-labelled.csv"
    page.poll(result.is_file)
    with result.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "text", "note", "label", "probability", "flag"]
    texts = ['You won, call "now"\nor never', "see you tonight", "", long, "a\0b"]
    assert [row[:3] for row in rows] == [
        ["1", texts[0], "'=1+1"], ["2", texts[1], "-5"], ["3", "", "'@home"], ["4", long, ""], ["5", "a\0b", ""]
    ]  # fmt: skip
    said = label_values(Predictor.load(run), texts, None, None)  # of the command
    assert [(row[3], row[5]) for row in rows] == [(one.label, one.flag) for one in said]
    assert [float(row[4]) for row in rows] == pytest.approx([one.probability for one in said], abs=1e-5)
    assert [row[5] for row in rows] == ["", "", "empty", "truncated", "NUL"]
    assert page.errors() == []


def test_many_rows_in_another_form(page: Page, downloads: Path) -> None:
    rows = "".join(f"{i};message {i}\n" for i in range(450))
    (downloads / "many.csv").write_text("label;sms\n" + rows)
    (downloads / "latin.csv").write_bytes(b"text\ncaf\xe9\n")
    page("file").send_keys(str(downloads / "many.csv"))
    page.poll(lambda: page("table-form").is_displayed())
    page("table-form").submit()
    page.poll(lambda: page("download").is_displayed())
    page("download").click()
    page.poll((downloads / "many-labelled.csv").is_file)
    header, *lines = (downloads / "many-labelled.csv").read_text("utf-8-sig").splitlines()
    assert header == "label;sms;spamlit_label;probability;flag"
    assert [line.split(";")[1] for line in lines] == [f"message {i}" for i in range(450)]
    page("file").send_keys(str(downloads / "latin.csv"))
    page.poll(lambda: "latin.csv" in page("table-status").text)
    page("table-form").submit()
    page.poll(lambda: page("table-failure").is_displayed())
    assert "latin.csv is not UTF-8" in page("table-failure").text
    assert not page("download").is_displayed()
    assert page.errors() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_accessible_and_in_the_frame(page: Page, size: str, scheme: str, tmp_path: Path, downloads: Path) -> None:
    """Axe finds nothing, nothing sticks out sideways; leaves a picture (also in the folder SPAMLIT_PICTURES)."""
    axe = pytest.importorskip("axe_core_python.base")
    width, height, mobile = SIZES[size]
    tell = page.browser.execute_cdp_cmd
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    tell("Emulation.setDeviceMetricsOverride", metrics)
    features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]
    tell("Emulation.setEmulatedMedia", {"features": [{"name": name, "value": value} for name, value in features]})
    page.check(TEXT)
    (downloads / "few.csv").write_text("text\nhello\nCall 0906 to claim\n")
    page("file").send_keys(str(downloads / "few.csv"))
    page.poll(lambda: page("table-form").is_displayed())
    page("table-form").submit()
    page.poll(lambda: page("download").is_displayed())
    page.browser.execute_script(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 15
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= width
    full = page.browser.execute_script("return document.documentElement.scrollHeight")
    tell("Emulation.setDeviceMetricsOverride", {**metrics, "height": full})
    picture = tmp_path / f"{size}-{scheme}.png"
    page.browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000
    if folder := os.environ.get("SPAMLIT_PICTURES"):
        shutil.copy(picture, Path(folder))


def test_the_keyboard_reaches_everything_in_reading_order(page: Page) -> None:
    page.check("You have won a prize")
    page.browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.browser.execute_script("document.querySelector('h1').tabIndex = -1; document.querySelector('h1').focus()")
    reached = []
    for _ in range(8):
        page.browser.switch_to.active_element.send_keys("\ue004")  # Tab
        active = page.browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text)
    assert reached[:3] == ["message", "Check", "wrong"]
    assert "dinner" in reached[4]
    assert reached[7] == "file"
