"""MODEL_CARD.md of a bundle: what a classifier is, learnt from, is worth and is for.

It is prose for people, so it is not among the files whose SHA-256 the bundle's config.json holds: who edits it, to add
a contact or a limit, does not break the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jinja2
from omegaconf import DictConfig

import spamlit
from spamlit.assets import ASSETS, sha256_file
from spamlit.data.additions import extra_path
from spamlit.data.datamodule import COLLECTION, SMSDataModule
from spamlit.data.generated import GENERATED
from spamlit.model.weights import weights_sha256
from spamlit.training.intervals import Share, f1_interval, wilson
from spamlit.training.module import Predictions, SpamModule
from spamlit.training.settings import hyperparameters, plain, threshold_policy, unsure_band

LICENCES = {
    "smollm2-135m": ("SmolLM2-135M-Instruct (Hugging Face)", "Apache-2.0"),
    "gpt2": ("GPT-2 (OpenAI)", "MIT"),
    "gpt2-medium": ("GPT-2 (OpenAI)", "MIT"),
    "gpt2-large": ("GPT-2 (OpenAI)", "MIT"),
    "gpt2-xl": ("GPT-2 (OpenAI)", "MIT"),
}
"""Whose the pretrained weights are, and their licence."""
SHOWN = ("validation", "test", "reserve")


@dataclass(frozen=True)
class Worth:
    """A split's figures with 95 % intervals: Wilson's, and the bootstrap's for F1."""

    split: str
    ham: int
    spam: int
    shares: dict[str, Share]


def model_card(cfg: DictConfig, module: SpamModule, data: SMSDataModule) -> str:
    """The card of a trained and tested classifier, Markdown."""
    total, trained = module.classifier.parameter_counts()
    name, licence = LICENCES.get(cfg.backbone.name, (cfg.backbone.name, ""))
    decision = module.decision
    return render(
        "spamlit.training",
        "model_card.md.j2",
        backbone={
            "name": cfg.backbone.name,
            "whose": name,
            "licence": licence,
            "weights": cfg.backbone.weights,
            "sha256": weights_sha256(**plain(cfg.backbone), seed=cfg.seed),
            "total": total,
            "trained": trained,
            "n_layer": module.classifier.backbone.config.n_layer,
        },
        data={
            "collection": data.source == "sms",
            "name": COLLECTION if data.source == "sms" else str(data.source),
            "sha256": ASSETS[COLLECTION].sha256 if data.source == "sms" else sha256_file(data.path),
            "counts": data.splits.counts(),
            "dropped": data.splits.dropped,
            "split": data.split,
            "balance": data.balance,
            "generated": data.splits.origins().get(GENERATED, 0),
            "obfuscate": data.obfuscate,
            "extra": {source: sha256_file(extra_path(source)) for source in data.extra},
        },
        setup=setup(cfg) | {"optimizer steps": module.trainer.global_step},
        worths=[
            worth(split, rows, decision.threshold)
            for split in SHOWN
            if (rows := module.predictions.get(split)) is not None and len(rows.labels)
        ],
        threshold=decision.threshold,
        policy=threshold_policy(cfg),
        temperature=decision.temperature,
        unsure=unsure_band(cfg),
        max_length=data.max_length,
        normalise=data.normalise,
        version=spamlit.__version__,
    )


def render(package: str, template: str, **content: Any) -> str:
    """One of the Markdown templates of a package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)


def setup(cfg: DictConfig) -> dict[str, Any]:
    """The choices of a run that say most."""
    chosen = hyperparameters(cfg)
    shown = [key for key in chosen if key.startswith(("model.", "optimizer.", "trainer."))]
    return {key: chosen[key] for key in [*shown, "data.batch_size", "seed"]}


def worth(split: str, predictions: Predictions, threshold: float) -> Worth:
    """A split's figures; those that need spam or ham only where there is some."""
    spam = predictions.labels == 1
    flagged = predictions.probability >= threshold
    tp, fp = int((spam & flagged).sum()), int((~spam & flagged).sum())
    fn, tn = int((spam & ~flagged).sum()), int((~spam & ~flagged).sum())
    shares = {"accuracy": wilson(tp + tn, tp + fp + fn + tn)}
    if tp + fn:
        shares |= {
            "precision": wilson(tp, tp + fp),
            "recall": wilson(tp, tp + fn),
            "F1": f1_interval(tp, fp, fn, tn),
        }
    if fp + tn:
        shares["ham taken for spam"] = wilson(fp, fp + tn)
    return Worth(split, ham=fp + tn, spam=tp + fn, shares=shares)
