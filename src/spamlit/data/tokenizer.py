"""Byte-level BPE tokenizers: GPT-2's and SmolLM2's, both as a `tiktoken.Encoding` built from verified files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import regex  # type: ignore[import-untyped]  # a requirement of tiktoken's; `re` knows no \p{L}
import tiktoken

from spamlit.assets import ASSETS, atomic_write, cache_dir, fetch, sha256_settings

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
# Digits one by one; white space before a digit stays whole, because it ends its segment; between them GPT-2's split.
SMOLLM2_PATTERN = r"\p{N}|\s++(?=\p{N})|" + GPT2_PATTERN

SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PATTERNS = (GPT2_PATTERN, SMOLLM2_PATTERN)
"""Those that a saved folder may name: another could take for ever."""
LONGEST_TEXT = 250_000
"""Characters that are looked at, many times what any context holds: tiktoken panics on millions of spaces."""
FORMAT = 2  # of the saved folder; 1 had no checksum of the settings
LARGEST_FILE = 64 << 20
"""Bytes of a file of a saved folder; those of the largest vocabulary here have less than a megabyte."""


class Tokenizer:
    """Text to token ids and back.

    Nothing in a message is special: ``<|endoftext|>`` typed by a sender is thirteen characters of text.

    Args:
        name: ``gpt2`` or ``smollm2``.
        ranks: Each token's bytes and id. A lower id merges first.
        pattern: The regular expression that cuts text into the pieces inside which merges happen.
        special: Texts of the tokens that no text encodes to, and their ids (for `decode`).
        pad_id: The id that fills rows, and that stands for a text without any token.

    Attributes:
        vocab_size: How many ids there are, special ones included.
        ranks: Each token's bytes and id.
        pattern: The regular expression.
        special: Texts of the special tokens and their ids.
    """

    def __init__(
        self, name: str, *, ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int], pad_id: int
    ) -> None:
        self.name = name
        self.pad_id = pad_id
        self.vocab_size = max(*ranks.values(), *special.values()) + 1
        self.ranks, self.pattern, self.special = dict(ranks), pattern, dict(special)
        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=self.ranks, special_tokens=self.special
        )
        self._absent = bytes(byte for byte in range(256) if bytes([byte]) not in ranks)
        self._pieces = regex.compile(pattern)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size}, pad_id={self.pad_id})"

    def encode(self, text: str) -> list[int]:
        """Ids of a text; ``[pad_id]`` where there are none (the empty text), so never empty.

        Lone surrogates, which no UTF-8 has, count as U+FFFD. What lies beyond `LONGEST_TEXT` is not looked at.
        """
        text = text[:LONGEST_TEXT]
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            data = text.encode("utf-8")
        if self._absent and len(data.translate(None, self._absent)) < len(data):
            ids = self._encode_without_absent(text)
        else:
            ids = self._encoding.encode_ordinary(text)
        return ids or [self.pad_id]

    def _encode_without_absent(self, text: str) -> list[int]:
        """Skip bytes that have no token, as `tokenizers` does; tiktoken would panic.

        SmolLM2 has none for six control characters and for the first byte of U+40000 to U+BFFFF. They still part the
        text into pieces; inside a piece their neighbours may merge. (The pieces are `regex`'s here, whose Unicode is
        newer: beside a letter that tiktoken's does not know yet, the result can differ from `tokenizers`.)
        """
        ids: list[int] = []
        for piece in self._pieces.findall(text):
            if data := piece.encode("utf-8").translate(None, self._absent):
                ids += self._encoding._encode_single_piece(data)
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text as `encode` gives them, and the characters ``text[start:end]`` that each of them has a byte of.

        Tokens that share a character's bytes (an emoji may be three tokens) share its place; a text without any token
        is all its padding token's.

        >>> Tokenizer("bytes", ranks={b"a": 0, b"\\xc3": 1, b"\\xbc": 2}, pattern=".", special={"<pad>": 3},
        ...     pad_id=3).encode_with_offsets("aü")
        ([0, 1, 2], [(0, 1), (1, 2), (1, 2)])
        """
        ids = self.encode(text)
        if ids == [self.pad_id]:
            return ids, [(0, len(text))]
        places = [
            place
            for place, character in enumerate(text)
            for _ in character.encode("utf-8", "surrogatepass").translate(None, self._absent)
        ]
        ends = list(accumulate(len(self._encoding.decode_single_token_bytes(i)) for i in ids))
        return ids, [(places[a], places[b - 1] + 1) for a, b in zip([0, *ends], ends, strict=False)]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of each text (a loop: messages are too short for threads to pay)."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 come out as U+FFFD.

        Raises:
            ValueError: An id outside the vocabulary.
        """
        outside = [i for i in ids if not 0 <= i < self.vocab_size]
        if outside:
            raise ValueError(f"token id {outside[0]} is outside {self.name}'s vocabulary of {self.vocab_size}")
        return self._encoding.decode(list(ids))

    def save(self, folder: Path | str) -> None:
        """Write ``tokenizer.tiktoken`` (base64 token, id) and ``tokenizer.json`` (the rest, and both SHA-256)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in self.ranks.items())
        settings: dict[str, object] = {
            "format": FORMAT,
            "name": self.name,
            "pattern": self.pattern,
            "special": self.special,
            "pad_id": self.pad_id,
            "ranks_sha256": hashlib.sha256(data).hexdigest(),
        }
        settings["sha256"] = sha256_settings(settings)
        with atomic_write(folder / "tokenizer.tiktoken") as path:
            path.write_bytes(data)
        with atomic_write(folder / "tokenizer.json") as path:
            path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            ValueError: A file that is missing, damaged, or of another format.
        """
        folder = Path(folder)
        try:
            for name in ("tokenizer.json", "tokenizer.tiktoken"):
                if (size := (folder / name).stat().st_size) > LARGEST_FILE:
                    raise ValueError(f"{name} has {size:,} bytes; the limit is {LARGEST_FILE:,}")
            settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            data = (folder / "tokenizer.tiktoken").read_bytes()
            if settings["format"] not in (1, FORMAT):
                raise ValueError(f"format {settings['format']}, and this version reads {FORMAT}")
            if settings["format"] == FORMAT and settings["sha256"] != sha256_settings(settings):
                raise ValueError("tokenizer.json was changed or damaged: its own SHA-256 does not hold")
            if hashlib.sha256(data).hexdigest() != settings["ranks_sha256"]:
                raise ValueError("tokenizer.tiktoken does not have the SHA-256 that tokenizer.json names")
            ranks, special, pad_id = _parse_ranks(data), settings["special"], settings["pad_id"]
            _check_ids(ranks, special, pad_id)
            if settings["pattern"] not in PATTERNS:
                raise ValueError(f"pattern {settings['pattern']!r:.80} is none that this version knows")
            return cls(settings["name"], ranks=ranks, pattern=settings["pattern"], special=special, pad_id=pad_id)
        except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"no usable tokenizer in {folder}: {error or type(error).__name__}") from error


def _check_ids(ranks: Mapping[bytes, int], special: Mapping[str, int], pad_id: int) -> None:
    """Refuses ids that are not 0 … n - 1, each once, for which tiktoken would panic."""
    ids = [*ranks.values(), *special.values()]
    if not ranks or any(type(i) is not int for i in (*ids, pad_id)) or sorted(ids) != list(range(len(ids))):
        raise ValueError(f"the ids of its {len(ids)} tokens are not 0 to {len(ids) - 1}, each once")
    if not 0 <= pad_id < len(ids) or b"" in ranks or "" in special:
        raise ValueError(f"pad_id={pad_id!r} is no token, or a token is empty")


def _parse_ranks(data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            token, rank = line.split(b" ")
            ranks[binascii.a2b_base64(token, strict_mode=True)] = int(rank)
        except ValueError as error:
            raise ValueError(
                f"tokenizer.tiktoken, line {number}: {line[:40]!r} is not a base64 token and an id"
            ) from error
    return ranks


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a backbone family: ``gpt2`` or ``smollm2``, fetching its files if they are not there.

    Raises:
        ValueError: Another name.
        spamlit.assets.AssetError: A file cannot be had.
    """
    loaders = {"gpt2": _load_gpt2, "smollm2": _load_smollm2}
    if name not in loaders:
        raise ValueError(f"no tokenizer is called {name!r}; choose from {', '.join(loaders)}")
    return loaders[name]()


def _load_gpt2() -> Tokenizer:
    ids: dict[str, int] = json.loads(fetch("encoder.json").read_text(encoding="utf-8"))
    merges = fetch("vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]  # the first line is a version
    special = {"<|endoftext|>": ids.pop("<|endoftext|>")}
    ranks = ranks_of_vocabulary(ids, merges)
    return Tokenizer("gpt2", ranks=ranks, pattern=GPT2_PATTERN, special=special, pad_id=special["<|endoftext|>"])


def _load_smollm2() -> Tokenizer:
    """From the GGUF; afterwards from a folder in the cache, for reading the GGUF's arrays takes seconds."""
    folder = cache_dir() / "tokenizers" / f"smollm2-{str(ASSETS[SMOLLM2_GGUF].sha256)[:16]}-v{FORMAT}"
    if (folder / "tokenizer.json").exists():
        try:
            return Tokenizer.load(folder)
        except ValueError:
            pass  # damaged, or of another version: made anew
    tokenizer = _read_gguf(fetch(SMOLLM2_GGUF))
    tokenizer.save(folder)
    return tokenizer


def _read_gguf(path: Path) -> Tokenizer:
    from gguf import GGUFReader  # only here: a warm start does without

    fields = GGUFReader(path).fields
    tokens, types, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges"))
    control = 3  # gguf's TokenType.CONTROL; ordinary tokens are 1
    ids = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != control}
    special = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == control}
    return Tokenizer(
        "smollm2",
        ranks=ranks_of_vocabulary(ids, merges),
        pattern=SMOLLM2_PATTERN,
        special=special,
        pad_id=special["<|endoftext|>"],
    )


def byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins: the character that stands for each of the 256 bytes in a vocabulary file."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def ranks_of_vocabulary(ids: Mapping[str, int], merges: Sequence[str]) -> dict[bytes, int]:
    """Ranks as tiktoken wants them, which are ids, from a vocabulary and its merges.

    tiktoken merges the pair whose result has the lowest id. That is the merge list's order only if ids rise along it,
    and every longer token is a merge's result: both hold for GPT-2 and SmolLM2, and are checked.

    Args:
        ids: Each token in `byte_of_character`'s characters, and its id.
        merges: ``"left right"``, the first to apply first.

    Raises:
        ValueError: The merges' order is not the ids' order, so that ranks cannot say it.

    >>> ranks_of_vocabulary({"a": 0, "b": 1, "ab": 2}, ["a b"])
    {b'a': 0, b'b': 1, b'ab': 2}
    """
    results = [merge.replace(" ", "", 1) for merge in merges]
    longer = sorted((token for token in ids if len(token) > 1), key=ids.__getitem__)
    if results != longer:
        at = next((i for i, pair in enumerate(zip(results, longer, strict=False)) if pair[0] != pair[1]), -1)
        raise ValueError(
            f"{len(results)} merges do not make the {len(longer)} longer tokens in the order of their ids "
            f"(first difference: merge {at}); tiktoken's ranks cannot express this vocabulary"
        )
    table = byte_of_character()
    return {bytes(table[character] for character in token): i for token, i in ids.items()}
