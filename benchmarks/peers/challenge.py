"""The challenge with the `transformers` Trainer: all weights of GPT2ForSequenceClassification, 64 tokens, batch 8."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmarks.common import since_start, tell
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

LENGTH = 64


class Messages(Dataset):
    """Messages padded and truncated to 64 tokens."""

    def __init__(self, table: pd.DataFrame, tokenizer: object) -> None:
        self.encoded = tokenizer(
            table["Text"].tolist(), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        self.labels = torch.tensor(table["Label"].to_numpy())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {name: values[row] for name, values in self.encoded.items()} | {"labels": self.labels[row]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a hub model: configuration, weights, tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="folder of challenge/")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many; by default the whole epoch")
    given = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForSequenceClassification.from_pretrained(given.model, dtype=torch.float32)
    tables = [pd.read_csv(given.data / "challenge" / f"{name}.csv") for name in ("train", "validation")]
    if given.steps > 0:
        tables = [table.head(8 * given.steps) for table in tables]
    train, validation = (Messages(table, tokenizer) for table in tables)
    with tempfile.TemporaryDirectory(dir=Path(given.out).parent) as folder:
        every = 500 if given.steps < 0 else given.steps
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            max_steps=given.steps,
            per_device_train_batch_size=8,
            learning_rate=5e-5,
            weight_decay=0.01,
            eval_strategy="steps",
            eval_steps=every,
            save_steps=every,
            logging_steps=every,
            save_total_limit=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=validation, compute_metrics=metrics)
        startup = since_start()
        trainer.train()
    told = [entry for entry in trainer.state.log_history if "eval_loss" in entry or "train_runtime" in entry]
    tell(given.out, startup=startup, ended=since_start(), steps=trainer.state.global_step, log=told)


def metrics(answers: object) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of spam."""
    decided, labels = np.argmax(answers.predictions, axis=-1), answers.label_ids
    hits = float(((decided == 1) & (labels == 1)).sum())
    precision, recall = hits / max(1, (decided == 1).sum()), hits / max(1, (labels == 1).sum())
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"accuracy": float((decided == labels).mean()), "precision": precision, "recall": recall, "f1": f1}


if __name__ == "__main__":
    main()
