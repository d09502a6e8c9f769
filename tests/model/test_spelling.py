"""Hashed n-grams of the bytes behind token ids: a function of the text, of nothing else."""

import pytest
import torch
from tests.synthetic import byte_tokenizer

from spamlit.model.spelling import hashed_ngrams, spelled, spellings

TOKENIZER = byte_tokenizer()
TABLE = spellings(TOKENIZER.ranks, TOKENIZER.vocab_size)


def rows(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = [TOKENIZER.encode(text) for text in texts]
    longest = max(map(len, ids)) + 2
    padded = [[*row, *[TOKENIZER.pad_id] * (longest - len(row))] for row in ids]
    return torch.tensor(padded), torch.tensor([len(row) for row in ids])


def vectors(*texts: str, buckets: int = 4096) -> torch.Tensor:
    return hashed_ngrams(*spelled(*rows(*texts), TABLE), buckets)


@pytest.mark.parametrize("text", ["Win the other thing", "£5 für dich ✨", "a", "th in er ou"])
def test_the_bytes_of_a_text_between_spaces(text: str) -> None:
    codes, counts = spelled(*rows(text, "something longer than all the others"), TABLE)
    folded = bytes(ord("0") if 48 <= byte < 58 else byte for byte in text.encode().lower())
    assert codes[0, : counts[0]].tolist() == [32, *folded, 32]


def test_case_digits_and_company_have_no_say() -> None:
    torch.testing.assert_close(vectors("FREE call 12345"), vectors("free CALL 99999"), rtol=0, atol=0)
    both = vectors("free call", "see you at the station tonight")
    torch.testing.assert_close(both[:1], vectors("free call"), rtol=0, atol=0)


def test_an_ngram_that_is_shared_is_shared_by_the_vectors() -> None:
    one, two = vectors("ab"), vectors("ab cd")
    grams = 3 + 2 + 1, 6 + 5 + 4 + 3  # of 4 bytes, and of 7, two to five at a time
    assert (one.count_nonzero(), two.count_nonzero()) == grams
    torch.testing.assert_close((one * two).sum(), torch.tensor(6.0) / (grams[0] * grams[1]) ** 0.5)


def test_other_messages_are_far_apart() -> None:
    alike = vectors("URGENT claim your prize", "see you at home mum", "x?!z") @ vectors("kindly go 77-88").T
    assert alike.abs().max() < 0.15


def test_a_token_that_is_no_text_is_not_spelled() -> None:
    special = torch.tensor([[TOKENIZER.pad_id]])
    codes, counts = spelled(special, torch.tensor([1]), TABLE)
    assert counts.tolist() == [2]
    assert codes[0].nonzero().flatten().tolist() == [0, 1]
