"""Where the mistakes are: error rates by kind of message. A kind is what simple patterns see in the text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import regex  # type: ignore[import-untyped]  # `re` knows no currency signs and scripts

from spamlit.analysis.statistics import wilson

LINK = re.compile(
    r"https?://|\bwww\.|\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:(?:com|net|org|info|biz|tv|uk|ly|io)\b|[a-z]{2,}/\S)", re.I
)
CURRENCY = regex.compile(
    r"\p{Sc}|\b(?:rs|usd|gbp|eur|inr|ngn|sgd|pounds?|dollars?|euros?|rupees?|naira|cents?|pence)\b|\d\s?p\b", regex.I
)
FUNCTION_WORDS = {
    "English": "the you your is are was have has will not with for from this that what when and of to my i u ur it be",
    "French": "le les des une est vous tu je pas pour avec dans et ce moi votre vos sur",
    "Spanish": "el los las una que por para con tu usted gracias pero muy esta su ha y",
    "German": "der die das und ist nicht ich du sie ein eine mit für auf wir ihr ihre zu",
    "Italian": "il gli che non per una sono ciao con della tuo di e hai suo",
    "Portuguese": "o os uma você não para com que seu sua obrigado em mas está por",
    "Malay or Indonesian": "yang dan saya anda tidak untuk dengan ini itu aku kamu di",
    "Hindi in Latin letters": "hai kya nahi aap hum tum mera kar raha ho ka ki ke mein",
}
"""A few of each language's commonest words."""
_LANGUAGES = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}


def length(text: str) -> str:
    """By characters; 160 fit in one SMS."""
    bounds = ((40, "up to 40"), (100, "41 to 100"), (160, "101 to 160"))
    return next((name for most, name in bounds if len(text) <= most), "over 160")


def digits(text: str) -> str:
    """How many digits."""
    count = sum(character.isdigit() for character in text)
    return "none" if not count else "1 to 4" if count < 5 else "5 or more"


def link(text: str) -> str:
    """Whether there is a web address.

    >>> link("see http://x.example"), link("Go to dbuk.net now"), link("ok.then we meet")
    ('yes', 'yes', 'no')
    """
    return "yes" if LINK.search(text) else "no"


def currency(text: str) -> str:
    """Whether a currency is named, by sign or word.

    >>> currency("£1000 prize"), currency("150p a message"), currency("see you at 5pm")
    ('yes', 'yes', 'no')
    """
    return "yes" if CURRENCY.search(text) else "no"


def capitals(text: str) -> str:
    """How much of the letters are capitals.

    >>> capitals("CALL NOW"), capitals("call me"), capitals("42")
    ('over half', 'under a tenth', 'no letters')
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return "no letters"
    share = sum(character.isupper() for character in letters) / len(letters)
    return "under a tenth" if share < 0.1 else "a tenth to a half" if share <= 0.5 else "over half"


def language(text: str) -> str:
    """The language with most of its `FUNCTION_WORDS` in the text: a guess, which short messages often defeat.

    `another script` where most letters are not Latin; `unclear` where two languages tie, or no word is known. English
    words count twice and one word of another language is not enough: many an English abbreviation is a Spanish word.

    >>> language("Are we still meeting at the station?"), language("Salut, tu viens avec les enfants ?"), language("k")
    ('English', 'French', 'unclear')
    >>> language("Вы выиграли приз")
    'another script'
    """
    letters = regex.findall(r"\p{L}", text)
    if 2 * len(regex.findall(r"\p{Latin}", text)) < len(letters):
        return "another script"
    words = regex.findall(r"[\p{L}']+", text.lower())
    found = {name: sum(word in known for word in words) for name, known in _LANGUAGES.items()}
    found["English"] *= 2
    best = [name for name, count in found.items() if count == max(found.values())]
    return best[0] if len(best) == 1 and found[best[0]] > 1 else "unclear"


SLICES: dict[str, Callable[[str], str]] = {
    "characters": length,
    "digits": digits,
    "link": link,
    "currency": currency,
    "capitals": capitals,
    "language (guessed)": language,
}
"""What messages are divided by."""
ORDER = (
    *("none", "1 to 4", "5 or more"),
    *("up to 40", "41 to 100", "101 to 160", "over 160"),
    *("no", "yes"),
    *("no letters", "under a tenth", "a tenth to a half", "over half"),
    "unclear",
)
"""In which slices are shown; languages by their number of messages."""


def slices(rows: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """How often the decision is wrong in each slice.

    Args:
        rows: ``text``, ``label`` and ``probability`` of each message.
        threshold: Least probability that is spam.

    Returns:
        A row a slice that has messages: ``by``, ``slice``, ``n``, ``spam``, ``false_positives`` (ham taken for spam),
        ``missed`` (spam taken for ham), and ``rate`` of mistakes with ``low`` and ``high``, Wilson's 95 % interval.
    """
    spam, flagged = rows["label"] == "spam", rows["probability"] >= threshold
    table = pd.DataFrame({"n": 1, "spam": spam, "false_positives": flagged & ~spam, "missed": ~flagged & spam})
    found = []
    for by, sliced in SLICES.items():
        counted = table.groupby(rows["text"].map(sliced)).sum().sort_values("n", ascending=False, kind="stable")
        counted = counted.loc[sorted(counted.index, key=lambda name: ORDER.index(name) if name in ORDER else 0)]
        for name, counts in zip(counted.index, counted.to_dict("records"), strict=True):
            wrong = wilson(int(counts["false_positives"] + counts["missed"]), int(counts["n"]))
            numbers = [int(counts[str(column)]) for column in table]
            found.append((by, name, *numbers, *wrong))
    return pd.DataFrame(found, columns=["by", "slice", *table, "rate", "low", "high"])
