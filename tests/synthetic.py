"""A small collection in the format of the real one, and a tokenizer without a vocabulary file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from spamlit.data.sms import group_key
from spamlit.data.tokenizer import GPT2_PATTERN, Tokenizer

HAM = (
    "{greeting} {name}, are we still meeting for {meal} {when}?",
    "{greeting} {name}! I'm at the {place} with {other}, call you {when}",
    "Sorry {name} can't talk, {other} is at the {place}... text me {when} :)",
    "Did you tell {other} about {meal} {when}? {name} said the {place} is closed",
    "Ok lor, {meal} at {place} then. Ask {name} n {other} to come {when}",
    'She said "{greeting}" to {name} at the {place} {when}, ü know {other}?',
)
SPAM = (
    "{shout} {name}! You have won a {prize}. Call {number} now to claim, {terms}",
    "FREE {prize} for you {name}! Txt {word} to {short} {when}. {terms}",
    "{shout} Your mobile was selected for a £{money} {prize}! Claim {when} on {number}. {terms}",
    "{name}, {shout} guaranteed {prize} or £{money} cash waiting. Reply {word} to {short}, {terms}",
)
WORDS = {
    "greeting": ["Hi", "Hey", "Hello", "Yo", "Morning", "Hiya"],
    "name": [
        "Anna",
        "Ben",
        "Cara",
        "Dev",
        "Ella",
        "Finn",
        "Gita",
        "Hugo",
        "Ines",
        "Jack",
        "Kim",
        "Leo",
        "Maya",
        "Nils",
    ],
    "other": ["mum", "dad", "Sam", "Tariq", "Rosa", "Yun", "Wei", "Zoe", "Bob", "Carlos"],
    "place": ["station", "library", "cinema", "office", "pub", "gym", "market", "airport", "beach", "hospital"],
    "meal": ["lunch", "dinner", "breakfast", "coffee", "tea", "pizza", "drinks"],
    "when": ["tonight", "tomorrow", "later", "at six", "on Friday", "next week", "soon", "this weekend"],
    "shout": ["WINNER!!", "URGENT!", "Congratulations!", "LAST CHANCE:", "PRIVATE!"],
    "prize": ["camera", "holiday", "voucher", "ringtone", "phone", "laptop", "ticket", "bonus"],
    "word": ["WIN", "CLAIM", "YES", "PLAY", "GO"],
    "terms": ["16+ only", "T&Cs apply", "reply STOP to end", "150p per msg", "std txt rate"],
}


def messages(templates: tuple[str, ...], rng: random.Random) -> Iterator[str]:
    """Endless messages of which no two are repeats of each other."""
    seen = set()
    while True:
        words = {slot: rng.choice(choices) for slot, choices in WORDS.items()}
        digits = {"number": f"0{rng.randrange(10**10):010}", "short": rng.randrange(80000, 90000), "money": "1000"}
        text = rng.choice(templates).format(**words, **digits)
        if (key := group_key(text)) not in seen:
            seen.add(key)
            yield text


def write_collection(path: Path, n_ham: int = 36, n_spam: int = 14, seed: int = 0, repeats: int = 4) -> Path:
    """Write ``label<TAB>text`` lines in random order and return the path.

    ``n_ham`` and ``n_spam`` count distinct messages (up to some tens of thousands); ``repeats`` lines more repeat one
    of them with other capitals, punctuation and digits, so that they fall into its group.
    """
    rng = random.Random(seed)
    rows = [("ham", text) for text in islice(messages(HAM, rng), n_ham)]
    rows += [("spam", text) for text in islice(messages(SPAM, rng), n_spam)]
    digits = str.maketrans("0123456789", "1234567890")
    rows += [(label, text.upper().translate(digits) + " !!") for label, text in rng.choices(rows, k=repeats)]
    rng.shuffle(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8", newline="\n")
    return path


def byte_tokenizer() -> Tokenizer:
    """Bytes, a few merges, and a special token that pads: 265 ids. Needs no file."""
    merges = [b"th", b"in", b"he", b" t", b" a", b"ou", b"er", b" th"]
    ranks = {token: i for i, token in enumerate([bytes([b]) for b in range(256)] + merges)}
    end = len(ranks)
    return Tokenizer("gpt2", ranks=ranks, pattern=GPT2_PATTERN, special={"<|endoftext|>": end}, pad_id=end)
