"""MODEL_CARD.md of an export: how to run it, how it was checked, and the bundle's own card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spamlit.inference.export.check import TOLERANCE, Checked
from spamlit.inference.predictor import Predictor
from spamlit.model.bundle import CARD
from spamlit.training.model_card import render

__all__ = ["CARD", "export_card"]


def export_card(bundle: Path, predictor: Predictor, to: str, settings: dict[str, Any], checked: Checked) -> str:
    """The export's own part, then what the bundle's card says of the classifier.

    Args:
        bundle: Older ones, or copies without it, have no card.
        predictor: The bundle's.
        to: The format.
        settings: As the export has them.
        checked: What came out.
    """
    config, own = predictor.classifier.backbone.config, bundle / CARD
    return render(
        "spamlit.inference.export",
        f"{to}.md.j2",
        config=config,
        settings=settings,
        checked=checked,
        tolerance=TOLERANCE,
        bias=predictor.classifier.head_bias,
        bundle_card=own.read_text(encoding="utf-8") if own.is_file() else "",
    )
