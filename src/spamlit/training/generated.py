"""Training messages that the backbone writes itself, after the training split's example; drawn once and kept on disk.

    python train.py data.generated.spam=500 data.generated.ham=500

Shown a few training messages of one label, one a line, the pretrained backbone goes on with lines like them; those stay
that are no copies and whose words say that label (`NewAndFitting`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from omegaconf import DictConfig

from spamlit.assets import cache_dir
from spamlit.data.generated import GENERATED, NaiveBayes, NewAndFitting, make_prompt, one_line
from spamlit.data.splits import Writer
from spamlit.data.tokenizer import Tokenizer
from spamlit.model.generate import generate_many
from spamlit.model.gpt import GPT
from spamlit.model.weights import load_backbone, weights_sha256
from spamlit.training.prefix_stores import PREFIX_DTYPES
from spamlit.training.progress import track
from spamlit.training.run_folder import read_json, write_json
from spamlit.training.settings import plain

log = logging.getLogger(__name__)

TEMPERATURE = 0.9
TOP_K = 50
ROWS = 32
"""Messages written at once, to one prompt."""
MAX_TOKENS = 72
"""Of a message; a longer one is dropped."""
LEAST_KEPT = 0.1
"""Share of what is written that should be kept: at less, fewer messages than wanted are the result."""
VERSION = 1  # of what is kept on disk: to change with anything that changes the messages


def make_writer(cfg: DictConfig, tokenizer: Tokenizer) -> Writer | None:
    """What `data.generated` asks for, of the backbone as it is before training; None for nothing."""
    counts = {label: int(count) for label, count in cfg.data.generated.items()}
    if not any(counts.values()):
        return None
    dtype = PREFIX_DTYPES.get(str(cfg.trainer.precision), torch.float32)
    settings = {
        "weights": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
        "n_layer": cfg.backbone.n_layer,
        "dtype": str(dtype),
        "counts": counts,
        "seed": cfg.data.seed,
        "version": VERSION,
    }

    def write(train: pd.DataFrame, known: Sequence[str]) -> pd.DataFrame:
        rows = [*train[["label", "text"]].itertuples(index=False, name=None)]
        content = json.dumps([settings, rows, list(known)], sort_keys=True).encode()
        path = cache_dir() / GENERATED / f"{hashlib.sha256(content).hexdigest()[:24]}.json"
        path.parent.mkdir(exist_ok=True)
        with FileLock(f"{path}.lock"):  # of several processes one writes
            if (written := _kept(path)) is None:
                backbone = load_backbone(**plain(cfg.backbone), seed=cfg.seed)
                with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    written = write_messages(backbone, tokenizer, train, known, counts, seed=cfg.data.seed)
                new = written.to_numpy().tolist()
                write_json(path, {"sha256": _digest(new), "messages": new})
            return written

    return write


def write_messages(
    backbone: GPT,
    tokenizer: Tokenizer,
    train: pd.DataFrame,
    known: Sequence[str],
    counts: dict[str, int],
    *,
    seed: int,
) -> pd.DataFrame:
    """New messages of each label, as many as `counts` says or, with a warning, as many as could be had.

    Args:
        backbone: pretrained, in eval mode.
        tokenizer: its own.
        train: `label` and `text` of what is shown to it.
        known: texts that are not to be written again.
        counts: how many of each label.
        seed: draws prompts and tokens.

    Returns:
        Columns ``label``, ``text``.
    """
    fitting = NewAndFitting(known, NaiveBayes(train["text"].tolist(), train["label"].tolist()))
    rows = []
    with track("Generated messages", sum(counts.values())) as advance:
        for label, count in counts.items():
            kept: list[str] = []
            shown = train.loc[train["label"] == label, "text"].tolist()
            most = math.ceil(count / LEAST_KEPT)
            for text in islice(_candidates(backbone, tokenizer, shown, seed), most):
                if fitting.take(text, label):
                    kept.append(text)
                    advance(1)
                if len(kept) == count:
                    break
            else:
                if count:
                    log.warning(
                        "data.generated.%s=%d: of %d messages written only %d are new and of that kind.",
                        label, count, most, len(kept),
                    )  # fmt: skip
            rows += [(label, text) for text in kept]
    return pd.DataFrame(rows, columns=["label", "text"])


def _candidates(backbone: GPT, tokenizer: Tokenizer, shown: Sequence[str], seed: int) -> Iterator[str]:
    """Endless lines, as the backbone goes on with lists of some of the messages shown; empty where one has no end."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    stop_ids = {i for token, i in tokenizer.ranks.items() if b"\n" in token} | set(tokenizer.special.values())
    while True:
        prompt = tokenizer.encode(make_prompt(shown, rng))[-(backbone.config.context - MAX_TOKENS) :]
        written = generate_many(
            backbone, prompt, MAX_TOKENS, ROWS,
            temperature=TEMPERATURE, top_k=TOP_K, stop_ids=stop_ids, generator=generator,
        )  # fmt: skip
        yield from (one_line(tokenizer.decode(ids)) if len(ids) < MAX_TOKENS else "" for ids in written)


def _kept(path: Path) -> pd.DataFrame | None:
    """What was written before; None where nothing was, or where it is damaged."""
    try:
        content = read_json(path)
        rows = content["messages"]
        return pd.DataFrame(rows, columns=["label", "text"]) if _digest(rows) == content["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None


def _digest(rows: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
