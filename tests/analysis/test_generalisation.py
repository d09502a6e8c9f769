"""What a classifier makes of other messages: measured from its answers alone, and told without loss."""

import json

import pandas as pd
import pytest

from spamlit.analysis import generalisation
from spamlit.analysis.challenge import load_challenge
from spamlit.data.normalise import UNDONE

TEST = pd.DataFrame(
    [("spam", f"free {n}") for n in range(6)] + [("ham", f"see you at {n} o'clock mate") for n in range(6)],
    columns=["label", "text"],
)


def by_words(texts):
    """Calls spam whatever says free, in any case."""
    return [0.9 if "free" in text.lower() else 0.1 for text in texts]


@pytest.fixture
def folders(tmp_path):
    """Two seeds of a classifier; the second is less sure."""
    made = []
    for seed, shift in enumerate((0.0, 0.05)):
        made.append(tmp_path / str(seed))
        made[-1].mkdir()
        scores = lambda texts, shift=shift: [p - shift for p in by_words(texts)]  # noqa: E731
        generalisation.measure(scores, 0.5, TEST, made[-1])
    return made


def test_what_is_written_is_what_was_answered(folders):
    found = json.loads((folders[0] / generalisation.FILE).read_text())
    dev = load_challenge("dev")
    flagged = pd.Series(by_words(dev["text"])) >= 0.5
    assert found["challenge"]["dev"]["recall"] == pytest.approx(flagged[dev["label"] == "spam"].mean())
    assert found["sentences"]["Are we still meeting for dinner tonight?"] == 0.1
    assert found["disguised"]["emoji"]["recall_after"] == 1  # the words are still there
    assert found["disguised"]["homoglyphs"]["recall_after"] == 0
    assert found["changed"]["names"]["to_spam"] == 0


def test_a_name_that_makes_spam_is_counted(tmp_path):
    ham = pd.DataFrame([("ham", f"Anna will be there at {n}") for n in range(100)], columns=["label", "text"])
    scores = lambda texts: [0.9 if "Anna" not in text else 0.1 for text in texts]  # noqa: E731
    generalisation.measure(scores, 0.5, pd.concat([ham, TEST[TEST["label"] == "spam"]]), tmp_path)
    [found] = generalisation.read([tmp_path])
    share = found["changed"]["names"]["to_spam"]
    assert share > 0.5
    names = generalisation.change_rows([found])[0]
    assert names[:3] == ["names", f"{100 * found['changed']['names']['changed']:.0f}", f"{100 * share:.2f}"]


def test_lines_are_means_over_the_seeds(folders):
    found = {"words": generalisation.read(folders)}
    dev, final = generalisation.challenge_rows(found)
    assert dev[:3] == ["words", "dev", "2"]
    assert final[:3] == ["words", "final", "2"]
    low, high = (float(bound) for bound in dev[-2].strip("[]").split(", "))
    assert low < float(dev[3].split()[0]) < high
    assert float(dev[4].split()[0]) == pytest.approx(found["words"][0]["challenge"]["dev"]["recall"], abs=5e-4)
    assert generalisation.sentence_rows(found)[0][:2] == ["words", "0.875 (0.850 to 0.900)"]
    disguised = generalisation.disguise_rows(found["words"])
    lost = {line[0]: float(line[2].split()[0]) for line in disguised}
    assert (lost["emoji"], lost["homoglyphs"]) == (0, 100)
    each = [value for name, value in lost.items() if name != "mean"]
    assert lost["mean"] == pytest.approx(sum(each) / len(each), abs=0.01)
    [[*costs, not_undone]] = generalisation.cost_rows(found)
    assert costs == ["words", "2", *disguised[-1][2:]]
    others = [value for name, value in lost.items() if name not in (*UNDONE, "mean")]
    assert float(not_undone.split()[0]) == pytest.approx(sum(others) / len(others), abs=0.01)
    for by in ("category", "variety"):
        rows = generalisation.error_rows(found["words"], "dev", by)
        assert sum(int(line[1]) for line in rows) == len(load_challenge("dev"))
        wrong = sum(found["words"][0]["challenge"]["dev"][f"errors/{line[0]}"] for line in rows)
        assert sum(float(line[2]) for line in rows) == pytest.approx(wrong)  # both seeds decide alike
    assert {line[0] for line in generalisation.change_rows(found["words"])} == {
        "names",
        "numbers",
        "case",
        "typos",
        "mean",
    }
