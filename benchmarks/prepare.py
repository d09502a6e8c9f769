"""Inputs that both sides of a row share; each is made once, by a process of its own.

python -m benchmarks.prepare weights --backbone gpt2 --out hub/ --cache cache/
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from spamlit.assets import cache_dir, fetch
from spamlit.data.sms import parse, parse_quoted
from spamlit.data.splits import Splits, make_splits
from spamlit.data.tokenizer import load_tokenizer
from spamlit.model import weights as backbone_weights
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.layouts import gpt2_layout

SEED = 123


def cache(out: Path) -> None:
    """A SPAMLIT_CACHE with the user's own assets, tokenizers and prepared weights (hard links), and nothing else."""
    for name in ("assets", "tokenizers", "weights"):
        source = cache_dir() / name
        if source.is_dir():
            shutil.copytree(source, out / name, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def weights(backbone: str, out: Path, cache: Path) -> None:
    """Random weights in the hub's layout for the peers; for GPT-2 also in `cache`, where ours has its pretrained ones.

    So ours runs the very path of a user who has GPT-2: `backbone=gpt2`, prepared weights that map, a bundle that links.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "model.safetensors"
    state = GPT.random(CONFIGS[backbone], SEED).state_dict()
    save_file(gpt2_layout(state, CONFIGS[backbone].n_layer), file, {"format": "pt"})
    if backbone == "gpt2":
        os.environ["SPAMLIT_CACHE"] = str(cache)
        backbone_weights.fetch = lambda *_, **__: file  # in place of the pinned file, for this process
        for old in (cache / "weights").glob("gpt2-*"):
            old.unlink()
        loaded = backbone_weights.load_backbone("gpt2").state_dict()
        wrong = [name for name in state if not torch.equal(state[name], loaded[name])]
        assert not wrong, f"the hub's layout does not give back {wrong}"


def splits(out: Path) -> None:
    """The lesson's and the challenge's splits (Label 0 or 1, Text), GPT-2's tokenizer files, all messages."""
    collection = fetch("SMSSpamCollection")
    _write_csv(make_splits(parse_quoted(collection), split="random", seed=SEED), out / "lesson")
    _write_csv(make_splits(parse(collection), split="challenge", balance="none", seed=42), out / "challenge")
    load_tokenizer("gpt2").save(out / "tokenizer")
    (out / "messages.json").write_text(json.dumps(parse(collection)["text"].tolist()))


def _write_csv(made: Splits, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in made.frames().items():
        table = frame.rename(columns={"text": "Text"}).assign(Label=(frame["label"] == "spam").astype(int))
        table[["Label", "Text"]].to_csv(folder / f"{name}.csv", index=False)


def messages(n: int, out: Path) -> None:
    """`n` labelled messages: the collection; beyond it, halves of two messages of one class joined."""
    frame = parse(fetch("SMSSpamCollection"))
    draw = random.Random(SEED)
    rows = list(zip(frame["label"], frame["text"], strict=True))
    draw.shuffle(rows)
    by_label = {label: [text.split() for kind, text in rows if kind == label] for label in ("ham", "spam")}
    while len(rows) < n:
        label = draw.choices(("ham", "spam"), (0.866, 0.134))[0]
        first, second = draw.choices(by_label[label], k=2)
        text = " ".join(first[: -(-len(first) // 2)] + second[len(second) // 2 :])
        rows.append((label, text))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps([text for _, text in rows[:n]]))
    frame = type(frame)(rows[:n], columns=["label", "text"])
    frame.to_csv(out, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cache", "weights", "splits", "messages"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--backbone", default="gpt2")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    given = parser.parse_args()
    arguments = {
        "cache": (given.out,),
        "weights": (given.backbone, given.out, given.cache),
        "splits": (given.out,),
        "messages": (given.n, given.out),
    }
    globals()[given.what](*arguments[given.what])


if __name__ == "__main__":
    main()
