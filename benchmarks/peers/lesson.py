"""The lesson's training loop with the lesson's model, from the package `llms-from-scratch`.

Chapter 6's settings: last block, final norm and head trained; AdamW, lr 5e-5, weight decay 0.1; batch 8; loss over
five batches of each loader every 50 steps, accuracy over five batches of each after every epoch, over all of them at
the end. `--pooling last_nonpad` is row 16 of the ablation table (the "flexible" position of its script). Each part
is timed, so that the driver can count five epochs from the whole ones that were run.
"""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tiktoken
import torch
from benchmarks.common import since_start, tell
from llms_from_scratch.ch04 import GPTModel, GPTModelFast
from llms_from_scratch.ch06 import SpamDataset
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

PAD = 50256
EVAL_FREQ, EVAL_ITER = 50, 5
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # tiktoken's own for gpt2
SEED = 123


class Times:
    """Seconds of each part, one entry every time it was done."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.parts.setdefault(part, []).append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="GPT-2 safetensors in the hub's layout")
    parser.add_argument("--data", type=Path, required=True, help="folder of lesson/ and tokenizer/")
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", choices=("GPTModel", "GPTModelFast"), default="GPTModel")
    parser.add_argument("--pooling", choices=("last", "last_nonpad"), default="last")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="stop each epoch after so many")
    parser.add_argument("--logits", type=int, help="only write the untrained logits of so many validation messages")
    given = parser.parse_args()

    times = Times()
    torch.manual_seed(SEED)
    loaders = make_loaders(given.data)
    model = load_model(given.model, given.weights, given.heads)
    if given.logits:
        inputs = torch.stack([loaders[1].dataset[i][0] for i in range(given.logits)])
        with torch.inference_mode():
            tell(given.out, logits=logits_at(model.eval(), inputs, given.pooling).tolist())
        return
    startup = since_start()
    train(model, loaders, given.pooling, given.epochs, given.steps, times)
    with times("final"):
        limit = given.steps
        accuracies = [accuracy(model, loader, given.pooling, limit) for loader in loaders]
    tell(given.out, parts=times.parts, startup=startup, ended=since_start(), accuracies=accuracies)


def make_loaders(folder: Path) -> list[DataLoader]:
    """Loaders of training, validation and test messages, padded to the longest training message."""
    encoding = load_encoding(folder / "tokenizer" / "tokenizer.tiktoken")
    train = SpamDataset(folder / "lesson" / "train.csv", encoding, None)
    others = [SpamDataset(folder / "lesson" / f"{n}.csv", encoding, train.max_length) for n in ("validation", "test")]
    return [
        DataLoader(train, batch_size=8, shuffle=True, drop_last=True),
        *(DataLoader(dataset, batch_size=8, drop_last=False) for dataset in others),
    ]


def load_encoding(path: Path) -> tiktoken.Encoding:
    """tiktoken's `gpt2` from a local file, as there may be no network."""
    rows = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in rows}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": PAD})


def load_model(kind: str, path: Path, heads: int) -> nn.Module:
    """The package's model with these weights, a new head, and what the lesson trains."""
    hub = load_file(path)
    n_layers = 1 + max(int(name.split(".")[1]) for name in hub if name.startswith("h."))
    vocab_size, width = hub["wte.weight"].shape
    model = {"GPTModel": GPTModel, "GPTModelFast": GPTModelFast}[kind](
        {
            "vocab_size": vocab_size,
            "context_length": hub["wpe.weight"].shape[0],
            "emb_dim": width,
            "n_heads": heads,
            "n_layers": n_layers,
            "drop_rate": 0.0,
            "qkv_bias": True,
        }
    )
    tokens = hub["wte.weight"]
    state = {"tok_emb.weight": tokens, "pos_emb.weight": hub["wpe.weight"], "out_head.weight": tokens}
    state |= _norm("final_norm", hub, "ln_f", kind)
    for n in range(n_layers):
        state |= _block(f"trf_blocks.{n}", hub, f"h.{n}", kind)
    model.load_state_dict({**{k: v for k, v in model.state_dict().items() if k.endswith("att.mask")}, **state})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.manual_seed(SEED)
    model.out_head = nn.Linear(width, 2)
    for module in (model.trf_blocks[-1], model.final_norm):
        for parameter in module.parameters():
            parameter.requires_grad_(True)
    return model


def _norm(name: str, hub: dict[str, Tensor], source: str, kind: str) -> dict[str, Tensor]:
    weight, bias = ("weight", "bias") if kind == "GPTModelFast" else ("scale", "shift")
    return {f"{name}.{weight}": hub[f"{source}.weight"], f"{name}.{bias}": hub[f"{source}.bias"]}


def _block(name: str, hub: dict[str, Tensor], source: str, kind: str) -> dict[str, Tensor]:
    """One block's tensors; Conv1D weights (in, out) become Linear's (out, in)."""
    state = _norm(f"{name}.norm1", hub, f"{source}.ln_1", kind) | _norm(f"{name}.norm2", hub, f"{source}.ln_2", kind)
    fast = kind == "GPTModelFast"
    linears = {
        "attn.c_attn": ("att.qkv",) if fast else ("att.W_query", "att.W_key", "att.W_value"),
        "attn.c_proj": ("att.proj" if fast else "att.out_proj",),
        "mlp.c_fc": ("ff.layers.0",),
        "mlp.c_proj": ("ff.layers.2",),
    }
    for tensor, targets in linears.items():
        weights = hub[f"{source}.{tensor}.weight"].t().chunk(len(targets))
        biases = hub[f"{source}.{tensor}.bias"].chunk(len(targets))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            state |= {f"{name}.{target}.weight": weight, f"{name}.{target}.bias": bias}
    return state


def logits_at(model: nn.Module, inputs: Tensor, pooling: str) -> Tensor:
    """Logits (B, 2) at the position that is read; the package's model gives them at all positions."""
    logits = model(inputs)
    if pooling == "last":
        return logits[:, -1, :]
    last = (inputs != PAD).sum(dim=1) - 1
    return logits[torch.arange(len(inputs)), last, :]


def train(
    model: nn.Module, loaders: list[DataLoader], pooling: str, epochs: int, steps: int | None, times: Times
) -> None:
    """`train_classifier_simple`, timed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    step = -1
    for _ in range(epochs):
        start, before = time.perf_counter(), sum(times.parts.get("evaluation", []))
        model.train()
        for i, (inputs, labels) in enumerate(loaders[0]):
            if i == steps:
                break
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits_at(model, inputs, pooling), labels).backward()
            optimizer.step()
            step += 1
            if step % EVAL_FREQ == 0:
                with times("evaluation"):
                    evaluate(model, loaders, pooling)
        evaluations = sum(times.parts.get("evaluation", [])) - before
        times.parts.setdefault("epoch", []).append(time.perf_counter() - start - evaluations)
        with times("accuracy"):
            for loader in loaders[:2]:
                accuracy(model, loader, pooling, EVAL_ITER)


def evaluate(model: nn.Module, loaders: list[DataLoader], pooling: str) -> None:
    """Mean loss over five batches of the training and of the validation loader."""
    model.eval()
    losses = []
    with torch.no_grad():
        for loader in loaders[:2]:
            for i, (inputs, labels) in enumerate(loader):
                if i == EVAL_ITER:
                    break
                losses.append(nn.functional.cross_entropy(logits_at(model, inputs, pooling), labels).item())
    print("losses", losses)
    model.train()


def accuracy(model: nn.Module, loader: DataLoader, pooling: str, batches: int | None) -> float:
    """Share of right answers in the first `batches` of a loader."""
    model.eval()
    right, seen = 0, 0
    for i, (inputs, labels) in enumerate(loader):
        if i == batches:
            break
        with torch.no_grad():
            decided = logits_at(model, inputs, pooling).argmax(dim=-1)
        right, seen = right + (decided == labels).sum().item(), seen + len(labels)
    return right / seen


if __name__ == "__main__":
    main()
