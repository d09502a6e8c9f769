"""What joins the training split: nothing that another split knows, each row under an id of its own."""

import pandas as pd
import pytest
from tests.synthetic import write_collection

from spamlit.data.additions import check_additions, disguised_copies, extra_path, new_messages, read_extra
from spamlit.data.corrections import save_correction
from spamlit.data.sms import parse, with_groups
from spamlit.data.splits import make_splits


@pytest.fixture
def known(tmp_path):
    return parse(write_collection(tmp_path / "sms", n_ham=60, n_spam=20))


@pytest.fixture
def extra(tmp_path, known):
    """Five messages: two new ones, a repeat of the first in capitals, and one known message in each of two files."""
    repeated = known["text"].iloc[0].upper().replace(",", "!")
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    rows = [("spam", "Crypto wallet locked"), ("ham", "Your code is 1234"), ("spam", "CRYPTO wallet, locked!")]
    pd.DataFrame([*rows, ("ham", repeated)], columns=["label", "text"]).to_csv(one, index=False)
    pd.DataFrame([("ham", known["text"].iloc[5])], columns=["label", "text"]).to_csv(two, index=False)
    return read_extra([str(one), str(two)])


@pytest.mark.parametrize("balance", ["none", "undersample", "oversample", "class_weights"])
@pytest.mark.parametrize("seed", range(3))
def test_only_new_messages_join_and_only_the_training_split(known, extra, balance, seed):
    plain = make_splits(known, balance=balance, seed=seed)
    splits = make_splits(known, balance=balance, seed=seed, extra=extra, copies=2)
    for name in ("validation", "test", "reserve"):
        pd.testing.assert_frame_equal(splits.frames()[name], plain.frames()[name])
    own, new, copies = (
        splits.train[splits.train["origin"].isin(some)] for some in (["source"], set(extra["origin"]), ["disguised"])
    )
    assert set(own["id"]) == set(plain.train["id"])
    assert set(new["id"]) == {-1, -2}
    assert set(new["group"]).isdisjoint(pd.concat(plain.frames().values())["group"])
    assert set(copies["group"]) == set(own["group"])
    elsewhere = pd.concat([splits.validation, splits.test, splits.reserve])
    assert set(splits.train["group"]).isdisjoint(elsewhere["group"])
    counts = splits.counts()["train"]
    if balance == "oversample":
        assert counts["ham"] == counts["spam"]
    else:
        assert len(splits.train) == 3 * len(plain.train) + 2
        assert sum(splits.origins().values()) == len(splits.train)


def test_ids_are_unique_and_name_the_message(known, extra):
    train = make_splits(known, balance="none", extra=extra, copies=3).train
    assert train["id"].is_unique
    copies = train[train["origin"] == "disguised"]
    step = 100  # the least power of ten above 84 ids
    originals = train.set_index("id").loc[copies["id"] % step]
    assert originals["group"].tolist() == copies["group"].tolist()
    assert originals["label"].tolist() == copies["label"].tolist()
    assert sorted(set(copies["id"] // step)) == [1, 2, 3]


def test_copies_are_those_of_the_message():
    train = pd.DataFrame({"id": [1, 2], "text": ["Win a free prize now", "See you at dinner tonight"]})

    def texts(rows, copies=1):
        return disguised_copies(rows, copies, ["leet", "swaps"])["text"].tolist()

    assert texts(train) == texts(train)
    assert texts(train.iloc[::-1]) == texts(train)[::-1]
    assert texts(train, copies=2)[:2] == texts(train)
    assert not set(texts(train, copies=2)) & set(train["text"])


def test_groups_are_numbered_on_behind_the_known_ones(known, extra):
    grouped = with_groups(known)
    assert new_messages(extra, grouped)["group"].tolist() == [grouped["group"].max() + 1, grouped["group"].max() + 2]


@pytest.mark.parametrize(
    ("copies", "extra", "message"),
    [
        (-1, [], r"data.obfuscate=-1: expected how many disguised copies, 0 or more"),
        (0.5, [], r"data.obfuscate=0.5"),
        (True, [], r"data.obfuscate=True"),
        (0, "modern", r"data.extra=modern: expected a list, such as \[modern\]"),
        (0, None, r"data.extra=None: expected a list"),
        (0, ["no/such.csv"], r"data.extra: no/such.csv .*is not a file; give paths of tables, or modern"),
        (0, [__file__, __file__], "twice"),
    ],
)
def test_bad_additions_are_refused(copies, extra, message):
    with pytest.raises(ValueError, match=message):
        check_additions(copies, extra)


def test_corrections_join_like_other_messages_and_the_last_word_counts(tmp_path, known):
    path = tmp_path / "said.sqlite"
    for label, text in [
        ("spam", "Crypto wallet locked"),
        ("ham", known["text"].iloc[0]),
        ("ham", "Crypto wallet locked"),
    ]:
        save_correction(path, label=label, text=text, probability=0.25)
    train = make_splits(known, balance="none", extra=read_extra([str(path)])).train
    new = train[train["origin"] == str(path)]
    assert new[["label", "text"]].values.tolist() == [["ham", "Crypto wallet locked"]]


def test_a_file_without_corrections_is_refused(tmp_path):
    (tmp_path / "other.db").write_text("a text of more than sixteen characters")
    with pytest.raises(OSError, match=r"other.db is not a file of corrections"):
        read_extra([str(tmp_path / "other.db")])
    with pytest.raises(OSError, match=r"none.sqlite is not a file of corrections"):
        read_extra([str(tmp_path / "none.sqlite")])


def test_the_packaged_supplement_is_a_file_of_the_package():
    assert extra_path("modern").parts[-3:] == ("spamlit", "resources", "modern.csv")
    assert extra_path("mine.csv").parts == ("mine.csv",)
