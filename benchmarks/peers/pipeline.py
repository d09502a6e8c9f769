"""Every message through the `transformers` text-classification pipeline, 32 at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from benchmarks.common import since_start, tell
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder that benchmarks.peers.export wrote")
    parser.add_argument("--messages", type=Path, required=True, help="JSON list of texts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--head", type=int, help="only so many messages")
    given = parser.parse_args()

    texts = json.loads(given.messages.read_text())[: given.head]
    model = AutoModelForSequenceClassification.from_pretrained(given.model, dtype=torch.float32)
    add_bias(model, given.model / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    startup = since_start()
    answers = classify(texts, batch_size=32, truncation=True, max_length=tokenizer.model_max_length)
    spam = [answer["score"] if answer["label"] == "spam" else 1 - answer["score"] for answer in answers]
    tell(given.out, startup=startup, ended=since_start(), probabilities=spam)


def add_bias(model: torch.nn.Module, path: Path) -> None:
    """The head's bias, which these classes of `transformers` do not have, where the classifier has one."""
    with safe_open(path, framework="pt") as file:
        if "score.bias" in file.keys():  # noqa: SIM118
            model.score.bias = torch.nn.Parameter(file.get_tensor("score.bias"))


if __name__ == "__main__":
    main()
