"""The lesson's own classifier run (chapter 6 of LLMs-from-scratch), on weights and messages that are given to it.

As in its `gpt_class_finetune.py`: balance, split, CSV files, loaders, a frozen model with a new head and a trained last
block, `train_classifier_simple`. Nothing of it is written again here but the copying of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spamlit.data.tokenizer import Tokenizer
from spamlit.model.gpt import GPT, GPTConfig

SEED, BATCH_SIZE = 123, 8


def chapter(number: int) -> Any:
    """A chapter of the lesson's package, which does not install on Python 3.13 and newer."""
    reason = "the lesson's package needs Python < 3.13: pip install --no-deps llms-from-scratch==1.0.19"
    return pytest.importorskip(f"llms_from_scratch.ch{number:02}", reason=reason, exc_type=ImportError)


def new_model(config: GPTConfig) -> nn.Module:
    """The lesson's GPTModel with its own random weights."""
    shape = {"vocab_size": config.vocab_size, "context_length": config.context, "emb_dim": config.n_embd}
    settings = {"n_heads": config.n_head, "n_layers": config.n_layer, "drop_rate": 0.0, "qkv_bias": True}
    torch.manual_seed(SEED)
    model: nn.Module = chapter(4).GPTModel(shape | settings)
    return model


def model_with_weights_of(backbone: GPT) -> nn.Module:
    """The lesson's GPTModel with our weights, every parameter of both accounted for; the head still tied."""
    model = new_model(backbone.config)
    own = backbone.state_dict()
    state = {_lessons_name(name): value.clone() for name, value in own.items()}
    state["out_head.weight"] = own["token_embedding.weight"].clone()
    state |= {name: value for name, value in model.state_dict().items() if name.endswith(".mask")}
    model.load_state_dict(state, strict=True)
    return model


NAMES = {
    "token_embedding": "tok_emb",
    "position_embedding": "pos_emb",
    "blocks": "trf_blocks",
    "norm": "final_norm",
    "norm_1": "norm1",
    "norm_2": "norm2",
    "attention": "att",
    "query": "W_query",
    "key": "W_key",
    "value": "W_value",
    "out": "out_proj",
    "mlp": "ff.layers",
    "up": "0",
    "down": "2",
}


def _lessons_name(name: str) -> str:
    *modules, kind = name.split(".")
    if "norm" in modules[-1]:
        kind = {"weight": "scale", "bias": "shift"}[kind]
    return ".".join([NAMES.get(module, module) for module in modules] + [kind])


def new_head(model: nn.Module, trained: str = "last_block", rank: int = 0, alpha: int = 0) -> None:
    """Freeze the model, replace its head and free what is trained, in the words of the lesson and its ablation script.

    With LoRA the script freezes before it makes the head: the head is trained, and wrapped like every other Linear.
    """
    for parameter in model.parameters():
        parameter.requires_grad = False
    torch.manual_seed(SEED)
    model.out_head = nn.Linear(in_features=model.tok_emb.embedding_dim, out_features=2)
    blocks = list(model.trf_blocks)
    freed = {
        "head": [],
        "last_block": [blocks[-1], model.final_norm],
        "last_two_blocks": [*blocks[-2:], model.final_norm],
        "all": [model],
        "lora": [],
    }
    for module in freed[trained]:
        for parameter in module.parameters():
            parameter.requires_grad = True
    if trained == "lora":
        pytest.importorskip("llms_from_scratch.appendix_e").replace_linear_with_lora(model, rank, alpha)


def without_causal_mask(model: nn.Module) -> None:
    """Row 17: its masked_fill then masks nothing."""
    for name, buffer in model.named_buffers():
        if name.endswith(".mask"):
            buffer.zero_()


def loaders(
    collection: Path, folder: Path, tokenizer: Tokenizer, batch_size: int = BATCH_SIZE, padded: bool = True
) -> dict[str, DataLoader[Any]]:
    """The lesson's loaders of training, validation and test: its splits, written as CSV and read again.

    Not `padded` are the ablation script's, of batch size 1.
    """
    ch06 = chapter(6)
    table = pd.read_csv(collection, sep="\t", header=None, names=["Label", "Text"])
    balanced = ch06.create_balanced_dataset(table)
    balanced["Label"] = balanced["Label"].map({"ham": 0, "spam": 1})
    datasets: dict[str, Any] = {}
    for name, frame in zip(("train", "val", "test"), ch06.random_split(balanced, 0.7, 0.1), strict=True):
        frame.to_csv(folder / f"{name}.csv", index=False)
        longest = datasets["train"].max_length if datasets else None
        datasets[name] = ch06.SpamDataset(folder / f"{name}.csv", tokenizer, longest, pad_token_id=tokenizer.pad_id)
        if not padded:
            datasets[name].encoded_texts = [tokenizer.encode(text) for text in datasets[name].data["Text"]]
    return {
        name: DataLoader(dataset, batch_size, shuffle=name == "train", drop_last=name == "train")
        for name, dataset in datasets.items()
    }


Read = Callable[[Tensor, Tensor], Tensor]
"""(logits of all positions (B, T, 2), ids (B, T)) -> the logits that count, (B, 2)."""


def training_losses(
    model: nn.Module,
    loaders: dict[str, DataLoader[Any]],
    epochs: int = 1,
    steps: int | None = None,
    read: Read | None = None,
    accumulate: int = 1,
) -> list[float]:
    """The loss of each step of the lesson's training, stopped after `steps` of them.

    `read` chooses the logits as the ablation script does (the lesson itself: at position -1), and as there a step may
    accumulate the gradients of several batches; `steps` and losses are then of batches. Behind step 0 it looks at the
    losses of five batches of each loader; a run of few steps makes that one.
    """
    torch.manual_seed(SEED)
    optimizer = _Accumulating(model.parameters(), lr=5e-5, weight_decay=0.1)
    optimizer.batches = accumulate
    with recorded(steps, read) as losses:
        chapter(6).train_classifier_simple(
            model, loaders["train"], loaders["val"], optimizer, torch.device("cpu"), epochs, 50, 1 if steps else 5
        )
    return losses


class _Accumulating(torch.optim.AdamW):
    """Steps at each so many calls only, with the mean of their gradients, which the loop of the lesson cannot do."""

    batches, seen = 1, 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        if self.seen % self.batches == 0:
            super().zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:
        self.seen += 1
        if self.seen % self.batches == 0:
            for parameter in self.param_groups[0]["params"]:
                if parameter.grad is not None:
                    parameter.grad /= self.batches
            super().step()


class _EnoughError(Exception):
    pass


@contextmanager
def recorded(steps: int | None, read: Read | None = None) -> Iterator[list[float]]:
    """The losses that the lesson computes in training mode; ends the block after `steps` of them."""
    ch06, losses = chapter(6), []
    original = ch06.calc_loss_batch

    def recording(inputs: Tensor, targets: Tensor, model: nn.Module, device: torch.device) -> Tensor:
        if model.training and len(losses) == steps:
            raise _EnoughError
        if read is None:
            loss: Tensor = original(inputs, targets, model, device)
        else:
            loss = torch.nn.functional.cross_entropy(read(model(inputs), inputs), targets)
        if model.training:
            losses.append(loss.item())
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ch06, "calc_loss_batch", recording)
        with suppress(_EnoughError):
            yield losses
