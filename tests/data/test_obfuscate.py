"""The suite: seeded, visible where it is meant to be, and gentle where it must be."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamlit.data.obfuscate import AUGMENTATIONS, INVARIANCES, LINK, TRANSFORMS, disguise, generator

SPAM = "WINNER! You have won a £1000 prize, claim it at www.prize4you.co.uk/claim or call 09061701461 today"
HAM = "Hi Anna, are we still meeting at 7 for dinner tonight?"
ALL = TRANSFORMS | INVARIANCES


@pytest.mark.parametrize("name", ALL)
@given(text=st.text(max_size=60), seed=st.integers(0, 2**32))
def test_the_generator_decides_and_any_text_is_taken(name, text, seed):
    first, second = (ALL[name](text, np.random.default_rng(seed)) for _ in range(2))
    assert first == second
    assert type(first) is str


@pytest.mark.parametrize("name", ALL)
def test_each_changes_a_message_and_seeds_change_it_otherwise(name):
    results = {ALL[name](SPAM, np.random.default_rng(seed)) for seed in range(20)}
    assert results - {SPAM}
    assert len(results) > 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_disguise_leaves_half_of_the_words_and_all_numbers(name):
    """What a reader needs: the number to call, and enough words as they were."""
    for seed in range(20):
        disguised = TRANSFORMS[name](SPAM, np.random.default_rng(seed))
        assert "09061701461" in disguised
        left = set(re.findall(r"\w+", SPAM)) & set(re.findall(r"\w+", disguised))
        assert len(left) >= len(set(re.findall(r"\w+", SPAM))) / 2


@pytest.mark.parametrize("name", sorted(TRANSFORMS.keys() - {"split_links"}))
def test_links_stay_whole_but_where_they_are_split(name):
    for seed in range(20):
        assert "www.prize4you.co.uk/claim" in TRANSFORMS[name](SPAM, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see http://a.bc/d?e=1 now", ["http://a.bc/d?e=1"]),
        ("go to bit.ly/3xYz, ok", ["bit.ly/3xYz,"]),
        ("Prize.CO.UK or my-shop.top", ["Prize.CO.UK", "my-shop.top"]),
        ("ok.see you at 7.30 in the U.S.", []),
    ],
)
def test_links_are_found(text, links):
    assert [match[0] for match in LINK.finditer(text)] == links


def test_split_links_are_links_no_more():
    for seed in range(20):
        assert not LINK.search(TRANSFORMS["split_links"]("http://prize.com", np.random.default_rng(seed)))
    assert TRANSFORMS["split_links"](HAM, np.random.default_rng(0)) == HAM


def test_what_is_measured_was_not_learnt_by_heart():
    """Emoji and friendly sentences of the suite and of the augmentation share nothing."""
    assert not set(TRANSFORMS["friendly"].keywords["pool"]) & set(AUGMENTATIONS["friendly"].keywords["pool"])
    assert not set(TRANSFORMS["emoji"].keywords["pool"]) & set(AUGMENTATIONS["emoji"].keywords["pool"])


def test_a_disguised_message_is_another_one():
    assert all(disguise(SPAM, np.random.default_rng(seed)) != SPAM for seed in range(50))
    only = {disguise(HAM, np.random.default_rng(seed), ["leet"]) for seed in range(20)}
    assert all(len(text) == len(HAM) for text in only)


@pytest.mark.parametrize("seed", range(10))
def test_harmless_changes_say_the_same(seed):
    def changed(name: str) -> str:
        return INVARIANCES[name](SPAM, np.random.default_rng(seed))

    assert re.sub(r"\d", "9", changed("numbers")) == re.sub(r"\d", "9", SPAM)
    assert changed("case").casefold() == SPAM.casefold()
    assert changed("names").startswith(SPAM)  # nobody is named in it: one more name
    assert abs(len(changed("typos")) - len(SPAM)) <= 3
    other = INVARIANCES["names"](HAM, np.random.default_rng(seed))
    assert re.fullmatch(HAM.replace("Anna", r"\w+").replace("?", r"\?"), other)


def test_a_texts_generator_knows_no_company():
    draws = {(seed, key, text): generator(seed, key, text).random() for seed in (0, 1) for key in "ab" for text in "xy"}
    assert len(set(draws.values())) == 8
    assert generator(1, "b", "y").random() == draws[1, "b", "y"]
    generator(0, "a", "\ud800")  # a lone surrogate is a text as well
