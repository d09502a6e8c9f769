"""The bundle: a folder that holds a classifier, without pickle.

`model.safetensors` has what was trained (LoRA's matrices and the head alone, say); `backbone.safetensors`, where part
of the backbone stayed frozen, is a hard link to the cache's prepared weights (a copy on another file system), so that a
run costs little disk and the folder is still whole: copied elsewhere it needs neither cache nor network. `config.json`
says how to build the model, how to decide, and the SHA-256 of every file beside it and of itself, but for
`MODEL_CARD.md`, which is for people and theirs to edit.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spamlit.assets import sha256_file, sha256_settings
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import GPT, GPTConfig
from spamlit.model.head import HeadSettings, Perceptrons
from spamlit.model.lora import LoRA, merge_state

FORMAT = 1
LONGEST_CONFIG = 1 << 20  # bytes
MOST = {"vocab_size": 1 << 20, "context": 1 << 16, "n_layer": 256, "n_head": 1 << 10, "n_kv_head": 1 << 10}
MOST |= {"n_embd": 1 << 14, "n_inner": 1 << 16, "n_classes": 16}
"""Of what a bundle may say of its model, which is built before its tensors are looked at."""
MODEL, BACKBONE, CONFIG, CARD = "model.safetensors", "backbone.safetensors", "config.json", "MODEL_CARD.md"
FILES = (MODEL, BACKBONE, "tokenizer.json", "tokenizer.tiktoken")
"""What config.json may name: no other file is opened, so no name leads out of the folder."""
_UNFIT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class BundleError(ValueError):
    """A folder that is no sound bundle; the message says what is wrong with which file."""


def save_bundle(
    folder: Path,
    classifier: Classifier,
    settings: dict[str, Any],
    save_tokenizer: Callable[[Path], None],
    frozen: Path | None,
    card: str = "",
) -> None:
    """Writes a bundle, whole or not at all, in place of one that is there.

    Args:
        folder: where.
        classifier: with its trained weights.
        settings: labels, threshold, temperature, max_length, …: what `load_bundle` gives back.
        save_tokenizer: writes the tokenizer's files into the folder it is given.
        frozen: prepared weights of the whole backbone, by the names of `GPT`; None where they are in no file, and then
            every tensor is stored.
        card: the model card, Markdown; its SHA-256 is not recorded, so that it can be edited.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(part, classifier, settings, save_tokenizer, frozen, card)
        _replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(
    part: Path,
    classifier: Classifier,
    settings: dict[str, Any],
    save_tokenizer: Callable[[Path], None],
    frozen: Path | None,
    card: str,
) -> None:
    """What `save_bundle` says, into a new folder."""
    save_tokenizer(part)
    trained = classifier.trained_state().keys()
    state = classifier.state_dict()
    if frozen is not None:
        state = {name: value for name, value in state.items() if name in trained or name.startswith("head.")}
        frozen = frozen if len(state) < len(classifier.state_dict()) else None
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, part / MODEL)
    except SafetensorError as error:  # how safetensors says that the disk is full
        raise OSError(f"cannot write {part / MODEL}: {error}") from error
    if frozen is not None:
        link_or_copy(frozen, part / BACKBONE)
    config = {
        "format": FORMAT,
        **settings,
        "pooling": classifier.pooling,
        "layers": list(classifier.layers),
        "causal": classifier.causal,
        "head_bias": classifier.head_bias,
        "head": asdict(classifier.head.settings) if isinstance(classifier.head, Perceptrons) else None,
        "n_classes": classifier.n_classes,
        "backbone": asdict(classifier.backbone.config),
        "lora": None if classifier.lora is None else asdict(classifier.lora),
        "files": {file.name: sha256_file(file) for file in sorted(part.iterdir())},
    }
    config["sha256"] = sha256_settings(config)
    (part / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if card:
        (part / CARD).write_text(card, encoding="utf-8")


def _replace(part: Path, folder: Path) -> None:
    """Gives `part` the name of `folder`; what was there is removed only once that is done."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_bundle(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, in eval mode with mapped weights, and its settings; LoRA is merged into the weights it adapts.

    Raises:
        BundleError: a file is missing, damaged or of another format.
    """
    config = read_settings(folder)
    if MODEL not in config["files"]:
        raise BundleError(f"{folder / CONFIG} has no SHA-256 for {MODEL}: the bundle is not whole.")
    for name, digest in config["files"].items():
        path = folder / name
        if name not in FILES or not path.is_file():
            raise BundleError(f"{folder} has no file {name!r}, which its {CONFIG} names: the bundle is not whole.")
        if sha256_file(path) != digest:
            raise BundleError(
                f"{path} is damaged: its SHA-256 is not the one in {CONFIG}. Train again, or copy it again."
            )
    try:
        classifier = _build(config)
        state = _read_state(folder, config, set(classifier.state_dict()))
    except (*_UNFIT, SafetensorError) as error:
        raise BundleError(f"{folder} does not describe a classifier of this version: {error}") from error
    wrong = sorted(name for name, value in classifier.state_dict().items() if value.shape != state[name].shape)
    if wrong:
        raise BundleError(f"{folder / MODEL}: tensors of another shape than {CONFIG} says: {', '.join(wrong[:5])}")
    classifier.load_state_dict(state, assign=True)
    return classifier.eval().requires_grad_(False), config


def read_settings(folder: Path) -> dict[str, Any]:
    """A bundle's config.json, checked against its own SHA-256.

    Raises:
        BundleError: it is missing, damaged, or of another format.
    """
    path = folder / CONFIG
    try:
        if (size := path.stat().st_size) > LONGEST_CONFIG:
            raise BundleError(f"{path} has {size:,} bytes; the limit is {LONGEST_CONFIG:,}.")
        config = json.loads(path.read_text(encoding="utf-8"))
        digest = sha256_settings(config) if isinstance(config, dict) else ""
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is not a bundle: it has no {CONFIG}.") from error
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:  # of JSON, of UTF-8, of a number with thousands of digits
        raise BundleError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleError(f"{path} is not of format {FORMAT}, the one that this version reads.")
    if config.get("sha256") != digest or not isinstance(config.get("files"), dict):
        raise BundleError(f"{path} was changed or damaged: its own SHA-256 does not hold.")
    return config


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _build(config: dict[str, Any]) -> Classifier:
    """The classifier without weights: all of them are on the meta device."""
    _check_model(config)
    if (config.get("head") or {}).get("sources") and "block" not in config["head"]:
        raise ValueError("its experts were mixed in another way: train again")
    backbone = GPT(GPTConfig(**config["backbone"]))
    with torch.device("meta"):
        return Classifier(
            backbone,
            pooling=config["pooling"],
            layers=config.get("layers"),  # bundles from before layers do not say
            causal=config["causal"],
            head_bias=config["head_bias"],
            head=HeadSettings(**config["head"]) if config.get("head") else None,  # nor those from before that
            n_classes=config["n_classes"],
        )


def _check_model(config: dict[str, Any]) -> None:
    """Refuses what could not be built, or would take for ever."""
    sizes = {key: config["backbone"].get(key) for key in MOST if key != "n_classes"}
    for key, size in {**sizes, "n_classes": config["n_classes"]}.items():
        least = 2 if key == "n_classes" else 1
        if type(size) is not int or not least <= size <= MOST[key]:
            raise ValueError(f"{key}={size!r:.40}: expected a whole number from {least} to {MOST[key]:,}")
    for key, flag in (("causal", config["causal"]), ("head_bias", config["head_bias"])):
        if type(flag) is not bool:
            raise ValueError(f"{key}={flag!r:.40}: expected true or false")
    for key in ("norm_eps", "rope_theta"):
        if not 0 < (number := config["backbone"].get(key, 1.0)) < math.inf:
            raise ValueError(f"{key}={number!r:.40}: expected a number above 0")


def _read_state(folder: Path, config: dict[str, Any], names: set[str]) -> dict[str, Tensor]:
    """All tensors of a classifier: the trained ones over the frozen ones, LoRA's merged into them."""
    state: dict[str, Tensor] = {}
    if BACKBONE in config["files"]:
        with safe_open(folder / BACKBONE, "pt") as file:
            frozen = {f"backbone.{name}" for name in file.keys()} & names  # noqa: SIM118
            state = {name: file.get_tensor(name.removeprefix("backbone.")) for name in frozen}
    with safe_open(folder / MODEL, "pt") as file:
        trained = set(file.keys())
        state |= {name: file.get_tensor(name) for name in trained}
    if config.get("lora"):  # bundles from before LoRA do not say
        state = merge_state(state, LoRA(**config["lora"]).scale)
    if names ^ state.keys():
        raise ValueError(f"tensors missing or unexpected: {', '.join(sorted(names ^ state.keys())[:5])}")
    return {name: value.to(torch.float32) for name, value in state.items()}
