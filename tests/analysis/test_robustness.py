"""The tables of disguise and of harmless changes, for classifiers whose answers are known."""

import math

import pandas as pd
import pytest

from spamlit.analysis.robustness import MEAN, flipped_ham, obfuscated_scores
from spamlit.data.normalise import UNDONE, normalise
from spamlit.data.obfuscate import INVARIANCES, TRANSFORMS

SPAM = ["Claim prize", "Claim money", "Claim www.prize.com"]
HAM = ["See you tonight Anna", "Lunch at noon", "Where are you", "Call me at 5"]
FRAME = pd.DataFrame({"label": ["spam"] * 3 + ["ham"] * 4, "text": SPAM + HAM})


def by_word(texts):
    """Spam is what claims, or says `Lunch` like this; its probability is 0.6."""
    return [0.6 if "Claim" in text or "Lunch" in text else 0.1 for text in texts]


def test_the_rates_before_and_after():
    table = obfuscated_scores(by_word, FRAME, seed=1)
    assert table.index.tolist() == [*TRANSFORMS, MEAN]
    assert (table["recall_before"] == 1).all()
    assert table["fpr_before"].tolist() == pytest.approx([0.25] * len(table))
    for name in ("friendly", "emoji", "split_links"):  # no word is touched
        assert table.loc[name, ["recall_after", "fpr_after"]].tolist() == [1, 0.25]
    for name in ("full_width", "spacing", "leet", "swaps"):  # half of the words are, and `Claim` is half of them
        assert table.loc[name, "recall_after"] < 1
        assert table.loc[name, "changed"] == 1
    assert table.loc["split_links", "changed"] == pytest.approx(1 / 7)
    for column in table:
        assert table.loc[MEAN, column] == pytest.approx(table.drop(MEAN)[column].mean())


def test_the_threshold_decides():
    assert (obfuscated_scores(by_word, FRAME, threshold=0.7)["recall_before"] == 0).all()
    assert (obfuscated_scores(by_word, FRAME, threshold=0.6).loc["emoji", "recall_after"]) == 1


def test_what_normalisation_undoes_costs_nothing():
    table = obfuscated_scores(lambda texts: by_word([normalise(text, "unicode") for text in texts]), FRAME)
    for name in UNDONE:
        assert table.loc[name, ["recall_after", "fpr_after"]].tolist() == [1, 0.25]


def test_a_message_is_disguised_alike_in_any_company():
    seen: list[set[str]] = []

    def watch(texts):
        seen.append(set(texts))
        return by_word(texts)

    obfuscated_scores(watch, FRAME)
    obfuscated_scores(watch, FRAME.iloc[::-2])
    obfuscated_scores(watch, FRAME, seed=2)
    assert seen[1] < seen[0] != seen[2]


def test_a_label_without_messages_has_no_rate():
    table = obfuscated_scores(by_word, FRAME[FRAME["label"] == "ham"])
    assert all(math.isnan(rate) for rate in table["recall_after"])
    assert table["fpr_before"].tolist() == pytest.approx([0.25] * len(table))


def test_flips_are_counted_both_ways():
    ham = [f"See you {text}" for text in ("soon", "at 5", "there", "later", "Anna", "tonight", "on Monday", "at noon")]
    table = flipped_ham(lambda texts: [float(text.isupper() or text in ham[:4]) for text in texts], ham, seed=3)
    assert table.index.tolist() == [*INVARIANCES, MEAN]
    case = table.loc["case"]
    assert 0 < case["to_spam"] < case["flipped"] < 1  # capitals became spam; some of what was spam as written is ham
    assert (flipped_ham(lambda texts: [0.2] * len(texts), HAM)["flipped"] == 0).all()
    assert table.loc["numbers", "changed"] == pytest.approx(1 / 8)
