"""Bundles of both families with random weights, large enough for every term to matter; trained in no time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.model.conftest import GPT2_LIKE, LLAMA_LIKE, _random_gpt
from tests.synthetic import byte_tokenizer

from spamlit.data.tokenizer import load_tokenizer
from spamlit.inference.export.check import real_texts
from spamlit.model.bundle import save_bundle
from spamlit.model.classifier import Classifier
from spamlit.model.head import Perceptrons
from spamlit.model.spelling import spellings
from spamlit.model.weights import load_backbone

FAMILIES = {"gpt2": GPT2_LIKE, "llama": LLAMA_LIKE}
SETTINGS = {
    "labels": ["ham", "spam"],
    "threshold": 0.4,
    "threshold_policy": "f1",
    "temperature": 1.0,
    "unsure": [0.3, 0.6],
    "max_length": 40,
    "normalise": "none",
}


def random_bundle(
    folder: Path, family: str, *, trainable: str = "all", settings: dict[str, Any] | None = None, **options
):
    """A bundle of a random classifier; `options` are the Classifier's."""
    tokenizer = byte_tokenizer()
    config = replace(FAMILIES[family], vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    classifier = Classifier(_random_gpt(config), **options)
    classifier.set_trainable("head" if classifier.block is not None else trainable)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        if isinstance(classifier.head, Perceptrons):
            classifier.head.spellings.copy_(spellings(tokenizer.ranks, tokenizer.vocab_size))
        elif classifier.head.bias is not None:
            classifier.head.bias.copy_(torch.tensor([0.3, -0.4]))
    save_bundle(folder, classifier.eval(), SETTINGS | (settings or {}), tokenizer.save, None)
    return folder


def full_bundle(folder: Path, backbone: str, n_layer: int) -> Path:
    """A bundle of full width: GPT-2's with random weights, or SmolLM2's own; the head parts messages in half."""
    weights = "random" if backbone == "gpt2" else "pretrained"
    classifier = Classifier(load_backbone(backbone, weights=weights, n_layer=n_layer)).eval()
    tokenizer = load_tokenizer(classifier.backbone.config.tokenizer)
    some = [tokenizer.encode(text)[:128] for text in real_texts(folder)]
    with torch.inference_mode():
        logits = torch.cat([classifier(torch.tensor([ids]), torch.tensor([len(ids)])) for ids in some])
    log_odds = (logits[:, 1] - logits[:, 0]).sort().values
    middle = log_odds[len(some) // 2 - 1 : len(some) // 2 + 1].mean()  # between two messages, not on one
    with torch.no_grad():
        for parameter in classifier.head.parameters():
            parameter.mul_(2 / log_odds.std())
        classifier.head.bias[1] -= middle * 2 / log_odds.std()
    save_bundle(folder, classifier, SETTINGS | {"threshold": 0.5, "max_length": 128}, tokenizer.save, None)
    return folder
