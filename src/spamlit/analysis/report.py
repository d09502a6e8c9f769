"""report.html: what a run did, in one file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch

from spamlit.analysis.figures import (
    curves_figure,
    precision_recall_figure,
    read_scalars,
    reliability_figure,
    svg,
)
from spamlit.analysis.label_errors import suspected_labels
from spamlit.analysis.mistakes import Explainer, described, mistakes
from spamlit.analysis.slices import slices
from spamlit.assets import atomic_write
from spamlit.data.additions import undisguised
from spamlit.data.splits import FITTED, SplitName, read_split
from spamlit.inference.explain import TOLERANCE
from spamlit.inference.predictor import Predictor
from spamlit.model.bundle import read_settings
from spamlit.training.metrics import METRICS
from spamlit.training.module import Predictions
from spamlit.training.run_folder import read_json
from spamlit.training.tensorboard import confusion_figure

SPLITS: tuple[SplitName, ...] = ("test", "validation")
EXPLAINED_TOKENS = 8_000
"""What a run's own page may cost: 8,000 tokens are about 10 s of SmolLM2-135M on two cores, a dozen mistakes."""
SUSPECTED = 20
"""Suspected labels that a page lists."""


def write_report(run: Path, *, explain: bool = True) -> Path:
    """Writes `report.html` and `curves.png` into a finished run folder and gives the path of the first.

    As many mistakes have their words explained as `EXPLAINED_TOKENS` allow, those of the test messages first,
    the surest of them first, long ones passed over that take more than is left; or none. `spamlit evaluate` explains
    them all.

    Raises:
        FileNotFoundError: the run has not finished: metrics.json, run.json, predictions.csv or a split is missing.
    """
    settings = read_settings(run / "classifier")
    predictions = pd.read_csv(run / "predictions.csv")
    record, metrics = read_json(run / "run.json"), read_json(run / "metrics.json")
    frames = {split: read_split(run / f"{split}.csv") for split in FITTED}
    train = undisguised(frames["train"])
    explainer = Explainer(lambda: Predictor.load(run), EXPLAINED_TOKENS if explain else 0)
    sections = [
        split_section(split, with_text(predictions, split, frames[split]), train, settings, explainer)
        for split in SPLITS
    ]
    examples = (
        record["hyperparameters"]["data.batch_size"] * record["hyperparameters"]["trainer.accumulate_grad_batches"]
    )
    curves = curves_figure(read_scalars(run / "tensorboard"), record["steps_per_epoch"], examples)
    path = write_page(
        run / "report.html",
        "report.html.j2",
        name=run_name(run),
        metrics=metrics,
        record=record,
        decision=record.get("decision"),  # runs from before calibration have none
        figures=METRICS,
        settings=settings,
        curves=svg(curves),
        splits=sections,
        suspected=suspected_section(judged(frames, predictions)),
    )
    with atomic_write(run / "curves.png") as temporary:
        curves.savefig(temporary, format="png", dpi=150)
    return path


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Renders one of the templates beside this module, every text in it escaped."""
    loader = jinja2.PackageLoader("spamlit.analysis", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template(template).render(content)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def run_name(run: Path) -> str:
    """How pages call a run: the last two folders of its path."""
    return "/".join(run.absolute().parts[-2:])


def with_text(predictions: pd.DataFrame, split: str, texts: pd.DataFrame) -> pd.DataFrame:
    """A split's predictions with their texts."""
    rows = predictions[predictions["split"] == split].reset_index(drop=True)
    return rows.merge(texts[["id", "text"]].drop_duplicates("id"), on="id", how="left")


def judged(frames: dict[SplitName, pd.DataFrame], predictions: pd.DataFrame) -> pd.DataFrame:
    """All splits' messages, each once, with ``split``, and ``probability`` where the run was asked for it.

    Without disguised copies, which are no messages of their own.
    """
    messages = pd.concat([frame.assign(split=split) for split, frame in frames.items()]).drop_duplicates("id")
    said = predictions[["id", "split", "probability"]].drop_duplicates(["id", "split"])
    return undisguised(messages).merge(said, on=["id", "split"], how="left")


def split_section(
    name: str, rows: pd.DataFrame, train: pd.DataFrame, settings: dict[str, Any], explainer: Explainer
) -> dict[str, Any]:
    """What a page shows of some messages: figures, slices, mistakes.

    Args:
        name: Of the messages together.
        rows: ``id``, ``label``, ``text``, ``probability``.
        train: Messages that the classifier learnt from, without disguised copies; may be empty.
        settings: The bundle's; threshold and temperature count.
        explainer: Of the mistakes' words.
    """
    threshold = float(settings["threshold"])
    labels = torch.tensor((rows["label"] == "spam").to_numpy(dtype="int64"))
    probability = torch.tensor(rows["probability"].to_numpy(dtype="float32"))
    outcome = Predictions(torch.arange(len(rows)), probability, labels)
    wrong = described(mistakes(rows, threshold), train, explainer)
    return {
        "name": name,
        "n": len(rows),
        "figures": [
            svg(confusion_figure(outcome, threshold)),
            svg(precision_recall_figure(rows, threshold)),
            svg(reliability_figure(rows, float(settings["temperature"]))),
        ],
        "slices": slices(rows, threshold).to_dict("records"),
        "wrong": wrong,
        "explained": sum(row["explanation"] is not None for row in wrong),
        "tolerance": TOLERANCE,
    }


def suspected_section(messages: pd.DataFrame, of: str | None = None) -> dict[str, Any]:
    """The messages whose label is suspected.

    Args:
        messages: ``id``, ``label``, ``text``, ``split``, and the classifier's ``probability`` or NaN.
        of: Lists those of this split only; None: all.
    """
    found = suspected_labels(messages)
    if of is not None:
        messages, found = (table[table["split"] == of] for table in (messages, found))
    return {"n": len(messages), "found": len(found), "rows": found.head(SUSPECTED).to_dict("records")}
