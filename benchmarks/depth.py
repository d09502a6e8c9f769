"""What cut depth and pooling cost and bring: a sweep's quality on validation beside its speed of prediction.

python train.py -m backbone.n_layer=30,20,14,10,6 model.pooling=last_nonpad,mean_nonpad seed=123,1 \
    data.reserve=false report=false hydra.sweep.dir=outputs/depth
python -m benchmarks.depth outputs/depth
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy
from torchmetrics.functional.classification import binary_f1_score

from spamlit import Predictor

HERE = Path(__file__).parent
PRECISIONS = ("fp32", "int8")
HEADER = """# Depth × pooling

What a shallower backbone and eight-bit layers cost in quality, and what they bring in speed. Written by
`python -m benchmarks.depth` (its head says how the runs were made): SmolLM2-135M, last kept block, norm and head
trained, 5 epochs, balanced and grouped split. F1 and loss are of **validation** (about 120 messages a seed: one message
is 0.008 of F1), means over {seeds} seeds; speed is over {n} messages of the collection, relative to the slowest, in one
process.

| blocks | read from | F1 fp32 | loss fp32 | F1 int8 | loss int8 | speed fp32 | speed int8 |
|---:|---|---:|---:|---:|---:|---:|---:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--messages", type=int, default=1000, help="whose prediction is timed")
    parser.add_argument("--out", type=Path, default=HERE / "depth.md")
    given = parser.parse_args()

    runs: dict[tuple[int, str], list[Path]] = defaultdict(list)
    texts: list[str] = []
    for path in sorted(given.sweep.glob("*/run.json")):
        chosen = json.loads(path.read_text())
        runs[chosen["backbone"]["n_layer"], chosen["hyperparameters"]["model.pooling"]].append(path.parent)
        texts += [row["text"] for row in rows(path.parent / "train.csv")]
    texts = random.Random(0).sample(sorted(set(texts)), given.messages)
    measured = {
        (*choice, precision): measure(folders, precision, texts)
        for choice, folders in sorted(runs.items(), reverse=True)
        for precision in PRECISIONS
    }
    slowest = max(seconds for _, _, seconds in measured.values())
    lines = []
    for n_layer, pooling in sorted(runs, reverse=True):
        (f1, loss, seconds), (f1_int8, loss_int8, seconds_int8) = (measured[n_layer, pooling, p] for p in PRECISIONS)
        quality = f"{f1:.4f} | {loss:.4f} | {f1_int8:.4f} | {loss_int8:.4f}"
        speed = f"{slowest / seconds:.1f} × | {slowest / seconds_int8:.1f} ×"
        lines.append(f"| {n_layer} | {pooling} | {quality} | {speed} |")
    seeds = max(map(len, runs.values()))
    given.out.write_text(HEADER.format(seeds=seeds, n=given.messages) + "\n".join(lines) + "\n")
    print(given.out.read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    """A split's messages."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(folders: list[Path], precision: str, texts: list[str]) -> tuple[float, float, float]:
    """Mean F1 and cross-entropy over the runs' validation messages; seconds for `texts` (the first run, warm)."""
    scores, losses, seconds = [], [], 0.0
    for folder in folders:
        predictor = Predictor.load(folder, precision=precision)
        table = rows(folder / "validation.csv")
        truth = torch.tensor([float(row["label"] == "spam") for row in table])
        spam = torch.tensor([answer.probability for answer in predictor.classify([row["text"] for row in table])])
        scores.append(binary_f1_score(spam, truth).item())
        losses.append(binary_cross_entropy(spam, truth).item())
        if folder == folders[0]:
            started = time.perf_counter()
            predictor.classify(texts)
            seconds = time.perf_counter() - started
    return statistics.mean(scores), statistics.mean(losses), seconds


if __name__ == "__main__":
    main()
