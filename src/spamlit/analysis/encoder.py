"""A pretrained encoder (MiniLM or DistilBERT) with a classification head, fine-tuned on the same splits."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    get_linear_schedule_with_warmup,
)

from spamlit.analysis.predicted import Predicted, predicted
from spamlit.analysis.scores import Array
from spamlit.assets import fetch
from spamlit.data.splits import Splits

MAX_TOKENS = 128
LEARNING_RATE = 5e-5
BATCH = 16
EVAL_BATCH = 64
EPOCHS = 4
WARMUP = 0.06
"""Share of the steps."""


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder whose files `fetch` knows; both kinds read BERT's lower-cased word pieces.

    Attributes:
        weights: The asset.
        tokenizer: The asset.
        make: The model with a new head of two classes, drawn from torch's generator.
        prefix: In the file, of the body's tensors' names.
        beside: Beginnings of the names of what the file holds besides, and a classifier has no use for.
    """

    weights: str
    tokenizer: str
    make: Callable[[], PreTrainedModel]
    prefix: str
    beside: tuple[str, ...]


ENCODERS: Mapping[str, Encoder] = {
    "minilm": Encoder(
        "all-MiniLM-L6-v2.safetensors",
        "all-MiniLM-L6-v2.tokenizer.json",
        lambda: BertForSequenceClassification(  # as in the weights' config.json, where it differs from BERT's own
            BertConfig(
                hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
            )
        ),
        prefix="",
        beside=("embeddings.position_ids",),  # 0, 1, 2, …: no weight
    ),
    "distilbert": Encoder(
        "distilbert-base-uncased.safetensors",
        "distilbert-base-uncased.tokenizer.json",
        lambda: DistilBertForSequenceClassification(DistilBertConfig(num_labels=2)),
        prefix="distilbert.",
        beside=("vocab_layer_norm.", "vocab_projector.", "vocab_transform."),  # the head that guesses masked words
    ),
}

Examples = Sequence[tuple[list[int], int]]
"""Token ids and class of each message."""


def finetuned(splits: Splits, seed: int, *, name: str, epochs: int = EPOCHS) -> Predicted:
    """One of `ENCODERS`, all weights trained: AdamW with linear warm-up and decay, batches of alike lengths.

    The epoch with the lowest loss on validation is kept. Training messages are not predicted.

    Raises:
        AssetError: weights or vocabulary cannot be had.
    """
    tokenizer, model = load_tokenizer(ENCODERS[name]), load_encoder(ENCODERS[name], seed)
    start = time.perf_counter()
    train, validation = (examples(tokenizer, frame) for frame in (splits.train, splits.validation))
    losses = fit(model, train, validation, epochs=epochs, seed=seed)
    return predicted(
        splits,
        lambda texts: probabilities(model, [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]),
        start,
        {"epoch": int(np.argmin(losses)) + 1, "validation_loss": losses},
        of=("validation", "test", "reserve"),
    )


def load_tokenizer(encoder: Encoder) -> Tokenizer:
    """BERT's word pieces, lower-cased; no padding, truncated to MAX_TOKENS."""
    tokenizer = Tokenizer.from_file(str(fetch(encoder.tokenizer)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def load_encoder(encoder: Encoder, seed: int) -> Any:
    """The pretrained body, every tensor of the file accounted for, and a new head drawn from the seed.

    Raises:
        AssetError: the weights cannot be had.
        RuntimeError: the file has other tensors than the body.
    """
    torch.manual_seed(seed)
    model = encoder.make()
    state = {
        name.removeprefix(encoder.prefix): weight
        for name, weight in load_file(fetch(encoder.weights)).items()
        if not name.startswith(encoder.beside)
    }
    model.base_model.load_state_dict(state)
    return model


def examples(tokenizer: Tokenizer, frame: pd.DataFrame) -> Examples:
    """The messages of a frame as token ids and classes."""
    encodings = tokenizer.encode_batch(frame["text"].tolist())
    return [(each.ids, int(label == "spam")) for each, label in zip(encodings, frame["label"], strict=True)]


def fit(model: Any, train: Examples, validation: Examples, *, epochs: int, seed: int) -> list[float]:
    """Trains `model` in place, leaves it with the weights of its best epoch, and gives each epoch's validation loss."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    losses: list[float] = []
    kept: dict[str, Tensor] = {}
    for _ in range(epochs):
        model.train()
        for rows in _buckets([len(ids) for ids, _ in train], generator):
            tokens, mask = padded([train[row][0] for row in rows])
            labels = torch.tensor([train[row][1] for row in rows])
            loss: Tensor = F.cross_entropy(model(tokens, attention_mask=mask).logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(log_loss(model, validation))
        if losses[-1] == min(losses):
            kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return losses


def log_loss(model: Any, messages: Examples) -> float:
    """Mean cross-entropy."""
    spam = probabilities(model, [ids for ids, _ in messages])
    right = np.where([label for _, label in messages], spam, 1 - spam)
    return float(-np.log(np.clip(right, 1e-12, 1)).mean())


def probabilities(model: Any, ids: Sequence[list[int]]) -> Array:
    """Spam probability of each row of token ids, in order."""
    model.eval()
    found = np.empty(len(ids))
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    with torch.inference_mode():
        for start in range(0, len(order), EVAL_BATCH):
            rows = order[start : start + EVAL_BATCH]
            tokens, mask = padded([ids[row] for row in rows])
            found[rows] = model(tokens, attention_mask=mask).logits.softmax(-1)[:, 1].double().numpy()
    return found


def padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded with 0, and the mask (B, T) of the real ones."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for out, row in zip(tokens, rows, strict=True):
        out[: len(row)] = torch.tensor(row)
    return tokens, (torch.arange(tokens.shape[1]) < lengths[:, None]).long()


def _buckets(lengths: Sequence[int], generator: torch.Generator) -> list[list[int]]:
    """Batches in random order; rows are sorted by length within drawn groups of fifty batches."""
    drawn = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(drawn), 50 * BATCH):
        group = sorted(drawn[start : start + 50 * BATCH], key=lambda row: lengths[row])
        batches += [group[i : i + BATCH] for i in range(0, len(group), BATCH)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
