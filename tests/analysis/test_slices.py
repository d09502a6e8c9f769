"""Slices, counted by hand."""

import pandas as pd
import pytest

from spamlit.analysis.slices import capitals, currency, digits, language, length, link, slices
from spamlit.analysis.statistics import wilson

ROWS = pd.DataFrame(
    [
        ("WIN £1000 NOW www.win.com", "spam", 0.9),
        ("FREE entry, txt 80086", "spam", 0.2),  # missed
        ("Call 09061701461 for £5", "spam", 0.5),
        ("the meeting is at 5 with the others", "ham", 0.7),  # taken for spam
        ("ok", "ham", 0.1),
    ],
    columns=["text", "label", "probability"],
)


def test_mistakes_are_counted_in_each_slice() -> None:
    found = slices(ROWS, 0.5).set_index(["by", "slice"])
    counts = found[["n", "spam", "false_positives", "missed"]]
    assert counts.loc[("digits", "5 or more")].tolist() == [2, 2, 0, 1]
    assert counts.loc[("digits", "1 to 4")].tolist() == [2, 1, 1, 0]
    assert counts.loc[("digits", "none")].tolist() == [1, 0, 0, 0]
    assert counts.loc[("link", "yes")].tolist() == [1, 1, 0, 0]
    assert counts.loc[("currency", "yes")].tolist() == [2, 2, 0, 0]
    assert counts.loc[("capitals", "a tenth to a half")].tolist() == [3, 3, 0, 1]
    assert counts.loc[("capitals", "under a tenth")].tolist() == [2, 0, 1, 0]
    rate = found.loc[("digits", "5 or more"), ["rate", "low", "high"]].tolist()
    assert rate == pytest.approx(list(wilson(1, 2)))


def test_every_division_has_every_message_once() -> None:
    found = slices(ROWS, 0.5)
    assert (found.groupby("by")["n"].sum() == len(ROWS)).all()
    assert found.query("by == 'digits'")["slice"].tolist() == ["none", "1 to 4", "5 or more"]
    assert (found.groupby("by")[["false_positives", "missed"]].sum().sum(axis=1) == 2).all()


@pytest.mark.parametrize(
    ("sliced", "text", "name"),
    [
        (length, "x" * 160, "101 to 160"),
        (length, "x" * 161, "over 160"),
        (digits, "١٢٣٤٥", "5 or more"),
        (link, "bit.ly/3xY", "yes"),
        (link, "Fine.I am home", "no"),
        (link, "parcel-fee.top/pay", "yes"),
        (currency, "Rs 500 off", "yes"),
        (currency, "costs 150p/msg", "yes"),
        (currency, "2pm then", "no"),
        (capitals, "Are we on?", "a tenth to a half"),
        (language, "Salut, tu viens ce soir avec les autres ?", "French"),
        (language, "Hola, gracias por tu ayuda", "Spanish"),
        (language, "你好 ok", "unclear"),
        (language, "मुझे कॉल करो", "another script"),
        (language, "", "unclear"),
        (language, "yo q tal para", "unclear"),  # one word
    ],
)
def test_kinds_are_what_they_say(sliced, text: str, name: str) -> None:
    assert sliced(text) == name
