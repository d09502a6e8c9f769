from typing import get_args

import numpy as np
import pandas as pd
import pytest
from tests.synthetic import write_collection

from spamlit.assets import fetch
from spamlit.data.additions import read_extra
from spamlit.data.sms import parse, parse_quoted
from spamlit.data.splits import FITTED, Split, make_splits, read_split, write_splits


@pytest.fixture
def frame(tmp_path):
    return parse(write_collection(tmp_path / "sms", n_ham=60, n_spam=20, repeats=15))


@pytest.mark.parametrize("balance", ["undersample", "oversample", "class_weights", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_groups_never_straddle_and_nothing_is_lost(frame, balance, seed):
    splits = make_splits(frame, balance=balance, seed=seed)
    groups = [set(part["group"]) for part in splits.frames().values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 80
    assert splits.dropped == 15
    distinct = splits.train.drop_duplicates("id")
    assert len(distinct) + sum(len(part) for part in list(splits.frames().values())[1:]) == 80


@pytest.mark.parametrize("split", get_args(Split))
def test_with_and_without_pyarrow_the_splits_are_the_same(tmp_path, split):
    """Where pyarrow is installed (some extras bring it), pandas keeps text with it, and otherwise with Python."""
    pytest.importorskip("pyarrow", reason='pip install "spamlit[parquet]"')
    collection = write_collection(tmp_path / "sms", n_ham=60, n_spam=20, repeats=15)
    (tmp_path / "extra.csv").write_text('label,text\nspam,"Zürich 😀\nNA"\nham, \u3000Straße\u0085\nspam,a\0b\n')
    written = []
    for storage in ("python", "pyarrow"):
        with pd.option_context("mode.string_storage", storage):
            messages = (parse_quoted if split == "random" else parse)(collection)
            assert messages["text"].dtype.storage == storage
            extra = read_extra([str(tmp_path / "extra.csv")])
            splits = make_splits(messages, split=split, balance="oversample", extra=extra, copies=1)
            write_splits(splits, tmp_path / storage)
            written.append({path.name: path.read_bytes() for path in (tmp_path / storage).iterdir()})
    assert written[0] == written[1]
    assert written[0]


def test_seeds_decide(frame):
    a, b, c = (make_splits(frame, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(a.train, b.train)
    assert not a.train.equals(c.train)


@pytest.mark.parametrize(
    ("balance", "counts"),
    [
        ("undersample", [(14, 14), (2, 2), (4, 4), (40, 0)]),
        ("oversample", [(42, 42), (6, 2), (12, 4), (0, 0)]),
        ("none", [(42, 14), (6, 2), (12, 4), (0, 0)]),
    ],
)
def test_balance(frame, balance, counts):
    found = make_splits(frame, balance=balance).counts()
    assert [(part["ham"], part["spam"]) for part in found.values()] == counts


def test_undersampling_works_both_ways(tmp_path):
    mostly_spam = parse(write_collection(tmp_path / "sms", n_ham=20, n_spam=60))
    counts = make_splits(mostly_spam).counts()
    assert counts["train"] == {"ham": 14, "spam": 14}
    assert counts["reserve"] == {"ham": 0, "spam": 40}


def test_a_group_with_both_labels_keeps_its_first_message(frame):
    twin = frame[frame["label"] == "spam"].tail(1).assign(label="ham", id=1000)
    with pytest.warns(UserWarning, match=r"under both labels \(ids .*1000"):
        splits = make_splits(pd.concat([frame, twin]), balance="none")
    assert 1000 not in pd.concat(splits.frames().values())["id"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "gruoped"}, "data.split=gruoped is not known; choose from grouped, random, challenge"),
        ({"balance": "smote"}, "data.balance=smote .* undersample, oversample, class_weights, none"),
        ({"fractions": (0.7, 0.1, 0.1)}, "add up to 1"),
        ({"fractions": (0.8, 0.2)}, "three numbers"),
        ({"fractions": (0.8, 0.2, 0.0)}, "above 0"),
        ({"fractions": (0.97, 0.01, 0.02)}, "validation split has no ham"),
    ],
)
def test_bad_choices(frame, options, message):
    with pytest.raises(ValueError, match=message):
        make_splits(frame, **options)


def test_a_class_without_messages(frame):
    with pytest.raises(ValueError, match="no message is labelled 'spam'"):
        make_splits(frame[frame["label"] == "ham"])
    one = pd.concat([frame[frame["label"] == "ham"], frame[frame["label"] == "spam"].head(1)])
    with pytest.raises(ValueError, match="split has no spam"):
        make_splits(one, balance="oversample")


def test_written_splits_read_back(frame, tmp_path):
    odd = ["NA", 'say "hi", now', "two\nlines", "carriage\rreturn", " spaces ", "1234", "nan", "é ü £ 😀"]
    splits = make_splits(frame, balance="none")
    splits.train.loc[range(len(odd)), "text"] = odd
    paths = write_splits(splits, tmp_path / "run")
    assert [path.name for path in paths] == ["train.csv", "validation.csv", "test.csv"]
    for name, path in zip(FITTED, paths, strict=True):
        pd.testing.assert_frame_equal(read_split(path), splits.frames()[name])


def lesson_splits(path):
    """Chapter 6 of LLMs-from-scratch, as printed."""
    df = pd.read_csv(path, sep="\t", header=None, names=["Label", "Text"])
    num_spam = df[df["Label"] == "spam"].shape[0]
    ham_subset = df[df["Label"] == "ham"].sample(num_spam, random_state=123)
    df = pd.concat([ham_subset, df[df["Label"] == "spam"]])
    df = df.sample(frac=1, random_state=123).reset_index(drop=True)
    train_end = int(len(df) * 0.7)
    validation_end = train_end + int(len(df) * 0.1)
    return df[:train_end], df[train_end:validation_end], df[validation_end:]


@pytest.mark.assets
def test_the_lessons_splits_row_for_row():
    path = fetch("SMSSpamCollection")
    splits = make_splits(parse_quoted(path), split="random", balance="undersample", seed=123)
    published = lesson_splits(path)
    assert [len(part) for part in published] == [1045, 149, 300]
    for name, part in zip(FITTED, published, strict=True):
        ours = splits.frames()[name]
        assert ours["text"].tolist() == part["Text"].tolist()
        assert ours["label"].tolist() == part["Label"].tolist()
    assert not set(splits.reserve["group"]) & set(pd.concat([splits.train, splits.validation, splits.test])["group"])
    assert splits.reserve["group"].is_unique


@pytest.mark.assets
def test_the_package_of_the_lesson_agrees():
    ch06 = pytest.importorskip("llms_from_scratch.ch06")
    path = fetch("SMSSpamCollection")
    balanced = ch06.create_balanced_dataset(pd.read_csv(path, sep="\t", header=None, names=["Label", "Text"]))
    published = ch06.random_split(balanced, 0.7, 0.1)
    splits = make_splits(parse_quoted(path), split="random", seed=123)
    for name, part in zip(FITTED, published, strict=True):
        assert splits.frames()[name]["text"].tolist() == part["Text"].tolist()


@pytest.mark.assets
def test_the_default_and_the_challenge_on_the_collection():
    frame = parse(fetch("SMSSpamCollection"))
    counts = make_splits(frame).counts()
    assert [tuple(part.values()) for part in counts.values()] == [(425, 425), (61, 61), (121, 121), (3895 - 1, 0)]
    challenge = make_splits(frame, split="challenge", balance="none", seed=42)
    assert [len(part) for part in challenge.frames().values()] == [4000, 1000, 574, 0]
    order = np.random.default_rng(42).permutation(5574)
    assert challenge.train["id"].tolist() == (order[:4000] + 1).tolist()
