"""A planted repeat is found before everything else, and called one."""

import random
from itertools import islice

import pandas as pd
import pytest
from tests.synthetic import HAM, SPAM, messages

from spamlit.analysis.neighbours import neighbours
from spamlit.analysis.wording import wording


def train(n: int = 60) -> pd.DataFrame:
    texts = [*islice(messages(HAM, random.Random(0)), n), *islice(messages(SPAM, random.Random(1)), n)]
    return pd.DataFrame({"id": range(1, 2 * n + 1), "label": ["ham"] * n + ["spam"] * n, "text": texts})


def test_planted_repeats_come_first_and_are_named() -> None:
    known = train()
    same, near = known["text"][100], known["text"][70]
    found = neighbours([same.upper().replace("1", "2") + "!!", near + " Hurry up", "zzz qqq"], known, n=2)
    assert [len(each) for each in found] == [2, 2, 2]
    assert (found[0][0].id, found[0][0].label, found[0][0].repeat) == (101, "spam", "repeat")
    assert (found[1][0].id, found[1][0].text, found[1][0].repeat) == (71, near, "near-repeat")
    assert [each.repeat for each in found[2]] == ["", ""]
    assert all(first.similarity >= second.similarity for first, second in found)


def test_nothing_is_near_where_nothing_was_learnt() -> None:
    assert neighbours(["a"], train().head(0)) == [[]]
    assert neighbours([], train()) == []


def test_rows_have_length_one_and_fold_case_digits_and_spaces() -> None:
    rows = wording(["Call 0906 now", "call  1234 NOW", "", "a"])
    alike = (rows @ rows.T).toarray()
    assert alike.diagonal() == pytest.approx([1, 1, 1, 1])
    assert alike[0, 1] == pytest.approx(1)
    assert alike[0, 3] < 0.2
