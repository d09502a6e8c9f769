"""How spammers disguise a message, and harmless changes that must not matter.

Each transform is a function of a text and a generator: what it draws, it draws from there. A text that offers nothing
to change (no link to split) comes back as it was. Links keep their letters, or nobody could follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from zlib import crc32

import numpy as np
import regex  # type: ignore[import-untyped]  # `re` cannot skip what it has matched

Transform = Callable[[str, np.random.Generator], str]
Change = Callable[[str], str]

SHARE = 0.5  # of the words that a disguise changes
LETTERS = 0.5  # of the letters, in a word that it changes

_LINK = (
    r"(?:https?://|www\.)\S+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|info|biz|uk|ly|tv|io|sg|top|xyz|link|shop|site|app)\b"
    r"(?:/\S*)?"
)
LINK = regex.compile(_LINK, regex.IGNORECASE)
WORD = regex.compile(rf"(?i:{_LINK})(*SKIP)(*FAIL)|[A-Za-z]{{3,}}")

HOMOGLYPHS = {
    "a": "а", "c": "с", "d": "ԁ", "e": "е", "h": "һ", "i": "і", "j": "ј", "o": "оο", "p": "рρ", "q": "ԛ", "s": "ѕ",
    "u": "υ", "v": "ν", "w": "ԝ", "x": "х", "y": "уγ",
    "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "G": "Ԍ", "H": "НΗ", "I": "ІΙ", "J": "Ј", "K": "КΚ", "M": "МΜ",
    "N": "Ν", "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "V": "Ѵ", "W": "Ԝ", "X": "ХΧ", "Y": "ҮΥ", "Z": "Ζ",
}  # fmt: skip  # Cyrillic and Greek
LEET = {"a": "4@", "b": "8", "e": "3", "g": "9", "i": "1!", "l": "1", "o": "0", "s": "5$", "t": "7", "z": "2"}
LEET |= {letter.upper(): others for letter, others in LEET.items()}
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\u00ad", "\ufeff")
SEPARATORS = (" ", " ", " ", ".", "-", "_", "*")
DOTS = (" . ", " .", ". ", "[.]", "(.)", " dot ", "(dot)")
EMOJI = tuple("🎉🔥💰🎁😍✅🏆💸🤑⭐👉🎊😀💵🥳📱✨❗🚨😎💯🙌👇❤")

# Even places are for measuring, odd ones for training: what is measured has not been learnt by heart.
FRIENDLY = (
    "Hi mate, hope you're well.", "Hope you had a lovely weekend.",
    "See you at dinner tonight then.", "I'll be home around six, love.",
    "Sorry I missed your call earlier, was driving.", "Just got out of the meeting, phew.",
    "Mum says hi and thanks for the flowers.", "Say hello to your sister from me.",
    "Don't forget the milk on your way back.", "Did you feed the cat this morning?",
    "Haha yeah that was so funny yesterday.", "Lol you always say that.",
    "Are we still on for the match on Sunday?", "Shall we get coffee after class?",
    "The kids really enjoyed the park, thank you.", "Grandad is feeling much better now.",
    "Good luck with your exam tomorrow!", "Happy birthday, hope it's a good one!",
    "I'm on the bus, there in ten minutes.", "Running late, traffic is awful, sorry.",
    "Let me know when you get there safe.", "Text me when you land ok?",
    "It's been ages, we should catch up soon.", "Miss you, come and visit us some time.",
)  # fmt: skip
NAMES = (
    "Anna", "Ben", "Carlos", "Chloe", "Daniel", "David", "Deepa", "Emma", "Fatima", "George", "Grace", "Hannah",
    "Ibrahim", "Jack", "James", "Jane", "John", "Kate", "Kofi", "Laura", "Li", "Lucy", "Maria", "Mark", "Mary", "Mei",
    "Mike", "Mohammed", "Ngozi", "Nick", "Paul", "Peter", "Priya", "Rachel", "Rahul", "Raj", "Rob", "Sam", "Sarah",
    "Steve", "Tom", "Tunde", "Wei", "Yusuf", "Zoe",
)  # fmt: skip
_NAME = regex.compile(rf"\b(?:{'|'.join(NAMES)})\b")


def _change(text: str, rng: np.random.Generator, change: Change, share: float = SHARE) -> str:
    """``change`` on a share of the words of three letters or more, one at least."""
    places = [match.span() for match in WORD.finditer(text)]
    if not places:
        return text
    chosen = rng.choice(len(places), max(1, round(share * len(places))), replace=False)
    for start, stop in sorted((places[i] for i in chosen), reverse=True):
        text = text[:start] + change(text[start:stop]) + text[stop:]
    return text


def _substitute(word: str, rng: np.random.Generator, table: Mapping[str, str]) -> str:
    """A share of the word's letters, one at least, as the table has them."""
    places = [i for i, letter in enumerate(word) if letter in table]
    if not places:
        return word
    chosen = {i for i in places if rng.random() < LETTERS} or {places[rng.integers(len(places))]}
    return "".join(str(rng.choice(list(table[letter]))) if i in chosen else letter for i, letter in enumerate(word))


def homoglyphs(text: str, rng: np.random.Generator) -> str:
    """Cyrillic and Greek letters for Latin ones: ``frее``."""
    return _change(text, rng, lambda word: _substitute(word, rng, HOMOGLYPHS))


def full_width(text: str, rng: np.random.Generator) -> str:
    """``ｆｒｅｅ``."""
    return _change(text, rng, lambda word: word.translate(FULL_WIDTH))


def zero_width(text: str, rng: np.random.Generator) -> str:
    """Invisible characters between letters."""

    def change(word: str) -> str:
        gaps = {i for i in range(1, len(word)) if rng.random() < LETTERS} or {int(rng.integers(1, len(word)))}
        return "".join(rng.choice(ZERO_WIDTH) + letter if i in gaps else letter for i, letter in enumerate(word))

    return _change(text, rng, change)


def spacing(text: str, rng: np.random.Generator) -> str:
    """``f r e e``, or ``f.r.e.e`` and the like, one kind a text."""
    separator = str(rng.choice(SEPARATORS))
    return _change(text, rng, separator.join)


def leet(text: str, rng: np.random.Generator) -> str:
    """Digits and signs for letters: ``fr33 c@sh``."""
    return _change(text, rng, lambda word: _substitute(word, rng, LEET))


def swaps(text: str, rng: np.random.Generator) -> str:
    """Two neighbours inside a word change places: ``congartulations``."""

    def change(word: str) -> str:
        places = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]] or [1]
        i = places[rng.integers(len(places))]
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]

    return _change(text, rng, change)


def split_links(text: str, rng: np.random.Generator) -> str:
    """``www . prize[.]com``, and ``hxxp`` where there is a scheme."""
    dot = str(rng.choice(DOTS))
    return str(LINK.sub(lambda match: match[0].replace(".", dot).replace("http", "hxxp"), text))


def emoji(text: str, rng: np.random.Generator, pool: Sequence[str] = EMOJI) -> str:
    """One to four emoji behind words."""
    words = text.split(" ")
    for _ in range(rng.integers(1, 5)):
        words.insert(int(rng.integers(1, len(words) + 1)), str(rng.choice(pool)))
    return " ".join(words)


def friendly(text: str, rng: np.random.Generator, pool: Sequence[str] = FRIENDLY) -> str:
    """One or two sentences among friends, in front or behind."""
    said = " ".join(rng.choice(pool, rng.integers(1, 3), replace=False))
    return f"{said} {text}" if rng.random() < 0.5 else f"{text} {said}"


TRANSFORMS: dict[str, Transform] = {
    "homoglyphs": homoglyphs,
    "full_width": full_width,
    "zero_width": zero_width,
    "spacing": spacing,
    "leet": leet,
    "swaps": swaps,
    "split_links": split_links,
    "emoji": partial(emoji, pool=EMOJI[::2]),
    "friendly": partial(friendly, pool=FRIENDLY[::2]),
}
"""The suite that `analysis.robustness` measures with."""

AUGMENTATIONS: dict[str, Transform] = TRANSFORMS | {
    "emoji": partial(emoji, pool=EMOJI[1::2]),
    "friendly": partial(friendly, pool=FRIENDLY[1::2]),
}
"""The same for training, with other emoji and other sentences."""


def disguise(text: str, rng: np.random.Generator, names: Sequence[str] = tuple(AUGMENTATIONS)) -> str:
    """One or two of the named `AUGMENTATIONS`, drawn among those that find something to change."""
    wanted = int(rng.integers(1, 3))
    for name in rng.permutation(names):
        changed = AUGMENTATIONS[name](text, rng)
        wanted -= changed != text
        text = changed
        if wanted == 0:
            break
    return text


def generator(seed: int, key: str, text: str) -> np.random.Generator:
    """For one text: the same in any company and order. ``key`` tells uses of the same seed apart."""
    return np.random.default_rng([seed, crc32(key.encode()), crc32(text.encode("utf-8", "surrogatepass"))])


def names(text: str, rng: np.random.Generator) -> str:
    """Other first names; one more behind a text without any."""
    if not _NAME.search(text):
        return f"{text} {rng.choice(NAMES)}"
    return str(_NAME.sub(lambda _: str(rng.choice(NAMES)), text))


def numbers(text: str, rng: np.random.Generator) -> str:
    """Other digits, as many of them; every 0 stays, so that round numbers remain round."""
    return str(regex.sub("[1-9]", lambda _: str(rng.integers(1, 10)), text))


def case(text: str, rng: np.random.Generator) -> str:
    """Lower case, capitals, or A Capital For Each Word."""
    return (text.lower(), text.upper(), regex.sub(r"\b[a-z]", lambda match: match[0].upper(), text))[rng.integers(3)]


def typos(text: str, rng: np.random.Generator) -> str:
    """A letter lost or doubled in one word of six."""

    def change(word: str) -> str:
        i = int(rng.integers(1, len(word)))
        return word[:i] + (word[i + 1 :] if rng.random() < 0.5 else word[i] + word[i:])

    return _change(text, rng, change, share=1 / 6)


INVARIANCES: dict[str, Transform] = {"names": names, "numbers": numbers, "case": case, "typos": typos}
"""What must not make spam of ham."""
