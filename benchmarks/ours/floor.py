"""The prefix pass against the time that its matrix products alone would take in this very process.

The floor counts the products of real tokens only (linear layers, and attention's two with causal halves) and divides by
the rate of `F.linear` at the shapes of the model's own layers, at whichever number of rows this machine does best.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.common import tell
from torch import nn
from torch.nn import functional as F

from spamlit.data.datamodule import SMSDataModule
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS
from spamlit.model.weights import load_backbone
from spamlit.training.prefix_cache import PrefixCache

ROWS = (512, 1024, 2048, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="gpt2")
    parser.add_argument("--head", type=int, help="only so many messages")
    parser.add_argument("--out", required=True)
    given = parser.parse_args()

    config = CONFIGS[given.backbone]
    data = SMSDataModule(tokenizer=config.tokenizer, split="random", context=config.context)
    data.setup()
    messages = [ids for split in ("train", "validation", "test") for ids in data.ids(split)][: given.head]
    kind = "random" if given.backbone == "tiny" else "pretrained"
    classifier = Classifier(load_backbone(given.backbone, weights=kind, seed=123), pooling="last_nonpad")
    classifier.set_trainable("last_block")
    with tempfile.TemporaryDirectory(dir=Path(given.out).parent) as folder:
        cache = PrefixCache({}, classifier.prefix, pooled=False, root=Path(folder))
        rate_before = matmul_rate(classifier)
        start = time.perf_counter()
        cache.fill(messages, progress=False)
        seconds = time.perf_counter() - start
        rate_after = matmul_rate(classifier)
    distinct = {tuple(ids) for ids in messages}
    work = sum(operations(classifier, len(ids)) for ids in distinct)
    rate = (rate_before + rate_after) / 2
    told = {"operations": work, "rate": rate, "rate_before": rate_before, "rate_after": rate_after}
    tell(given.out, prefix=seconds, floor=work / rate, messages=len(distinct), tokens=sum(map(len, distinct)), **told)


def frozen_linears(classifier: Classifier) -> list[nn.Linear]:
    """The linear layers below the lowest trained parameter."""
    blocks = classifier.backbone.blocks[: classifier.boundary]
    return [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]


def operations(classifier: Classifier, length: int) -> int:
    """Floating-point operations of one message's matrix products."""
    linear = sum(2 * length * layer.weight.numel() for layer in frozen_linears(classifier))
    pairs = length * (length + 1) // 2  # a position sees itself and what stands before it
    attention = 4 * pairs * classifier.backbone.config.n_embd  # scores and mixing, 2 operations each
    return linear + attention * int(classifier.boundary)


def matmul_rate(classifier: Classifier, repeats: int = 3) -> float:
    """Operations a second of one block's linear layers: the best number of rows, the median of its repeats."""
    n_linears = len(frozen_linears(classifier)) // int(classifier.boundary)
    layers = frozen_linears(classifier)[:n_linears]
    return max(_rate(layers, rows, repeats) for rows in ROWS)


@torch.inference_mode()
def _rate(layers: Sequence[nn.Linear], rows: int, repeats: int) -> float:
    inputs = [torch.randn(rows, layer.in_features) for layer in layers]
    work = sum(2 * rows * layer.weight.numel() for layer in layers)
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for layer, x in zip(layers, inputs, strict=True):
            F.linear(x, layer.weight, layer.bias)
        rates.append(work / (time.perf_counter() - start))
    return statistics.median(rates[1:])  # the first one warms up


if __name__ == "__main__":
    main()
