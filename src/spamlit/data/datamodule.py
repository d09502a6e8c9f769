"""The Lightning data module: from a file of messages to batches."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from spamlit.assets import fetch
from spamlit.data import sms
from spamlit.data.additions import DISGUISED, check_additions, read_extra, undisguised
from spamlit.data.batch import Batch, Example, Messages, collate
from spamlit.data.generated import GENERATED
from spamlit.data.normalise import UNDONE, check_normalisation, normalise
from spamlit.data.obfuscate import AUGMENTATIONS
from spamlit.data.sampler import BatchSampler, Order, ResumableLoader, private_generator
from spamlit.data.splits import Balance, Split, SplitName, Splits, Writer, check_choice, make_splits
from spamlit.data.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Batch", "SMSDataModule", "collate"]

COLLECTION = "SMSSpamCollection"
Padding = Literal["fixed", "longest"]
TrainOrder = Literal["auto", "shuffled", "buckets", "torch", "lesson"]


class SMSDataModule(LightningDataModule):
    """Messages as batches for training, validation and test.

    The training split decides ``max_length``; everything else is truncated to it too. Its disguised copies have no say:
    letters split or of other scripts take several tokens each, while batches, cache and predictions should pay for the
    length that messages have. A copy is cut where the same disguise will be cut when it comes to be classified.
    Before `setup`, `write` may be given what adds generated messages to the training split (`splits.Writer`).
    After `setup`, `splits`, `max_length`, `class_weights`, `ids`, `texts` and `labels` say what the loaders give, and
    `sources` (N,) of which training messages came from ``extra`` (1); generated ones are like the data's own (0).
    `as_written` (N,) which of them count as the data's own and are not disguised.

    Args:
        tokenizer: A tokenizer, or its name (``gpt2``, ``smollm2``).
        source: ``sms`` for the SMS Spam Collection (fetched), or the path of a file: with ``text_column`` a table
            with a header (`sms.read_csv_messages`), otherwise lines like the collection's (`sms.parse`).
        text_column: The table's column of messages.
        label_column: The table's column of labels.
        positive: The label that means spam.
        split: See `make_splits`; ``random`` also reads as the lesson did (`sms.parse_quoted`).
        balance: See `make_splits`; ``class_weights`` fills the attribute `class_weights`.
        fractions: Training, validation, test.
        seed: Draws the splits.
        normalise: How texts are read (`normalise.normalise`), those of every split; `splits` and `texts` hold them as
            they were, and groups are those of the texts as they were.
        obfuscate: Disguised copies of each training message that is the source's own, the same with any seed; with
            ``normalise=unicode`` none of the disguises that it undoes.
        extra: Sources whose messages join the training split alone (`make_splits`): ``modern``, or the path of a table
            with the columns ``text`` and ``label``.
        max_length: In tokens: ``longest`` (training message, the context at most), ``context``, or a number.
        context: What the backbone can read, in tokens; none: unlimited.
        padding: ``fixed``: every batch is ``max_length`` wide. ``longest``: as wide as its longest message.
        order: Of training rows (`sampler.make_batches`); ``auto``: ``buckets`` with ``padding=longest``, else
            ``shuffled``.
        order_seed: Draws the order; none: ``seed``.
        batch_size: Of training, over all processes together.
        eval_batch_size: Of everything else, over all processes together.
        drop_last: Whether training leaves out an incomplete batch.
        num_workers: Of each loader; batches are cheap, so 0 is fastest on most machines.
        pin_memory: For a GPU.

    Raises:
        ValueError: On construction, an unknown choice or a contradiction; in `setup`, what the data cannot give.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | str = "smollm2",
        source: str | Path = "sms",
        text_column: str | None = None,
        label_column: str | None = None,
        positive: str | int | bool | None = None,
        split: Split = "grouped",
        balance: Balance = "undersample",
        fractions: Sequence[float] = (0.7, 0.1, 0.2),
        seed: int = 123,
        normalise: str = "none",
        obfuscate: int = 0,
        extra: Sequence[str] = (),
        max_length: int | Literal["longest", "context"] = "longest",
        context: int | None = None,
        padding: Padding = "fixed",
        order: TrainOrder = "auto",
        order_seed: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 32,
        drop_last: bool = True,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        check_choice("data.padding", padding, get_args(Padding))
        check_choice("data.order", order, get_args(TrainOrder))
        _check_columns(text_column, label_column, positive)
        check_normalisation(normalise)
        check_additions(obfuscate, extra)
        _check_max_length(max_length, context)
        for key, size in (("data.batch_size", batch_size), ("data.eval_batch_size", eval_batch_size)):
            if size < 1:
                raise ValueError(f"{key}={size}: expected 1 or more")
        self._tokenizer = tokenizer
        self.source = source
        self.columns = (text_column, label_column, positive)
        self.split, self.balance, self.fractions, self.seed = split, balance, tuple(fractions), seed
        self.normalise, self.obfuscate, self.extra = normalise, obfuscate, tuple(map(str, extra))
        self._max_length, self.context = max_length, context
        self.padding = padding
        self.order: Order = _resolve_order(order, padding)
        self.order_seed = seed if order_seed is None else order_seed
        self.batch_size, self.eval_batch_size, self.drop_last = batch_size, eval_batch_size, drop_last
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.write: Writer | None = None
        self._ready = False

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded on first use."""
        if isinstance(self._tokenizer, str):
            self._tokenizer = load_tokenizer(self._tokenizer)
        return self._tokenizer

    @property
    def path(self) -> Path:
        """The file that the messages come from (fetched if it is the collection)."""
        return fetch(COLLECTION) if self.source == "sms" else Path(self.source)

    def prepare_data(self) -> None:
        """Fetch what is not there (one process does)."""
        if not self.path.is_file():
            raise ValueError(
                f"data.source={self.source} is not a file; give the path of one, or sms for the collection"
            )
        _ = self.tokenizer

    def setup(self, stage: str | None = None) -> None:
        """Read, split and encode (every process; once)."""
        if self._ready:
            return
        self.splits: Splits = make_splits(
            self._read(),
            split=self.split,
            balance=self.balance,
            fractions=self.fractions,
            seed=self.seed,
            extra=read_extra(self.extra) if self.extra else None,
            write=self.write,
            copies=self.obfuscate,
            transforms=[name for name in AUGMENTATIONS if self.normalise == "none" or name not in UNDONE],
        )
        frames = self.splits.frames()
        self._texts: dict[SplitName, list[str]] = {name: frame["text"].tolist() for name, frame in frames.items()}
        distinct = list(dict.fromkeys(text for texts in self._texts.values() for text in texts))
        encoded = {text: array("i", self.encode(text)) for text in distinct}  # a sixth of what lists take
        plain = undisguised(self.splits.train)["text"]
        self.max_length: int = self._resolve_max_length(max(len(encoded[text]) for text in plain))
        self._ids = {name: [encoded[text][: self.max_length] for text in texts] for name, texts in self._texts.items()}
        self._labels: dict[SplitName, list[int]] = {
            name: [sms.LABELS.index(label) for label in frame["label"]] for name, frame in frames.items()
        }
        train = self.splits.train
        self.sources = torch.tensor(((train["id"] < 0) & (train["origin"] != GENERATED)).to_numpy(), dtype=torch.long)
        self.as_written = (self.sources == 0) & torch.tensor((train["origin"] != DISGUISED).to_numpy())
        self.class_weights: Tensor | None = (
            balanced_weights(self._labels["train"]) if self.balance == "class_weights" else None
        )
        self._check_an_epoch_is_not_empty()
        self._ready = True

    def encode(self, text: str) -> list[int]:
        """A text's token ids as the model reads them, whole."""
        return self.tokenizer.encode(normalise(text, self.normalise))

    def _read(self) -> pd.DataFrame:
        text_column, label_column, positive = self.columns
        if text_column is not None and label_column is not None and positive is not None:
            return sms.read_csv_messages(
                self.path, text_column=text_column, label_column=label_column, positive=positive
            )
        return sms.parse_quoted(self.path) if self.split == "random" else sms.parse(self.path)

    def _resolve_max_length(self, longest: int) -> int:
        if self._max_length == "context":
            assert self.context is not None  # checked on construction
            return self.context
        if self._max_length == "longest":
            return longest if self.context is None else min(longest, self.context)
        return self._max_length

    def _check_an_epoch_is_not_empty(self) -> None:
        rows = len(self._ids["train"])
        if self.drop_last and rows < self.batch_size:
            raise ValueError(
                f"data.batch_size={self.batch_size} with data.drop_last leaves no batch of {rows} training messages; "
                f"take a batch size of at most {rows}, or data.drop_last=false"
            )

    def ids(self, split: SplitName) -> Sequence[Sequence[int]]:
        """Each message's token ids, at most ``max_length``, in the split's order (`Batch.index` counts in it)."""
        return self._ids[split]

    def texts(self, split: SplitName) -> list[str]:
        """Each message's text, whole."""
        return self._texts[split]

    def labels(self, split: SplitName) -> list[int]:
        """Each message's label: 0 ham, 1 spam."""
        return self._labels[split]

    def train_dataloader(self) -> ResumableLoader:
        """Batches of the training split, every epoch in another order; resumable at any batch.

        With the trainer's ``overfit_batches`` the order is the same in every epoch.
        """
        rank, world_size = self._process()
        if self.batch_size % world_size:
            raise ValueError(
                f"data.batch_size={self.batch_size} counts all processes together and cannot be divided by {world_size}"
            )
        overfit = self.trainer is not None and getattr(self.trainer, "overfit_batches", 0) > 0
        sampler = BatchSampler(
            [len(ids) for ids in self._ids["train"]],
            batch_size=self.batch_size,
            order=self.order,
            seed=self.order_seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
            same_every_epoch=overfit,
        )
        return ResumableLoader(
            self._messages("train"),
            batch_sampler=sampler,
            collate_fn=self._collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> DataLoader[Example]:
        """Batches of the validation split."""
        return self.eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Example]:
        """Batches of the test split."""
        return self.eval_dataloader("test")

    def eval_dataloader(self, split: SplitName) -> DataLoader[Example]:
        """Every message of a split once, none dropped.

        In the split's order with ``padding=fixed``; longest first, to pad least, with ``longest`` (`Batch.index` tells
        the rows). Processes share the rows; fillers (label -100, index -1) make their batches equally large.
        """
        rank, world_size = self._process()
        sampler = BatchSampler(
            [len(ids) for ids in self._ids[split]],
            batch_size=self.eval_batch_size,
            order="longest_first" if self.padding == "longest" else "sequential",
            rank=rank,
            world_size=world_size,
        )
        return DataLoader(
            self._messages(split),
            batch_sampler=sampler,
            generator=private_generator(),
            collate_fn=self._collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def _messages(self, split: SplitName) -> Messages:
        return Messages(self._ids[split], self._labels[split], self.tokenizer.pad_id)

    @property
    def _collate(self) -> partial[Batch]:
        length = self.max_length if self.padding == "fixed" else None
        return partial(collate, pad_id=self.tokenizer.pad_id, length=length)

    def _process(self) -> tuple[int, int]:
        """The rank of this process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def balanced_weights(labels: Sequence[int]) -> Tensor:
    """(2,) float32 weights of ham and spam that make both classes count the same, 1 on average over the rows.

    >>> balanced_weights([0, 0, 0, 1])
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(torch.tensor(labels), minlength=len(sms.LABELS))  # (2,)
    return len(labels) / (len(sms.LABELS) * counts)


def _resolve_order(order: TrainOrder, padding: Padding) -> Order:
    if order == "auto":
        return "buckets" if padding == "longest" else "shuffled"
    return order


def _check_columns(text_column: str | None, label_column: str | None, positive: object) -> None:
    given = {"text_column": text_column, "label_column": label_column, "positive": positive}
    missing = [f"data.{key}" for key, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"a table of messages needs data.text_column, label_column and positive; missing: {missing[0]}"
        )


def _check_max_length(max_length: int | str, context: int | None) -> None:
    if isinstance(max_length, str):
        check_choice("data.max_length", max_length, ("longest", "context", "a number of tokens"))
        if max_length == "context" and context is None:
            raise ValueError("data.max_length=context needs to know the backbone's context; give a number of tokens")
    elif max_length < 1:
        raise ValueError(f"data.max_length={max_length}: expected 1 token or more")
    elif context is not None and max_length > context:
        raise ValueError(f"data.max_length={max_length} is longer than the backbone's context of {context} tokens")
