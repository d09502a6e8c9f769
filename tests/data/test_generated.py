"""Generated messages: shown is the training split alone, kept is what is new and of the label asked for."""

import numpy as np
import pandas as pd
import pytest
from tests.synthetic import write_collection

from spamlit.data.generated import NaiveBayes, NewAndFitting, check_generated, make_prompt
from spamlit.data.sms import parse
from spamlit.data.splits import make_splits

SPAM = "Congratulations! You have won a camera. Call 0901234567 now to claim"
HAM = "Are we still meeting for dinner at the station tonight Anna?"
HELD_OUT = "Free holiday voucher, you have won a weekend by the sea, claim now"


@pytest.fixture
def fitting():
    return NewAndFitting([SPAM, HAM, HELD_OUT], NaiveBayes([SPAM, HAM], ["spam", "ham"]))


@pytest.mark.parametrize(
    ("text", "label", "taken"),
    [
        ("You have won a holiday, claim your camera now", "spam", True),
        ("You have won a holiday, claim your camera now", "ham", False),
        ("Are you still at dinner, Anna? Meeting tonight", "ham", True),
        (SPAM.upper().replace("0901234567", "0999999999"), "spam", False),  # a repeat
        (SPAM + " ok", "spam", False),  # a copy with a word more
        (HELD_OUT[6:], "spam", False),  # a copy of what the words were not fitted on
        ("claim camera now", "spam", False),  # hardly a message
        ("You have won a holiday, claim your camera \ufffd now", "spam", False),
        ("xyzzy plugh frobozz quux", "spam", False),  # says nothing of its kind
        ("", "spam", False),
    ],
)
def test_kept_is_what_is_new_and_says_its_label(fitting, text, label, taken):
    assert fitting.take(text, label) is taken
    assert fitting.take(text, label) is False  # what was kept is known


def test_a_prompt_shows_short_messages_one_a_line():
    texts = [f"message {n}\n of\ttwo lines" for n in range(9)] + ["x" * 171]
    lines = make_prompt(texts, np.random.default_rng(0)).splitlines()
    assert len(set(lines)) == len(lines) == 6
    assert set(lines) <= {f"message {n} of two lines" for n in range(9)}
    assert make_prompt(texts, np.random.default_rng(1)).splitlines() != lines
    with pytest.raises(ValueError, match="no training message of at most 170 characters"):
        make_prompt(["x" * 171], np.random.default_rng(0))


@pytest.mark.parametrize("balance", ["none", "undersample", "oversample"])
def test_written_messages_join_the_training_split_that_they_imitate(tmp_path, balance):
    known = parse(write_collection(tmp_path / "sms", n_ham=60, n_spam=20))
    extra = pd.DataFrame({"id": [-1], "label": ["spam"], "text": ["Your toll is unpaid"], "origin": ["modern"]})
    plain = make_splits(known, balance=balance, extra=extra)
    new = "Your wallet is locked"
    asked = []

    def write(train, texts):
        asked.append((train, texts))
        repeats = [plain.test["text"].iloc[0], train["text"].iloc[0].upper(), "your toll is UNPAID!"]
        return pd.DataFrame({"label": "spam", "text": [*repeats, new, new.upper()]})

    splits = make_splits(known, balance=balance, extra=extra, write=write, copies=1)
    [(train, texts)] = asked
    assert set(train["text"]) == set(plain.train["text"]) - {"Your toll is unpaid"}
    assert set(texts) == set(known["text"]) | {"Your toll is unpaid"}
    for name in ("validation", "test", "reserve"):
        pd.testing.assert_frame_equal(splits.frames()[name], plain.frames()[name])
    written = splits.train[splits.train["origin"] == "generated"]
    assert set(written["text"]) == {new}
    assert set(written["id"]) < set(range(-10, -1))
    assert not set(written["group"]) & set(pd.concat(plain.frames().values())["group"])
    assert splits.train.drop_duplicates("id")["origin"].value_counts()["disguised"] == len(set(train["id"]))


@pytest.mark.parametrize("count", [-1, 0.5, True, None, "many"])
def test_what_is_no_count_is_refused(count):
    with pytest.raises(ValueError, match=f"data.generated.spam={count}: expected how many messages, 0 or more"):
        check_generated({"spam": count, "ham": 0})


@pytest.mark.parametrize("counts", [500, None, {"scam": 5}])
def test_what_names_no_label_is_refused(counts):
    with pytest.raises(ValueError, match=r"say how many of which label, as in data.generated.spam=500"):
        check_generated(counts)
