"""The chat model's answers: the prompt read once, padding without influence, the template its own."""

import numpy as np
import pandas as pd
import pytest
import torch
from tests.synthetic import byte_tokenizer

from spamlit.analysis.prompted import QUESTION, SYSTEM, Chat, draw_examples
from spamlit.data.tokenizer import Tokenizer, load_tokenizer
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.weights import load_backbone

TEXTS = ["Are we still meeting?", "WIN", "Call 0906 now to claim your prize " * 3, "ok"]


class ChatTokenizer(Tokenizer):
    """Bytes, with the marks of a chat; each answer is one token."""

    def __init__(self):
        plain = byte_tokenizer()
        ranks = plain.ranks | {b"Ye": 264, b"Yes": 265, b"No": 266}
        special = {"<|endoftext|>": 267, "<|im_start|>": 268, "<|im_end|>": 269}
        super().__init__("gpt2", ranks=ranks, pattern=plain.pattern, special=special, pad_id=267)


@pytest.fixture(scope="module")
def chat():
    return Chat(GPT.random(CONFIGS["tiny"], seed=0).eval(), ChatTokenizer(), [("hello", "ham"), ("WINNER", "spam")])


def test_it_is_the_whole_prompt_read_at_once(chat):
    """The probability of "Yes" against "No" after everything, for each text by itself."""
    turns = [("system", SYSTEM), ("user", QUESTION, "hello"), ("assistant", "No")]
    turns += [("user", QUESTION, "WINNER"), ("assistant", "Yes")]
    tokenizer, mark = chat.tokenizer, chat.tokenizer.special
    expected = []
    for text in TEXTS:
        ids = []
        for role, *parts in [*turns, ("user", QUESTION, text)]:
            said = [token for part in parts for token in tokenizer.encode(part)]
            ids += [mark["<|im_start|>"], *tokenizer.encode(f"{role}\n"), *said, mark["<|im_end|>"]]
            ids += tokenizer.encode("\n")
        ids += [mark["<|im_start|>"], *tokenizer.encode("assistant\n")]
        with torch.no_grad():
            logits = chat.model.logits(chat.model(torch.tensor([ids]))[0, -1])
        expected.append(float(logits[[266, 265]].softmax(-1)[1]))
    assert chat(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert chat(TEXTS[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


def test_examples_are_drawn_from_training():
    train = pd.DataFrame(
        {"text": [f"message {i}" for i in range(20)] + ["x" * 500], "label": ["ham", "spam"] * 10 + ["ham"]}
    )
    drawn = draw_examples(train, 3, seed=0)
    assert sorted(label for _, label in drawn) == ["ham"] * 3 + ["spam"] * 3
    assert dict(drawn).items() <= dict(zip(train["text"], train["label"], strict=True)).items()
    assert drawn == draw_examples(train, 3, seed=0) != draw_examples(train, 3, seed=1)
    assert draw_examples(train, 0, seed=0) == []
    with pytest.raises(ValueError, match="11 examples of ham"):
        draw_examples(train, 11, seed=0)


@pytest.mark.assets
@pytest.mark.slow
def test_the_chat_model_s_own_template():
    """As the template in the weights' file renders it: a system turn, the question, the answer's beginning."""
    from gguf import GGUFReader
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from spamlit.assets import fetch
    from spamlit.data.tokenizer import SMOLLM2_GGUF

    template = GGUFReader(fetch(SMOLLM2_GGUF)).fields["tokenizer.chat_template"].contents()
    asked = [{"role": "user", "content": QUESTION + "WIN"}]
    rendered = ImmutableSandboxedEnvironment().from_string(template).render(messages=asked, add_generation_prompt=True)
    tokenizer = load_tokenizer("smollm2")
    chat = Chat(load_backbone("smollm2-135m"), tokenizer)
    assert tokenizer.decode(chat.prompt + chat._asked("WIN")) == rendered
    found = chat(TEXTS)
    assert np.all((found > 0) & (found < 1))
