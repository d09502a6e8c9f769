"""The pretrained chat model asked "is this spam?", without any training: the scores of its two answers decide."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spamlit.analysis.predicted import Predicted, predicted
from spamlit.analysis.scores import Array
from spamlit.data.splits import Splits
from spamlit.data.tokenizer import Tokenizer, load_tokenizer
from spamlit.model.generate import continued_logits, read_prompt
from spamlit.model.gpt import GPT
from spamlit.model.weights import load_backbone

BACKBONE = "smollm2-135m"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's own chat template begins with."""
QUESTION = "Is the following text message spam? Answer with Yes or No.\n\nMessage: "
ANSWERS = {"ham": "No", "spam": "Yes"}
EXAMPLE_LENGTH = 160
"""Characters of a message that may be an example."""
MAX_TOKENS = 256
"""Of a message; what is longer is cut."""
BATCH_TOKENS = 1_024


class Chat:
    """A chat with one question at its end, whose beginning is read once.

    Args:
        model: an instruction-tuned backbone, in eval mode.
        tokenizer: its own; its special tokens mark the turns.
        examples: messages and labels that are asked and answered before.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]] = ()) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.answers = [tokenizer.encode(ANSWERS[label]) for label in ("ham", "spam")]
        if any(len(answer) != 1 for answer in self.answers):
            raise ValueError(f"the answers {ANSWERS} must be one token each, and are {self.answers}")
        ids = self._turn("system", SYSTEM)
        for text, label in examples:
            ids += self._turn("user", QUESTION + text) + self._turn("assistant", ANSWERS[label])
        self.past = read_prompt(model, ids)

    def __call__(self, texts: Sequence[str]) -> Array:
        """Probability of "Yes" against "No" for each text, in order."""
        rows = [self._asked(text) for text in texts]
        found = np.empty(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * len(rows[i]) > BATCH_TOKENS:
                found[batch] = self._spam(rows, batch)
                batch = []
            batch.append(i)
        if batch:
            found[batch] = self._spam(rows, batch)
        return found

    def _spam(self, rows: Sequence[list[int]], batch: Sequence[int]) -> Array:
        lengths = torch.tensor([len(rows[i]) for i in batch])
        tokens = torch.full((len(batch), int(lengths.max())), self.tokenizer.pad_id)
        for out, i in zip(tokens, batch, strict=True):
            out[: len(rows[i])] = torch.tensor(rows[i])
        logits: Tensor = continued_logits(self.model, self.past, tokens, lengths)  # (B, vocab_size)
        two = logits[:, [answer[0] for answer in self.answers]].double()
        return two.softmax(dim=-1)[:, 1].numpy()

    def _asked(self, text: str) -> list[int]:
        cut = self.tokenizer.decode(self.tokenizer.encode(text)[:MAX_TOKENS])
        start = [self.tokenizer.special["<|im_start|>"], *self.tokenizer.encode("assistant\n")]
        return self._turn("user", QUESTION + cut) + start

    def _turn(self, role: str, text: str) -> list[int]:
        special, encode = self.tokenizer.special, self.tokenizer.encode
        return [
            special["<|im_start|>"],
            *encode(f"{role}\n{text}"),
            special["<|im_end|>"],
            *encode("\n"),
        ]


def prompted(splits: Splits, seed: int, *, shots: int) -> Predicted:
    """The pretrained GPT's own answers; validation and test messages only.

    Args:
        splits: to predict; training messages are the examples.
        seed: draws the examples.
        shots: how many of each label are shown before the question.
    """
    tokenizer, model = load_tokenizer("smollm2"), load_backbone(BACKBONE)
    start = time.perf_counter()
    chat = Chat(model, tokenizer, draw_examples(splits.train, shots, seed))
    return predicted(splits, chat, start, of=("validation", "test"))


def draw_examples(train: pd.DataFrame, shots: int, seed: int) -> list[tuple[str, str]]:
    """`shots` short training messages of each label, in drawn order.

    Raises:
        ValueError: there are not so many.
    """
    short = train[train["text"].str.len() <= EXAMPLE_LENGTH]
    drawn = []
    for label in ANSWERS:
        fitting = short[short["label"] == label]
        if len(fitting) < shots:
            raise ValueError(f"{shots} examples of {label} wanted, but training has {len(fitting)} short ones")
        drawn.append(fitting.sample(shots, random_state=seed))
    mixed = pd.concat(drawn).sample(frac=1, random_state=seed)
    return list(zip(mixed["text"], mixed["label"], strict=True))
