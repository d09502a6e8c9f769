"""Which systems are compared, and on which splits: the tables behind `spamlit results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spamlit.assets import fetch
from spamlit.data.additions import read_extra
from spamlit.data.datamodule import COLLECTION
from spamlit.data.sms import parse, parse_quoted
from spamlit.data.splits import Balance, Split, Splits, make_splits

Kind = Literal["majority", "naive-bayes", "tfidf-svm", "encoder", "prompted", "spamlit"]


@dataclass(frozen=True)
class Protocol:
    """A way of dividing the collection, repeated over seeds.

    Attributes:
        name: Also its folder's.
        title: On the results pages.
        split: Of `make_splits`.
        balance: Of `make_splits`.
        seeds: Of the splits, and of the training on them.
    """

    name: str
    title: str
    split: Split
    balance: Balance
    seeds: tuple[int, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """What makes a run of spamlit use these splits."""
        return f"data.split={self.split}", f"data.balance={self.balance}"

    def splits(self, seed: int, source: str = "sms", extra: Sequence[str] = ()) -> Splits:
        """The very splits of such a run.

        Args:
            seed: of the split.
            source: sms, or the path of a file like the collection.
            extra: what joins the training split, as `data.extra`.

        Raises:
            AssetError: the collection cannot be had.
            ValueError: messages that cannot be read, or not so divided.
        """
        path = fetch(COLLECTION) if source == "sms" else source
        messages = parse_quoted(path) if self.split == "random" else parse(path)
        added = read_extra(extra) if extra else None
        return make_splits(messages, split=self.split, balance=self.balance, seed=seed, extra=added)


@dataclass(frozen=True)
class System:
    """A classifier to compare.

    Attributes:
        name: Also its folder's.
        kind: What makes it (`results.fit`); `spamlit` runs the command.
        about: On the results pages.
        options: What its kind takes; of `spamlit` the `overrides` of the command line.
        protocols: Where it runs.
        repeats: On how many of a protocol's seeds; None: on all.
        elsewhere: Whether it is asked about other messages too (`generalisation`), under `MAIN`.
        extra: Sources that a baseline's training split takes besides, as `data.extra`.
        hub: Whether its weights are on the model hub alone: where that does not answer, it is left out.
    """

    name: str
    kind: Kind
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("grouped", "raw", "balanced", "published")
    repeats: int | None = None
    elsewhere: bool = False
    extra: tuple[str, ...] = ()
    hub: bool = False


def _by_name(*entries: Any) -> dict[str, Any]:
    return {entry.name: entry for entry in entries}


MAIN = "grouped"
"""The protocol of which systems are asked most, and whose page is results.md."""
ONE = (MAIN,)
"""Enough for parts of a recipe, and for what learns nothing, so that no repeat helps it, and takes minutes a split."""

PROTOCOLS: Mapping[str, Protocol] = _by_name(
    Protocol("grouped", "Repeats grouped, natural prevalence", "grouped", "none", seeds=(0, 1, 2, 3, 4)),
    Protocol("raw", "Raw rows, natural prevalence", "random", "none", seeds=(0, 1, 2, 3, 4)),
    Protocol("balanced", "Repeats grouped, ham undersampled", "grouped", "undersample", seeds=(0, 1, 2)),
    Protocol("published", "As published: raw rows, ham undersampled", "random", "undersample", seeds=(0, 1, 2)),
)

ABLATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "alone",
        "best without the supplement",
        ("data.extra=[]", "model.head.sources=false", "model.head.lean=0", "model.head.joint=0"),
    ),
    ("undisguised", "best without disguised copies in training", ("data.obfuscate=0",)),
    ("as-typed", "best without normalisation", ("data.normalise=none",)),
    ("last-block", "best reading the last block's states alone", ("model.layers=[30]",)),
    ("generated", "best with 500 spam messages that the backbone wrote", ("data.generated.spam=500",)),
)
"""What each part of the best recipe brings: it without that part, or with one that it does without."""

SYSTEMS: Mapping[str, System] = _by_name(
    System("majority", "majority", "the more frequent class, always"),
    System("naive-bayes", "naive-bayes", "counts of words, multinomial naive Bayes"),
    System("tfidf-words", "tfidf-svm", "TF-IDF of words, linear SVM", {"characters": False}),
    System(
        "tfidf-words-chars",
        "tfidf-svm",
        "TF-IDF of words and of character 2- to 5-grams, linear SVM",
        {"characters": True},
        elsewhere=True,
    ),
    System(
        "tfidf-modern",
        "tfidf-svm",
        "the same, trained on the supplement of best as well",
        {"characters": True},
        ONE,
        elsewhere=True,
        extra=("modern",),
    ),
    System(
        "minilm",
        "encoder",
        "MiniLM (22.7 million parameters), a pretrained encoder, all weights trained",
        {"name": "minilm"},
    ),
    System(
        "minilm-modern",
        "encoder",
        "the same, trained on the supplement of best as well",
        {"name": "minilm"},
        ONE,
        1,
        elsewhere=True,
        extra=("modern",),
    ),
    System(
        "distilbert",
        "encoder",
        "DistilBERT (66 million parameters), a pretrained encoder of the model hub, all weights trained",
        {"name": "distilbert"},
        hub=True,
    ),
    System("prompt", "prompted", 'SmolLM2-135M-Instruct asked "is this spam?", untrained', {"shots": 0}, ONE, 1),
    System("prompt-examples", "prompted", "the same, shown two examples of each label first", {"shots": 2}, ONE, 2),
    System("best", "spamlit", "spamlit's experiment=best", {"overrides": ("experiment=best",)}, elsewhere=True),
    System(
        "collection",
        "spamlit",
        "spamlit's experiment=collection: the experts of best for the collection alone",
        {"overrides": ("experiment=collection",)},
    ),
    System(
        "default",
        "spamlit",
        "spamlit's defaults: SmolLM2-135M, last block trained",
        {"overrides": ()},
        elsewhere=True,
    ),
    *(
        System(f"best-{name}", "spamlit", about, {"overrides": ("experiment=best", *overrides)}, ONE, 3, elsewhere=True)
        for name, about, overrides in ABLATIONS
    ),
)

LEXICAL: tuple[Kind, ...] = ("naive-bayes", "tfidf-svm")
"""The kinds whose strongest system the others are compared with."""
EXTRA: Mapping[Kind, str] = {
    "majority": "sklearn",
    "naive-bayes": "sklearn",
    "tfidf-svm": "sklearn",
    "encoder": "transformers",
}
"""Packages of the extra `baselines` that a kind needs."""
