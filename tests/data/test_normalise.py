"""Disguised characters come back; what is no disguise stays what it is."""

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamlit.assets import fetch
from spamlit.data.normalise import NORMALISATIONS, UNDONE, normalise
from spamlit.data.obfuscate import HOMOGLYPHS, TRANSFORMS
from spamlit.data.sms import parse

PRINTABLE = st.text(alphabet=[c for c in map(chr, range(128)) if c.isprintable()], max_size=80)
MIXTURE = st.text(alphabet="ab1 \u200b\u200d\ufe0fа́Яеяρσנاहि你ｆ！①Ⓕ🅰👩❤🇫™é’\x92Ã©ﬁℹ\u0336\u3000", max_size=12)


@pytest.mark.parametrize(
    "text",
    [
        "Salut, ça va ? Привет, как дела? नमस्ते 你好",
        "Ünsal, Nasılsın? Ærøskøbing, ẹ́kọ́, Đà Nẵng, ñandú, straße",
        "Привет! Это СМС: сахар, ухо и SMSка от IT-отдела",
        "Καλημέρα σου, το α και το ω",
        "שלום\u200f, מה שלומך? مرحبا می\u200cخواهم",
        "क्\u200dष ක්\u200dෂ ไทย\u200bไทย",
        "你好，世界！（元気ですか？）　はい",
        "한국어 テスト Tシャツ",
        "👩‍👩‍👧 👍🏽 ❤️ok 1️⃣ #️⃣ 🇫🇷🇬🇧 🏴󠁧󠁢󠁷󠁬󠁳󠁿 🅿️ Ⓜ ℹ️ ©️ ™️",
        "50 € £5 ™ ® ½ 10³ m² nº 1ª № Δt 5 µm x ≤ y → “q”".replace("“q”", "q"),
        "① milk ② eggs",
    ],
)
def test_real_text_is_left_alone(text):
    assert normalise(text, "unicode") == text


@pytest.mark.parametrize(
    ("disguised", "plain"),
    [
        ("Frее саsh, сlаіm уоur рrіzе", "Free cash, claim your prize"),  # Cyrillic
        ("Cοngrαtulατions".replace("τ", "t"), "Congratulations"),  # Greek
        ("рау now, саѕһ", "pay now, cash"),  # words of nothing but Cyrillic
        ("ＦＲＥＥ！　ｎｏｗ", "FREE! now"),
        ("𝓕𝓻𝓮𝓮 𝗽𝗿𝗶𝘇𝗲 𝟗𝟗", "Free prize 99"),
        ("Ⓕⓡⓔⓔ 🅿🆁🅸🆉🅴 🄲🄰🅂🄷 ⓪⑦⑨❶", "Free PRIZE CASH 0791"),
        ("ᶠʳᵉᵉ ᴄᴀsʜ ɡet", "free cash get"),
        ("f\u200br\u200ce\u2060e\u00ad c\ufeffash\u200b", "free cash"),
        ("f̶r̶e̶e̶", "free"),
        ("Iâ€™m sorry, schÃ¶n", "I'm sorry, schön"),
        ("It’s “ﬁne”", 'It\'s "fine"'),
        ("fr\u200bе\u200bе\u200b", "free"),  # both at once
    ],
)
def test_disguise_is_taken_off(disguised, plain):
    assert normalise(disguised, "unicode") == plain


@given(st.one_of(st.text(max_size=40), MIXTURE))
def test_twice_is_once(text):
    once = normalise(text, "unicode")
    assert normalise(once, "unicode") == once


@given(PRINTABLE)
def test_printable_ascii_is_left_alone(text):
    assert normalise(text, "unicode") == text


@given(st.text(max_size=40))
def test_none_is_the_identity(text):
    assert normalise(text, "none") == text


@pytest.mark.parametrize("name", UNDONE)
@given(text=PRINTABLE, seed=st.integers(0, 2**32))
def test_what_it_claims_to_undo_it_undoes(name, text, seed):
    disguised = TRANSFORMS[name](text, np.random.default_rng(seed))
    swapped_whole = name == "homoglyphs" and not any(c in string.ascii_letters for c in disguised)  # "AAA" in Cyrillic
    assert swapped_whole or normalise(disguised, "unicode") == text


def test_every_homoglyph_of_the_suite_is_known():
    """Alone in a word of its letter, and for both cases."""
    assert set(HOMOGLYPHS) < set(string.ascii_letters)
    for letter, others in HOMOGLYPHS.items():
        for other in others:
            assert not other.isascii()
            assert normalise(f"z{other}z", "unicode") == f"z{letter}z"


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match=f"data.normalise=nfkc is not known; choose from {', '.join(NORMALISATIONS)}"):
        normalise("text", "nfkc")


@pytest.mark.assets
def test_the_collection_hardly_changes():
    """Quotes of another keyboard, and control characters that were quotes, dashes: 63 ham and 5 spam."""
    texts = parse(fetch("SMSSpamCollection"))["text"]
    changed = [text for text in texts if normalise(text, "unicode") != text]
    assert len(changed) == 68
    quotes = str.maketrans("\x91\x92\x93\x94\x96‘’“”", "''\"\"–''\"\"")
    assert all(normalise(text, "unicode") == text.translate(quotes) for text in changed)
