"""Disguised characters folded back to what a reader sees, before tokenization.

Three kinds of disguise leave the look of a text and change its tokens: letters of another script that look Latin
(``frее`` with Cyrillic ``е``), styled letters (full-width, mathematical, circled, small capitals), and invisible
characters between letters. Real text in other scripts, accents, symbols and emoji are what they were.

Which letter looks like which is Unicode's table of confusables (UTS 39) as `confusable_homoglyphs` carries it. Of other
packages, `homoglyphs` is no longer maintained, `confusables` lists every reading of a whole text (their number grows
exponentially) in lower case, and `anyascii` goes by sound: it turns Cyrillic ``р`` into r, not p.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex  # type: ignore[import-untyped]  # `re` knows no scripts

NORMALISATIONS = ("none", "unicode")
UNDONE = ("homoglyphs", "full_width", "zero_width")
"""The transforms of `obfuscate.TRANSFORMS` that ``unicode`` undoes exactly, where the text has Latin letters alone.

Of homoglyphs at least one such letter must be left: a text of nothing but Cyrillic letters may be meant.
"""

_ENCLOSED = "\u2460-\u24ff\u2776-\u2793\U0001f130-\U0001f189"  # circled, squared, dingbats' digits
_OTHER = r"[[\p{L}\p{M}]--[\p{Latin}\p{Common}\p{Inherited}]]"  # letters of other scripts
_PICTURE = r"\p{Extended_Pictographic}[\uFE0E\uFE0F\p{Emoji_Modifier}\U000E0020-\U000E007F]*"
_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")
_WORD = regex.compile(r"[\p{L}\p{M}\p{Default_Ignorable_Code_Point}]+")
_EAST_ASIAN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}]")
_PHONETIC = regex.compile(r"[\u0250-\u02AF\u1D00-\u1DBF\uA720-\uA7FF]")
_STYLED = regex.compile(  # a circled letter alone is a sign (Ⓜ, 🅿, ① in a list); beside letters it is one of them
    rf"""  (?<= [\p{{Latin}}0-9{_ENCLOSED}] ) [{_ENCLOSED}]
         | [{_ENCLOSED}] (?= [\p{{Latin}}0-9{_ENCLOSED}] )
         | [[\p{{L}}\p{{Nd}}]--[\x00-\u024F\p{{Emoji}}]]
    """,
    regex.VERBOSE | regex.VERSION1,
)
_INVISIBLE = regex.compile(  # kept: inside an emoji, and in the writing of other scripts (joiners, directions)
    rf"""  (?: [0-9\#*]\uFE0F?\u20E3 | {_PICTURE}(?:\u200D{_PICTURE})* ) (*SKIP)(*FAIL)
         | (?<= {_OTHER} ) \p{{Default_Ignorable_Code_Point}}++ (?! [\p{{Latin}}0-9] ) (*SKIP)(*FAIL)
         | (?<! [\p{{Latin}}0-9] ) \p{{Default_Ignorable_Code_Point}}++ (?= {_OTHER} ) (*SKIP)(*FAIL)
         | \p{{Default_Ignorable_Code_Point}}+
         | (?<= \p{{Latin}} ) [\u0334-\u0338]   # strokes through a letter
    """,
    regex.VERBOSE | regex.VERSION1,
)


def check_normalisation(how: str) -> None:
    """Refuses what is none of `NORMALISATIONS`.

    Raises:
        ValueError: with the choices.
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"data.normalise={how} is not known; choose from {', '.join(NORMALISATIONS)}")


def normalise(text: str, how: str) -> str:
    """The text without disguise; doing it twice changes nothing more, and printable ASCII is left alone.

    ``none`` is the identity. ``unicode`` repairs mojibake, control characters and broken surrogates, composes accents
    (NFC), takes ligatures apart and quotes of any keyboard for ``'`` and ``"`` (ftfy), and then, until nothing changes:

    - styled letters and digits become plain ones; full-width punctuation only in a text without East Asian letters;
    - invisible characters go, but for those in emoji and between letters of other scripts;
    - a word that mixes Latin letters with others that all look Latin becomes Latin. A word of nothing but such letters
      (``рау``) does so if it has two or more and every other word of the text is Latin or can be read as it.

    What stays: spacing, leet, typing errors, split links; HTML entities, which a phone shows as they are.

    >>> normalise("Ｆ\u200bree рrіzе 𝓯𝓸𝓻 уоu", "unicode")
    'Free prize for you'
    >>> normalise("Привет, ça va ™ ½ м² 👩‍👧", "unicode")
    'Привет, ça va ™ ½ м² 👩‍👧'

    Raises:
        ValueError: Another ``how``.
    """
    check_normalisation(how)
    if how == "none" or (text.isascii() and text.isprintable()):
        return text
    while (folded := _fold(text)) != text:
        text = folded
    return text


def _fold(text: str) -> str:
    text = _repair(text)
    if not _EAST_ASIAN.search(text):
        text = "".join(_narrow(character) for character in text)
    text = _STYLED.sub(lambda match: _plain(match[0]), text)
    text = _INVISIBLE.sub("", text)
    return _fold_homoglyphs(text)


def _repair(text: str) -> str:
    import ftfy  # only here: plain text, most of it, does without

    # Entities are not unescaped: `&amp;lt;` would change twice. Widths depend on the text's script, below.
    settings = ftfy.TextFixerConfig(unescape_html=False, fix_character_width=False, explain=False)
    return ftfy.fix_text(text, settings)


def _narrow(character: str) -> str:
    wide = "\uff01" <= character <= "\uff5e" or character == "\u3000"
    return unicodedata.normalize("NFKC", character) if wide else character


@lru_cache(4096)
def _plain(character: str) -> str:
    """The letter or digit that a styled character is; itself where it is none."""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    letters = ("<super>", "<sub>") if unicodedata.category(character) == "Lm" else ()
    if kind in ("<font>", "<wide>", "<circle>", "<square>", *letters):
        plain = unicodedata.normalize("NFKC", character)
        return plain if len(plain) == 1 else character
    name = unicodedata.name(character, "")
    if name.startswith(("NEGATIVE CIRCLED LATIN", "NEGATIVE SQUARED LATIN")):
        return name[-1]
    if name[:-1] == "LATIN LETTER SMALL CAPITAL ":
        return name[-1].lower()
    if _PHONETIC.match(character):  # ɡ, ɑ and their kind
        return _lookalike(character) or character
    if name.startswith(("DINGBAT NEGATIVE CIRCLED", "DINGBAT CIRCLED", "DOUBLE CIRCLED")):
        return str(unicodedata.digit(character, character))
    return character


def _fold_homoglyphs(text: str) -> str:
    words = _WORD.findall(text)
    foreign = {word: [c for c in word if _LETTER.match(c) and not _LATIN.match(c)] for word in words}
    real = {word for word, letters in foreign.items() if not all(map(_lookalike, letters))}
    among_latin = not real and _LATIN.search(text) is not None

    def fold(word: str) -> str:
        if word in real or not foreign[word]:
            return word
        if _LATIN.search(word) or (among_latin and len(foreign[word]) > 1):
            return "".join(_lookalike(c) or c if c in foreign[word] else c for c in word)
        return word

    return str(_WORD.sub(lambda match: fold(match[0]), text))


@lru_cache(4096)
def _lookalike(character: str) -> str:
    """The ASCII letter that a cased letter looks like, in its case; empty where there is none."""
    from confusable_homoglyphs.confusables import confusables_data  # only here: it reads a megabyte

    if not (character.islower() or character.isupper()):  # scripts without case have no Latin words to hide in
        return ""
    letters = [entry["c"] for entry in confusables_data.get(character, ()) if entry["c"].isascii()]
    letter = next((letter for letter in letters if len(letter) == 1 and letter.isalpha()), "")
    if character.isupper():
        return "I" if letter == "l" else letter.upper()  # UTS 39 takes I for l
    return letter
