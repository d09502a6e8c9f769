"""Which stores of frozen activations a run fills and reads."""

from __future__ import annotations

import os
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor

from spamlit.data.datamodule import SMSDataModule
from spamlit.data.splits import SplitName
from spamlit.model.classifier import Classifier
from spamlit.model.pooling import READS_PADDING
from spamlit.model.weights import weights_sha256
from spamlit.training.module import Prefix
from spamlit.training.prefix_cache import PrefixCache
from spamlit.training.settings import plain

GPUS = ("gpu", "cuda")
PREFIX_DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


def make_prefix_cache(
    cfg: DictConfig, classifier: Classifier, data: SMSDataModule, splits: tuple[SplitName, ...]
) -> PrefixCache | None:
    """The frozen part's output for every message of the run; None where it is to be computed live.

    Where only the head is trained and one layer read, it is made from the store that training the last block reads, so
    that a sweep over both computes the blocks below once.
    """
    boundary, n_layer = classifier.boundary, classifier.backbone.config.n_layer
    if not cfg.data.prefix_cache or not boundary:
        return None
    needed = dict.fromkeys(("train", *splits))
    messages = [ids for split in needed for ids in data.ids(split)]
    if cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1:
        messages.append([data.tokenizer.pad_id])  # a filler, where processes share a split unevenly
    if cfg.model.pooling in READS_PADDING:
        messages = [[*ids, *[data.tokenizer.pad_id] * (data.max_length - len(ids))] for ids in messages]
    if boundary <= n_layer or n_layer == 1 or len(classifier.layers) > 1:
        cache = prefix_store(cfg, classifier, boundary, classifier.prefix)
        cache.fill(messages)
        return cache
    below = prefix_store(cfg, classifier, n_layer - 1, partial(classifier.states, stop=n_layer - 1))
    pooled = prefix_store(cfg, classifier, boundary, lambda t, n: classifier.pooled(below(t, n), n, start=n_layer - 1))
    if pooled.missing(messages):
        below.fill(messages)
    pooled.fill(messages)
    return pooled


def make_below_cache(
    cfg: DictConfig, classifier: Classifier, data: SMSDataModule, splits: tuple[SplitName, ...]
) -> PrefixCache | None:
    """What a block of the head's own reads of the messages that it learns from or judges; None as above, or without it.

    It is the store that training the last block reads.
    """
    if not cfg.data.prefix_cache or classifier.block is None:
        return None
    learned = [ids for ids, counts in zip(data.ids("train"), data.as_written.tolist(), strict=True) if counts]
    cache = prefix_store(cfg, classifier, classifier.backbone.config.n_layer - 1, classifier.below)
    filler = [classifier.backbone.config.pad_id]  # where a batch has nothing to learn from
    cache.fill([filler, *learned, *(ids for split in splits for ids in data.ids(split))])
    return cache


def prefix_store(cfg: DictConfig, classifier: Classifier, boundary: int, compute: Prefix) -> PrefixCache:
    """The store of what leaves the lowest `boundary` blocks, or of the pooled vectors above all of them."""
    pooled = boundary > classifier.backbone.config.n_layer
    dtype = PREFIX_DTYPES.get(str(cfg.trainer.precision), torch.float32)
    gpu = cfg.trainer.accelerator in GPUS
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu")
    return PrefixCache(
        {
            "weights": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
            "boundary": boundary,
            "pooling": cfg.model.pooling if pooled else None,
            "causal": cfg.model.causal,
            **({"layers": classifier.layers} if pooled and len(classifier.layers) > 1 else {}),
        },
        as_trained(classifier, compute, device, dtype),
        pooled=pooled,
        padded=cfg.model.pooling in READS_PADDING,
        dtype=dtype,
        device=device if gpu and cfg.data.prefix_on_device else None,
        limit_bytes=int(cfg.data.prefix_limit_gb * 2**30),
    )


def as_trained(classifier: Classifier, compute: Prefix, device: torch.device, dtype: torch.dtype) -> Prefix:
    """`compute` on the device and in the precision that training will have."""
    classifier.to(device)

    def computed(tokens: Tensor, lengths: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(tokens.to(device), lengths.to(device))

    return computed
