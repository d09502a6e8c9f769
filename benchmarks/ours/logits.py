"""Untrained logits of the lesson's first validation messages, to compare with the peer's."""

from __future__ import annotations

import argparse

import torch
from benchmarks.common import tell

from spamlit.data.datamodule import SMSDataModule
from spamlit.model.classifier import Classifier
from spamlit.model.weights import load_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="gpt2")
    parser.add_argument("--pooling", required=True)
    parser.add_argument("--logits", type=int, required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()

    padding = "fixed" if given.pooling == "last" else "longest"
    data = SMSDataModule(tokenizer="gpt2", split="random", context=1024, padding=padding, eval_batch_size=1)
    data.setup()
    kind = "random" if given.backbone == "tiny" else "pretrained"  # what benchmarks.prepare put in their place
    backbone = load_backbone(given.backbone, weights=kind, seed=123)
    classifier = Classifier(backbone, pooling=given.pooling, head_seed=123)
    classifier.set_trainable("last_block")
    logits = {}
    with torch.inference_mode():
        for batch in data.eval_dataloader("validation"):
            row = int(batch.index[0])
            if row < given.logits:
                logits[row] = classifier(batch.tokens, batch.lengths)[0].tolist()
    tell(given.out, logits=[logits[row] for row in sorted(logits)])


if __name__ == "__main__":
    main()
