import json
import time

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.synthetic import byte_tokenizer

from spamlit.assets import AssetError, fetch
from spamlit.data import tokenizer as module
from spamlit.data.sms import parse
from spamlit.data.tokenizer import Tokenizer, load_tokenizer, ranks_of_vocabulary

# Where the splits differ or go wrong: digits, white space, contractions, control characters, other scripts.
tricky = st.text(
    st.one_of(
        st.sampled_from("09²½٣Ⅷ \t\n\r\x85\xa0\u2003'sretlldm!?.aZé中ß\x00\x04\x06\x13\x1d"),
        st.characters(exclude_categories=["Cs", "Cn"]),
    )
)


@pytest.fixture(scope="module")
def gguf():
    """The GGUF, read once (that takes seconds)."""
    from gguf import GGUFReader

    return GGUFReader(fetch(module.SMOLLM2_GGUF))


@pytest.fixture(scope="module")
def smollm2(gguf):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gguf.GGUFReader", lambda path: gguf)
        return module._read_gguf(fetch(module.SMOLLM2_GGUF))


@pytest.fixture(scope="module")
def gpt2():
    return load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def gpt2_reference():
    """tiktoken's own gpt2: its pattern, and ranks from its own reader of the two files."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        ranks = data_gym_to_mergeable_bpe_ranks(str(fetch("vocab.bpe")), str(fetch("encoder.json")))
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="module")
def smollm2_reference(gguf):
    """`tokenizers` with the GGUF's vocabulary and merges, and the pre-tokenizer that SmolLM2 was trained with."""
    from tokenizers import Tokenizer as Reference
    from tokenizers import models, pre_tokenizers

    tokens, merges = (gguf.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    reference = Reference(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return reference


@pytest.mark.assets
def test_gpt2_equals_tiktoken_on_the_collection(gpt2, gpt2_reference):
    texts = parse(fetch("SMSSpamCollection"))["text"].tolist()
    assert gpt2.encode_batch(texts) == [gpt2_reference.encode_ordinary(text) for text in texts]
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert (gpt2.vocab_size, gpt2.pad_id) == (50257, 50256)
    assert gpt2.ranks == gpt2_reference._mergeable_ranks


@pytest.mark.assets
def test_smollm2_equals_tokenizers_on_the_collection(smollm2, smollm2_reference):
    texts = parse(fetch("SMSSpamCollection"))["text"].tolist()
    assert smollm2.encode_batch(texts) == [encoding.ids for encoding in smollm2_reference.encode_batch(texts)]
    assert (smollm2.vocab_size, smollm2.pad_id) == (49152, 0)


@pytest.mark.assets
@settings(max_examples=400, deadline=None)
@given(text=tricky)
def test_both_equal_their_references_on_unicode(gpt2, gpt2_reference, smollm2, smollm2_reference, text):
    assert gpt2.encode(text) == (gpt2_reference.encode_ordinary(text) or [gpt2.pad_id])
    assert smollm2.encode(text) == (smollm2_reference.encode(text).ids or [smollm2.pad_id])
    if text:
        assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.assets
def test_bytes_without_a_token_are_skipped_and_their_neighbours_merge(smollm2, smollm2_reference):
    for text in ("!\x04!", "a\x04b", "\x06", "x\U00040000y", "1\x1d 2", " \x13 \x14"):
        assert smollm2.encode(text) == (smollm2_reference.encode(text).ids or [0])
    assert smollm2.encode("!\x04!") == smollm2.encode("!!")


@pytest.mark.assets
def test_smollm2_starts_warm_and_heals_its_cache(monkeypatch, tmp_path, smollm2):
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(module, "_read_gguf", lambda path: smollm2)
    load_tokenizer("smollm2")
    (ranks,) = tmp_path.glob("tokenizers/*/tokenizer.tiktoken")
    content = ranks.read_bytes()
    monkeypatch.setattr(module, "fetch", None)  # warm: the GGUF is not touched
    times = []
    for _ in range(3):
        start = time.process_time()
        assert load_tokenizer("smollm2").encode("You won 1000!") == smollm2.encode("You won 1000!")
        times.append(time.process_time() - start)
    assert min(times) < 0.5  # of the processor; 0.1 s where nothing else runs
    monkeypatch.setattr(module, "fetch", fetch)
    ranks.write_bytes(content[:-100])
    assert load_tokenizer("smollm2").vocab_size == 49152
    assert ranks.read_bytes() == content


@pytest.mark.assets
def test_real_tokenizers_survive_saving(gpt2, smollm2, tmp_path):
    for tokenizer in (gpt2, smollm2):
        tokenizer.save(tmp_path)
        loaded = Tokenizer.load(tmp_path)
        text = "WINNER!! £1000\x04 <|endoftext|> 😀"
        assert (loaded.encode(text), loaded.vocab_size, loaded.pad_id) == (
            tokenizer.encode(text),
            tokenizer.vocab_size,
            tokenizer.pad_id,
        )


def test_no_text_is_special_and_none_is_empty():
    tokenizer = byte_tokenizer()
    assert tokenizer.pad_id not in tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.encode("") == [tokenizer.pad_id]
    assert tokenizer.decode([tokenizer.pad_id]) == "<|endoftext|>"
    assert tokenizer.encode("\ud83d\ude00") == tokenizer.encode("😀")
    assert tokenizer.encode("a\ud800\0b") == tokenizer.encode("a\ufffd\0b")


@given(st.text())
def test_decoding_gives_the_text_back(text):
    tokenizer = BYTES
    assert tokenizer.decode(tokenizer.encode(text)) == (text or "<|endoftext|>")


BYTES = byte_tokenizer()


@given(st.text(st.characters()))  # surrogates too
def test_any_string_encodes(text):
    assert all(0 <= i < BYTES.vocab_size for i in BYTES.encode(text))


def test_decoding_refuses_ids_outside():
    with pytest.raises(ValueError, match=r"id 999 is outside .* vocabulary of 265"):
        BYTES.decode([1, 999])


def test_saved_without_pickle_and_damage_is_noticed(tmp_path):
    BYTES.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer.tiktoken"]
    assert Tokenizer.load(tmp_path).encode("the thing") == BYTES.encode("the thing")
    settings_file, ranks_file = tmp_path / "tokenizer.json", tmp_path / "tokenizer.tiktoken"
    good = json.loads(settings_file.read_text())
    for change, message in (
        ({"format": 3}, "format 3, and this version reads 2"),
        ({"pad_id": 0}, "its own SHA-256 does not hold"),
        ({"format": 1, "ranks_sha256": "0"}, "does not have the SHA-256"),
        ({"format": 1, "special": None}, "no usable tokenizer"),
        ({"format": 1, "special": {"<|endoftext|>": 0}}, "ids of its 265 tokens are not 0 to 264, each once"),
        ({"format": 1, "pattern": "(a+)+$"}, "is none that this version knows"),
    ):
        settings_file.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            Tokenizer.load(tmp_path)
    ranks_file.unlink()
    with pytest.raises(ValueError, match="no usable tokenizer in"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"line 2: .* is not a base64 token and an id"):
        module._parse_ranks(b"YQ== 0\nYQ=\n")


def test_unknown_names_and_unreachable_files():
    with pytest.raises(ValueError, match="no tokenizer is called 'gpt3'; choose from gpt2, smollm2"):
        load_tokenizer("gpt3")
    assert issubclass(AssetError, RuntimeError)


def test_merges_that_ranks_cannot_express_are_refused():
    ids = {"a": 0, "b": 1, "ab": 2, "ba": 3}
    assert ranks_of_vocabulary(ids, ["a b", "b a"])[b"ba"] == 3
    with pytest.raises(ValueError, match="first difference: merge 0"):
        ranks_of_vocabulary(ids, ["b a", "a b"])
    with pytest.raises(ValueError, match="1 merges do not make the 2 longer tokens"):
        ranks_of_vocabulary(ids, ["a b"])
