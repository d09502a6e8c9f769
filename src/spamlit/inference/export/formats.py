"""The export, top to bottom: load, refuse, write beside, check, write the card, publish."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from spamlit.assets import atomic_folder
from spamlit.inference.export.card import CARD, export_card
from spamlit.inference.export.check import Checked, check, real_texts
from spamlit.inference.export.hub import check_expressible, load_hub, write_hub
from spamlit.inference.export.onnx_model import load_onnx, write_onnx
from spamlit.inference.predictor import Predictor
from spamlit.training.run_folder import find_bundle, write_json

FORMATS = ("hf", "onnx")
NEEDS = {"hf": ("transformers", "tokenizers"), "onnx": ("onnx", "onnxscript", "onnxruntime", "tokenizers")}
"""Packages of the extras of the same names."""


class Exported(NamedTuple):
    """A finished export: where it is and how near to the Predictor."""

    folder: Path
    checked: Checked
    normalise: str


def export(run: str | Path, to: str, output: Path, *, int8: bool = False) -> Exported:
    """Writes a classifier for other software; whole and checked, or nothing.

    Args:
        run: A run folder, a bundle folder, or `latest`.
        to: One of `FORMATS`.
        output: The folder to write, which is not there yet, or empty.
        int8: Of ONNX; its probabilities may differ, by as much as is reported.

    Raises:
        ValueError: another format, one that cannot express the classifier, or a package that is not installed.
        FileExistsError: the folder is not empty.
        RunNotFoundError: no run there.
        ExportError: what was written says something else than the Predictor.
    """
    _check_choice(to, int8=int8)
    bundle = find_bundle(run)
    predictor = Predictor.load(bundle)
    if to == "hf":
        check_expressible(predictor.classifier)
    with atomic_folder(output) as folder:
        settings = export_settings(predictor, int8=int8)
        if to == "hf":
            write_hub(predictor, folder, settings)
            encode, answer = load_hub(folder)
        else:
            write_onnx(predictor, folder, int8=int8)
            write_json(folder / "config.json", settings)
            encode, answer = load_onnx(folder, predictor)
        checked = check(predictor, real_texts(bundle), encode, answer, exact=not int8)
        (folder / CARD).write_text(export_card(bundle, predictor, to, settings, checked), encoding="utf-8")
    return Exported(output, checked, predictor.normalise)


def export_settings(predictor: Predictor, *, int8: bool) -> dict[str, Any]:
    """What whoever runs the export must know; the temperature is not among it, for it is in the weights."""
    return {
        "labels": list(predictor.labels),
        "threshold": predictor.threshold,
        "threshold_policy": predictor.settings.get("threshold_policy", "argmax"),
        "unsure": predictor.unsure,
        "max_length": predictor.max_length,
        "pad_to": predictor.pad_to,
        "pad_id": predictor.tokenizer.pad_id,
        "normalise": predictor.normalise,
        "temperature_inside": predictor.temperature,
        "precision": "int8" if int8 else "float32",
    }


def _check_choice(to: str, *, int8: bool) -> None:
    if to not in FORMATS:
        raise ValueError(f"--to {to}: choose one of {', '.join(FORMATS)}")
    if int8 and to != "onnx":
        raise ValueError(f"--int8 goes with --to onnx, not --to {to}")
    missing = [name for name in NEEDS[to] if find_spec(name) is None]
    if missing:
        raise ValueError(f'--to {to} needs {", ".join(missing)}: pip install "spamlit[{to}]"')
