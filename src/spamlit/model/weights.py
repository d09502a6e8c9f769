"""Weights of a backbone: pretrained, through a prepared form that maps in a fraction of a second, or random.

The prepared form is a safetensors file of canonical names (`spamlit.model.gpt`) and float32, in the cache, beside the
published file it was made from. It is named after that file's SHA-256, carries checksums of its own, and is made again
when they do not hold. The published file is not touched while the prepared one is sound.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spamlit.assets import ASSETS, Asset, AssetError, FileSource, HubSource, atomic_write, cache_dir, fetch
from spamlit.model.formats import parameter_shapes, read_gpt2, read_llama_gguf
from spamlit.model.gpt import CONFIGS, GPT, GPTConfig

__all__ = ["load_backbone", "prepared_path", "read_gpt2", "read_llama_gguf", "weights_sha256"]

Reader = Callable[[Path, GPTConfig], Iterator[tuple[str, Tensor]]]
WEIGHTS = ("pretrained", "random", "random_torch")
SOURCES: dict[str, tuple[str, Reader]] = {
    "smollm2-135m": ("SmolLM2-135M-Instruct.Q4_1.gguf", read_llama_gguf),
    "gpt2": ("gpt2", read_gpt2),
    "gpt2-medium": ("gpt2-medium", read_gpt2),
    "gpt2-large": ("gpt2-large", read_gpt2),
    "gpt2-xl": ("gpt2-xl", read_gpt2),
}
Source = Mapping[str, str]
_VERSION = 1  # of the prepared form
_CHUNK = 1 << 24  # bytes under one checksum


def load_backbone(
    name: str,
    *,
    weights: str = "pretrained",
    n_layer: int | None = None,
    source: Source | None = None,
    seed: int = 0,
    progress: bool = True,
) -> GPT:
    """Build a backbone with its weights.

    Pretrained parameters are mapped from the prepared file: memory fills as they are used, and processes share it.
    They are read-only in spirit; `Classifier.set_trainable` copies those that are trained.

    Args:
        name: A key of `CONFIGS`.
        weights: ``pretrained``, ``random`` (GPT-2's initialisation), or ``random_torch`` (PyTorch's own for each layer,
            drawn in the order of the lesson's model: with equal seeds, its weights).
        n_layer: Keep only the lowest blocks; None keeps all.
        source: Other weights of the same architecture and file format: see `own_asset`.
        seed: Of random weights.
        progress: Show a progress bar while fetching.

    Returns:
        The model in eval mode, float32.

    Raises:
        ValueError: Unknown name or kind of weights, no pretrained weights of that name, `n_layer` out of range, or a
            file of another architecture.
        spamlit.assets.AssetError: The weights could not be fetched.
    """
    config = _config(name, weights).cut(n_layer)
    if weights != "pretrained":
        return (GPT.random(config, seed) if weights == "random" else random_torch(config, seed)).eval()
    state = load_file(prepared_path(name, source=source, progress=progress))
    model = GPT(config)
    model.load_state_dict({key: state[key] for key in parameter_shapes(config)}, assign=True)
    return model.eval()


def weights_sha256(
    name: str,
    *,
    weights: str = "pretrained",
    n_layer: int | None = None,
    source: Source | None = None,
    seed: int = 0,
) -> str:
    """What identifies the weights, for cache keys and `run.json`; nothing is fetched.

    Returns:
        The published file's SHA-256 (whatever the cut: the blocks that remain are the same); for random weights the
        SHA-256 of the architecture and the seed. Where no SHA-256 is known, the key of the pinned revision.

    Raises:
        ValueError: As `load_backbone`.
    """
    config = _config(name, weights).cut(n_layer)
    if weights != "pretrained":
        return hashlib.sha256(f"{weights} {config} seed={seed}".encode()).hexdigest()
    asset = _asset(name, source)
    return asset.sha256 or f"pinned-by-revision-{asset.key}"


def prepared_path(name: str, *, source: Source | None = None, progress: bool = True) -> Path:
    """The prepared file of a pretrained backbone (all its blocks), made if it is missing or damaged.

    Raises:
        ValueError, spamlit.assets.AssetError: As `load_backbone`.
    """
    config = _config(name, "pretrained")
    shapes = parameter_shapes(config)
    asset, read = _asset(name, source), SOURCES[name][1]
    folder = cache_dir() / "weights"
    key = (asset.sha256 or asset.key)[:16]
    path = folder / f"{name}-{key}-v{_VERSION}.safetensors"
    try:
        if not _is_sound(path, shapes):
            from filelock import FileLock  # a warm cache needs none

            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not _is_sound(path, shapes):  # another process may have made it meanwhile
                    _prepare(path, read(fetch(asset, progress=progress), config), shapes)
    except OSError as error:
        raise AssetError(
            f"cannot prepare the weights of {name} in {folder}: {error}. "
            "Make room there, or point SPAMLIT_CACHE at another folder."
        ) from error
    return path


def random_torch(config: GPTConfig, seed: int) -> GPT:
    """A model as PyTorch initialises its layers, drawn after ``torch.manual_seed(seed)``; the global state stays."""
    model = GPT.random(config)  # for the norms
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, nn.Embedding | nn.Linear):
                layer.reset_parameters()
    return model


def own_asset(name: str, source: Source) -> Asset:
    """The file that a user's `backbone.source` names.

    Args:
        name: The backbone, whose architecture and format the file must have.
        source: ``{"file": path, "sha256": …}``, or ``{"repo": …, "revision": …, "sha256": …}`` for the
            `model.safetensors` of a hub repository. The SHA-256 is what makes a run repeatable, so it must be given.

    Raises:
        ValueError: Other keys than these.
    """
    keys = set(source)
    if keys == {"file", "sha256"}:
        origin: FileSource | HubSource = FileSource(Path(source["file"]))
    elif keys == {"repo", "revision", "sha256"}:
        origin = HubSource(source["repo"], source["revision"], "model.safetensors")
    else:
        raise ValueError(
            f"backbone.source has the keys {', '.join(sorted(keys)) or 'none'}: give repo, revision and sha256 (of "
            "model.safetensors on the hub), or file and sha256"
        )
    return Asset(f"{name} (backbone.source)", source["sha256"], None, (origin,), filename=f"{name}.weights")


def _asset(name: str, source: Source | None) -> Asset:
    return ASSETS[SOURCES[name][0]] if source is None else own_asset(name, source)


def _config(name: str, weights: str) -> GPTConfig:
    if name not in CONFIGS:
        raise ValueError(f"backbone={name}: choose one of {', '.join(CONFIGS)}")
    if weights not in WEIGHTS:
        raise ValueError(f"backbone.weights={weights}: choose one of {', '.join(WEIGHTS)}")
    if weights == "pretrained" and name not in SOURCES:
        raise ValueError(f"backbone={name} has no pretrained weights: use backbone.weights=random")
    return CONFIGS[name]


def _prepare(path: Path, tensors: Iterable[tuple[str, Tensor]], shapes: dict[str, tuple[int, ...]]) -> None:
    with atomic_write(path) as temporary:
        _write(temporary, tensors, shapes)


def _write(path: Path, tensors: Iterable[tuple[str, Tensor]], shapes: dict[str, tuple[int, ...]]) -> None:
    """Stream float32 tensors into a safetensors file, one in memory at a time.

    Its metadata holds the CRC-32 of each `_CHUNK` bytes of the data.
    (`safetensors.torch.save_file` would need all of the model in memory.)
    """
    offsets = _offsets(shapes)
    end = max(stop for _, stop in offsets.values())
    checksums = [0] * -(-end // _CHUNK)
    with path.open("wb") as file:
        start = file.write(_header(shapes, checksums))
        for name, tensor in tensors:
            file.seek(start + offsets[name][0])
            file.write(tensor.numpy().data)
        file.flush()
        file.seek(0)
        file.write(_header(shapes, _checksums(path, start)))


def _offsets(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes begin and end, one tensor behind the other."""
    offsets, end = {}, 0
    for name, shape in shapes.items():
        offsets[name] = (end, end + 4 * math.prod(shape))
        end = offsets[name][1]
    return offsets


def _header(shapes: dict[str, tuple[int, ...]], checksums: list[int]) -> bytes:
    offsets = _offsets(shapes)
    header: dict[str, object] = {"__metadata__": {"crc32": ",".join(f"{c:08x}" for c in checksums)}}
    header |= {n: {"dtype": "F32", "shape": shapes[n], "data_offsets": offsets[n]} for n in shapes}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)  # the data begins on a cache line
    return len(text).to_bytes(8, "little") + text


def _checksums(path: Path, start: int) -> list[int]:
    """CRC-32 of each chunk of the file from byte `start`: 540 MB take about 0.15 s with two threads."""

    def checksum(offset: int) -> int:
        with path.open("rb") as file:
            file.seek(offset)
            return zlib.crc32(file.read(_CHUNK))

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(checksum, range(start, path.stat().st_size, _CHUNK)))


def _is_sound(path: Path, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether the prepared file is there, and byte for byte what its tensors' checksums and `shapes` make of it."""
    try:
        with path.open("rb") as file:
            size = min(int.from_bytes(file.read(8), "little"), 1 << 24)
            file.seek(0)
            header = file.read(8 + size)
        return header == _header(shapes, _checksums(path, 8 + size))
    except OSError:
        return False
