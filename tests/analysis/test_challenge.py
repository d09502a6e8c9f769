"""The challenge set is what it says: its halves, its kinds, no repeats, no templates, nothing of the collection."""

from collections import Counter, defaultdict
from itertools import combinations

import pandas as pd
import pytest

from spamlit.analysis.challenge import CATEGORIES, LOOKALIKES, SPAM, VARIETIES, challenge_scores, load_challenge
from spamlit.analysis.generalisation import SENTENCES
from spamlit.assets import fetch
from spamlit.data.additions import extra_path
from spamlit.data.sms import group_key, parse, read_labelled


@pytest.fixture(scope="module")
def everything():
    """Both halves, for properties of the file; no classifier sees them."""
    halves = {half: load_challenge(half) for half in ("dev", "final")}
    return pd.concat([frame.assign(half=half) for half, frame in halves.items()], ignore_index=True)


def trigrams(text):
    words = group_key(text).split()
    return set(zip(words, words[1:], words[2:], strict=False))


def test_each_half_holds_half_of_each_category(everything):
    counts = everything.groupby(["category", "half"]).size().unstack()
    assert set(counts.index) == set(CATEGORIES)
    assert (counts["dev"] == counts["final"]).all()
    assert counts.min().min() >= 8  # 15 messages and more in a category
    assert len(everything) >= 400
    assert everything["id"].is_unique


def test_the_label_follows_from_the_category(everything):
    assert (everything["label"] == everything["category"].isin(SPAM).map({True: "spam", False: "ham"})).all()
    shares = everything["category"].map(lambda c: "spam" if c in SPAM else "chat" if c == "chat" else "lookalike")
    shares = shares.value_counts(normalize=True)
    assert shares["lookalike"] == pytest.approx(0.45, abs=0.03)
    assert shares["spam"] == pytest.approx(0.40, abs=0.03)


def test_varieties_are_spread_over_halves_and_labels(everything):
    assert set(everything["variety"]) == set(VARIETIES)
    for _, part in everything.groupby(["half", "label"]):
        shares = part["variety"].value_counts(normalize=True).drop("other")
        assert shares.between(0.14, 0.24).all()


def test_texts_are_trimmed_and_of_every_length(everything):
    assert (everything["text"] == everything["text"].str.strip()).all()
    for _, lengths in everything["text"].str.len().groupby(everything["label"]):
        assert lengths.min() < 25
        assert 350 < lengths.max() <= 400


def test_no_message_repeats_another_or_was_made_from_its_template(everything):
    keys = everything["text"].map(group_key)
    assert keys.is_unique
    assert not set(keys) & {group_key(text) for text in SENTENCES}
    grams = [found for found in everything["text"].map(trigrams) if found]
    assert max(len(a & b) / min(len(a), len(b)) for a, b in combinations(grams, 2)) <= 0.5


def most_shared(texts, others):
    """Of each text, the share of its word trigrams that stand in any one of the others."""
    holders = defaultdict(set)
    for number, text in enumerate(others):
        for gram in trigrams(text):
            holders[gram].add(number)
    for text in texts:
        found = trigrams(text)
        shared = Counter(number for gram in found for number in holders.get(gram, ()))
        yield max(shared.values(), default=0) / max(len(found), 1)


@pytest.mark.assets
def test_no_message_stands_in_the_collection_or_shares_half_its_wording(everything):
    collection = parse(fetch("SMSSpamCollection"))["text"]
    assert not set(everything["text"].map(group_key)) & set(collection.map(group_key))
    assert max(most_shared(everything["text"], collection)) <= 0.5


def test_the_training_supplement_shares_no_message_and_little_wording(everything):
    supplement = read_labelled(extra_path("modern"))["text"]
    assert not set(supplement.map(group_key)) & set(everything["text"].map(group_key))
    assert max(most_shared(everything["text"], supplement)) <= 0.25
    assert max(most_shared(supplement, everything["text"])) <= 0.25


def test_the_training_supplement_has_none_of_the_sentences_that_are_shown():
    supplement = read_labelled(extra_path("modern"))["text"]
    assert not {group_key(text) for text in SENTENCES} & set(supplement.map(group_key))
    assert max(most_shared(SENTENCES, supplement)) <= 0.5


def test_no_surface_habit_gives_the_label_away(everything):
    habits = (
        r"!",
        r"\?$",
        r"https?://|\w\.[a-z]{2,}/",
        r"\d",
        r"[A-Z]{4}",
        r"[.!?]$",
        r"(?i)\bfree\b",
        r"(?i)please|pls",
    )
    spam = everything["label"] == "spam"
    for habit in habits:
        there = everything["text"].str.contains(habit)
        assert (there[spam].mean() + 1 - there[~spam].mean()) / 2 == pytest.approx(0.5, abs=0.1), habit


def test_there_are_two_halves():
    with pytest.raises(ValueError, match="no half 'test'; choose from dev, final"):
        load_challenge("test")


HAND = pd.DataFrame(
    [("ham", "chat"), ("ham", "school"), ("ham", "school"), ("ham", "promotion"), ("spam", "crypto"), ("spam", "loan")],
    columns=["label", "category"],
    index=[7, 3, 9, 1, 0, 4],
).assign(variety=["indian", "british", "indian", "british", "other", "british"])


def test_scores_of_a_case_by_hand():
    scores = challenge_scores(HAND, [0.1, 0.7, 0.2, 0.69, 0.7, 0.3], threshold=0.7)
    assert scores == {
        "balanced_accuracy": pytest.approx((1 / 2 + 3 / 4) / 2),
        "recall": 0.5,
        "fpr": 0.25,
        "lookalike_fpr": pytest.approx(1 / 3),
        "chat_fpr": 0.0,
        "errors/chat": 0,
        "errors/school": 1,
        "errors/promotion": 0,
        "errors/crypto": 0,
        "errors/loan": 1,
        "errors/indian": 0,
        "errors/british": 2,
        "errors/other": 0,
    }


def test_a_constant_classifier_is_worth_a_half():
    dev = load_challenge("dev")
    scores = challenge_scores(dev, [1.0] * len(dev), threshold=0.5)
    assert (scores["balanced_accuracy"], scores["recall"], scores["lookalike_fpr"]) == (0.5, 1, 1)
    assert sum(scores[f"errors/{category}"] for category in LOOKALIKES) == dev["category"].isin(LOOKALIKES).sum()


@pytest.mark.parametrize(
    ("rows", "probability", "message"),
    [
        (HAND, [0.5] * 5, r"6 messages need as many probabilities, got an array of shape \(5,\)"),
        (HAND, [0.5, 0.5, 0.5, 1.5, 0.5, 0.5], "from 0 to 1, got 1.5"),
        (HAND, [0.5, float("nan"), 0.5, 0.5, 0.5, 0.5], "from 0 to 1, got nan"),
        (HAND[1:5], [0.5] * 4, "holds no chat;"),
        (HAND[:1], [0.5], "holds no spam and no look-alike ham"),
    ],
)
def test_what_cannot_be_scored_is_named(rows, probability, message):
    with pytest.raises(ValueError, match=message):
        challenge_scores(rows, probability, threshold=0.5)
