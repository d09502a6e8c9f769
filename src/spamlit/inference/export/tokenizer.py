"""Our tokenizers as the `tokenizers` package has them: tokenizer.json with the same ids for every text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spamlit.data.tokenizer import GPT2_PATTERN, SMOLLM2_PATTERN, Tokenizer, byte_of_character

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer


def fast_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """The same vocabulary, merges and splits; special tokens have ids, but no text becomes one.

    It differs where `tokenizers` refuses or says nothing: lone surrogates, and texts without tokens, whose ids are none
    there and ``[pad_id]`` here.

    Raises:
        ValueError: a pattern whose splits `tokenizers` has no counterpart for.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, pre_tokenizers

    splits: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if tokenizer.pattern == SMOLLM2_PATTERN:
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif tokenizer.pattern != GPT2_PATTERN:
        raise ValueError(f"the tokenizer {tokenizer.name} splits texts by another pattern than GPT-2's or SmolLM2's")
    character = {byte: character for character, byte in byte_of_character().items()}
    names = {token: "".join(character[byte] for byte in token) for token in tokenizer.ranks}
    vocabulary = {names[token]: rank for token, rank in tokenizer.ranks.items()} | tokenizer.special
    merges = [(names[left], names[right]) for left, right in merges_of_ranks(tokenizer.ranks)]
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.Sequence(splits)
    fast.decoder = decoders.ByteLevel()
    return fast


def merges_of_ranks(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair whose merge is a token, in the order of the tokens' ranks.

    tiktoken merges any two neighbours that together are a token, the lowest rank first: so all ways to halve a token
    are merges, not only the one that training found.

    >>> merges_of_ranks({b"a": 0, b"b": 1, b"ab": 2, b"aa": 3, b"aab": 4})
    [(b'a', b'b'), (b'a', b'a'), (b'a', b'ab'), (b'aa', b'b')]
    """
    return [
        (token[:at], token[at:])
        for token in sorted(ranks, key=ranks.__getitem__)
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
