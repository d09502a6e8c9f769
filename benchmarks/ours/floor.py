"""The prefix pass against the time that its matrix products alone would take in this very process.

The floor counts the products of real tokens only (linear layers, and attention's two with causal halves) and divides by
the rate of `F.linear` at the shapes of the model's own layers. A virtual machine's rate can double from one minute
to the next: the rate is probed again and again between batches of the pass (the probes' time does not count).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.common import tell
from torch import Tensor, nn
from torch.nn import functional as F

from spamlit.data.datamodule import SMSDataModule
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS
from spamlit.model.weights import load_backbone
from spamlit.training.prefix_cache import PrefixCache

ROWS = 2048  # tokens of a batch of the pass
EVERY = 8_192  # tokens between two probes


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
    messages = list({tuple(ids): ids for ids in messages}.values())
    probed = Probed(classifier)
    with tempfile.TemporaryDirectory(dir=Path(given.out).parent) as folder:
        cache = PrefixCache({}, probed, pooled=False, root=Path(folder))
        start = time.perf_counter()
        cache.fill(messages, progress=False)
        seconds = time.perf_counter() - start - probed.seconds
    probed.probe()
    told = {"operations": sum(probed.work), "messages": len(messages), "tokens": sum(map(len, messages))}
    tell(given.out, prefix=seconds, floor=probed.floor(), rates=probed.rates, **told)


class Probed:
    """The frozen part as the cache calls it, with probes of the matrix-product rate in between."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.rates: list[float] = []
        self.work: list[int] = []  # operations between a probe and the next
        self.seconds = 0.0
        self._tokens = EVERY

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        if self._tokens >= EVERY:
            self.probe()
            self.work.append(0)
            self._tokens = 0
        self._tokens += int(lengths.sum())
        self.work[-1] += sum(operations(self.classifier, length) for length in lengths.tolist())
        return self.classifier.prefix(tokens, lengths)

    def probe(self) -> None:
        """Measures the rate now."""
        start = time.perf_counter()
        self.rates.append(matmul_rate(self.classifier))
        self.seconds += time.perf_counter() - start

    def floor(self) -> float:
        """Seconds that the work would take at the mean of the rates before and after it."""
        return sum(2 * work / (a + b) for work, a, b in zip(self.work, self.rates, self.rates[1:], strict=False))


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


@torch.inference_mode()
def matmul_rate(classifier: Classifier, repeats: int = 8) -> float:
    """Operations a second of one block's linear layers."""
    layers = frozen_linears(classifier)[: len(frozen_linears(classifier)) // int(classifier.boundary)]
    inputs = [torch.randn(ROWS, layer.in_features) for layer in layers]
    for turn in range(repeats + 1):
        if turn == 1:  # the first one warms up
            start = time.perf_counter()
        for layer, x in zip(layers, inputs, strict=True):
            F.linear(x, layer.weight, layer.bias)
    return repeats * sum(2 * ROWS * layer.weight.numel() for layer in layers) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
