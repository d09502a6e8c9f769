"""Planted label errors are found, and little else."""

import random
from itertools import islice

import numpy as np
import pandas as pd
from tests.synthetic import HAM, SPAM, messages

from spamlit.analysis.label_errors import _folds, out_of_fold, suspected_labels
from spamlit.data.sms import with_groups

PLANTED = [3, 40, 130]


def collection() -> pd.DataFrame:
    """100 ham and 50 spam, of which two ham and a spam are given the other label."""
    texts = [*islice(messages(HAM, random.Random(0)), 100), *islice(messages(SPAM, random.Random(1)), 50)]
    labels = ["ham"] * 100 + ["spam"] * 50
    for n in PLANTED:
        labels[n] = "spam" if labels[n] == "ham" else "ham"
    return pd.DataFrame({"id": range(150), "label": labels, "text": texts, "split": "train"})


def test_planted_errors_come_first() -> None:
    found = suspected_labels(collection())
    assert set(found["id"][:3]) == set(PLANTED)
    assert len(found) <= 6
    assert found.columns.tolist() == ["id", "label", "text", "split", "group", "out_of_fold"]
    surely = np.where(found["label"] == "spam", found["out_of_fold"], 1 - found["out_of_fold"])
    assert surely.tolist() == sorted(surely)


def test_a_repeat_cannot_vouch_for_its_twin() -> None:
    table = collection()
    twins = table.loc[PLANTED].assign(id=[200, 201, 202], text=lambda rows: rows["text"].str.upper() + "!")
    assert set(suspected_labels(pd.concat([table, twins]))["id"]) >= {*PLANTED, 200, 201, 202}


def test_each_group_is_in_one_fold_and_each_fold_has_both_labels() -> None:
    table = with_groups(pd.concat([collection(), collection()]))
    table["fold"] = _folds(table)
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    assert (table.groupby("fold")["label"].nunique() == 2).all()


def test_one_label_alone_is_not_suspected() -> None:
    ham = collection().query("label == 'ham'")
    assert suspected_labels(ham).empty
    assert (out_of_fold(with_groups(ham)) < 0.1).all()
