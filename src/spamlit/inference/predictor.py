"""The only way to classify: command line, server, report and tests all go through the Predictor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spamlit.data.normalise import check_normalisation, normalise
from spamlit.data.tokenizer import Tokenizer
from spamlit.inference.int8 import quantize
from spamlit.model.bundle import BundleError, load_bundle
from spamlit.model.classifier import Classifier
from spamlit.training.decision import check_band, check_threshold
from spamlit.training.run_folder import find_bundle

BATCH_TOKENS = 2_048
TOGETHER = 8_192
"""Messages that are encoded and sorted together: what they take does not grow with the number of messages."""
PRECISIONS = ("fp32", "int8")


class Prediction(NamedTuple):
    """What the classifier says of one message."""

    label: str
    """`spam` or `ham`"""
    probability: float
    """of spam, 0 to 1"""
    flag: str
    """empty, or why the message deserves a look: `empty`, `truncated`, `unsure`, or `truncated;unsure`"""


class Predictor:
    """Classifies messages with a bundle. The same message gets the same answer in any company and order.

    Args:
        classifier: in eval mode.
        tokenizer: the bundle's own.
        settings: the bundle's config: labels, threshold, temperature, unsure, max_length, normalise, padding,
            backbone.

    Example::

        predictor = Predictor.load("latest")
        predictor.classify(["You have been selected to receive a cash prize"])
    """

    def __init__(self, classifier: Classifier, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
        self.classifier, self.tokenizer, self.settings = classifier, tokenizer, settings
        try:
            self.labels = _labels(settings["labels"])
            self.threshold = check_threshold(settings["threshold"])
            self.unsure = check_band(settings.get("unsure"))  # bundles from before the band do not say
            self.temperature = float(settings["temperature"])
            if not 1e-6 < self.temperature < 1e6:
                raise ValueError(f"temperature={self.temperature} is not between 1e-6 and 1e6")
            self.max_length = int(settings["max_length"])
            backbone = classifier.backbone.config
            if not 1 <= self.max_length <= backbone.context:
                raise ValueError(f"max_length={self.max_length} is not 1 to the context's {backbone.context}")
            if tokenizer.vocab_size > backbone.vocab_size:
                raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the backbone {backbone.vocab_size}")
            self.normalise = str(settings.get("normalise", "none"))  # older bundles do not say
            check_normalisation(self.normalise)
            self.pad_to = self.max_length if settings["pooling"] in ("last", "mean") else None
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise BundleError(f"the bundle's config.json lacks or spoils a setting: {error}") from error

    @classmethod
    def load(cls, path: str | Path, *, precision: str = "fp32") -> Predictor:
        """The Predictor of a run folder, a bundle folder, or `latest`.

        Args:
            path: which.
            precision: fp32, or int8: several times faster on a CPU, at a small loss of quality (`int8.quantize`).

        Raises:
            RunNotFoundError: no run there, or one that has not finished.
            BundleError: a damaged bundle.
            ValueError: another precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision}: choose one of {', '.join(PRECISIONS)}.")
        folder = find_bundle(path)
        classifier, settings = load_bundle(folder)
        if precision == "int8":
            quantize(classifier)
        return cls(classifier, Tokenizer.load(folder), settings)

    def classify(
        self, texts: Sequence[str], *, threshold: float | None = None, unsure: tuple[float, float] | None = None
    ) -> list[Prediction]:
        """Label, spam probability and flag of each text, in order.

        Args:
            texts: any strings; an empty one is ham with the flag `empty`.
            threshold: the least probability that is spam; by default the bundle's.
            unsure: lowest and highest probability with the flag `unsure`; by default the bundle's, which may be none.

        Raises:
            ValueError: a threshold outside 0 to 1, or a band that is none.
        """
        limit = self.threshold if threshold is None else check_threshold(threshold)
        band = self.unsure if unsure is None else check_band(unsure)
        answers: list[Prediction] = []
        for start in range(0, len(texts), TOGETHER):
            some = [normalise(text, self.normalise) for text in texts[start : start + TOGETHER]]
            ids = self.tokenizer.encode_batch(some)
            found = self.probabilities([row[: self.max_length] for row in ids])
            answers += [
                self._prediction(text, len(row), p, limit, band) for text, row, p in zip(some, ids, found, strict=True)
            ]
        return answers

    def probabilities(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """Spam probability of each row of at most `max_length` token ids."""
        return torch.tensor(self.log_odds(ids)).sigmoid().tolist()

    def log_odds(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """Log-odds of spam, ``log(p / (1 - p))``, of each row of token ids; equal rows are computed once.

        Raises:
            FloatingPointError: the classifier gives no number, which no label should hide.
        """
        found: dict[tuple[int, ...], float] = {}
        with torch.inference_mode():
            for rows in self._batches({tuple(row) for row in ids}):
                lengths = torch.tensor([len(row) for row in rows])
                width = self.pad_to or int(lengths.max())
                tokens = torch.full((len(rows), width), self.tokenizer.pad_id)
                for padded, row in zip(tokens, rows, strict=True):
                    padded[: len(row)] = torch.tensor(row)
                logits = self.classifier(tokens, lengths).float() / self.temperature
                if not logits.isfinite().all():
                    raise FloatingPointError(
                        "the classifier's answer to a message is NaN or infinite: its weights are damaged. "
                        "Train it again, or choose another with --run."
                    )
                found |= zip(rows, (logits[:, 1] - logits[:, 0]).tolist(), strict=True)
        return [found[tuple(row)] for row in ids]

    def _batches(self, rows: Iterable[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Rows by length (and ids, so that company is a function of the rows), at most BATCH_TOKENS with padding."""
        batch: list[tuple[int, ...]] = []
        for row in sorted(rows, key=lambda row: (len(row), row)):
            if batch and (len(batch) + 1) * (self.pad_to or len(row)) > BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _prediction(
        self, text: str, length: int, probability: float, threshold: float, band: tuple[float, float] | None
    ) -> Prediction:
        if not text.strip():
            return Prediction(self.labels[0], 0.0, "empty")
        unsure = band is not None and band[0] <= probability <= band[1]
        flags = {"truncated": length > self.max_length, "unsure": unsure}
        flag = ";".join(name for name, raised in flags.items() if raised)
        return Prediction(self.labels[probability >= threshold], probability, flag)


def _labels(labels: object) -> tuple[str, str]:
    match labels:
        case [str(negative), str(positive)] if negative != positive and (negative + positive).isprintable():
            return negative, positive
    raise ValueError(f"labels={labels!r:.80} are not two different words")
