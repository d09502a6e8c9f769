"""Strict readers of published weight files: the hub's GPT-2 safetensors, and GGUF of architecture ``llama``.

Both check every name and shape before the first tensor is converted, then stream: a reader's memory is one tensor.
The maps are data: a module of the file and the modules here that it fills, in order along the output features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spamlit.model.gpt import GPT, GPTConfig

Names = dict[str, tuple[str, ...]]
Shape = tuple[int, ...]

GPT2_TOP: Names = {"wte": ("token_embedding",), "wpe": ("position_embedding",), "ln_f": ("norm",)}
GPT2_BLOCK: Names = {
    "ln_1": ("norm_1",),
    "attn.c_attn": ("attention.query", "attention.key", "attention.value"),
    "attn.c_proj": ("attention.out",),
    "ln_2": ("norm_2",),
    "mlp.c_fc": ("mlp.up",),
    "mlp.c_proj": ("mlp.down",),
}
LLAMA_TOP: Names = {"token_embd": ("token_embedding",), "output_norm": ("norm",)}
LLAMA_BLOCK: Names = {
    "attn_norm": ("norm_1",),
    "attn_q": ("attention.query",),
    "attn_k": ("attention.key",),
    "attn_v": ("attention.value",),
    "attn_output": ("attention.out",),
    "ffn_norm": ("norm_2",),
    "ffn_gate": ("mlp.gate",),
    "ffn_up": ("mlp.up",),
    "ffn_down": ("mlp.down",),
}
_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")


def parameter_shapes(config: GPTConfig) -> dict[str, Shape]:
    """Canonical names and shapes of a backbone's parameters.

    >>> from spamlit.model.gpt import CONFIGS
    >>> len(parameter_shapes(CONFIGS["gpt2"])), parameter_shapes(CONFIGS["gpt2"])["blocks.0.mlp.up.weight"]
    (196, (3072, 768))
    """
    return {name: tuple(parameter.shape) for name, parameter in GPT(config).named_parameters()}


def read_gpt2(path: Path, config: GPTConfig) -> Iterator[tuple[str, Tensor]]:
    """Read GPT-2 safetensors in the hub's layout, with or without the ``transformer.`` prefix.

    Linear weights are stored transposed (Conv1D), query, key and value as one. Causal-mask buffers are dropped;
    ``lm_head.weight`` is accepted only if it equals the token embedding, to which it is tied.

    Args:
        path: The file.
        config: The architecture it must have.

    Returns:
        Canonical names and float32 tensors, one after the other.

    Raises:
        ValueError: Not a safetensors file, or a name or shape that does not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    stored = {name.removeprefix("transformer."): name for name in shapes}
    found = {name: shapes[full] for name, full in stored.items()}
    found = {n: s for n, s in found.items() if not (_MASK_BUFFER.fullmatch(n) and len(s) in (0, 4))}
    conv1d = re.compile(r"h\..*\.c_\w+\.weight")
    names = _names(config, GPT2_TOP, GPT2_BLOCK, "h")

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(stored[name])
        return tensor.t() if conv1d.fullmatch(name) else tensor  # (in, out) -> (out, in)

    def stored_shape(name: str, shape: Shape) -> Shape:
        return shape[::-1] if conv1d.fullmatch(name) else shape

    _check_tied(path, found, "lm_head.weight", "wte.weight", read)
    _check_fit(path, config, found, names, stored_shape)
    return _convert(config, names, read)


def read_llama_gguf(path: Path, config: GPTConfig) -> Iterator[tuple[str, Tensor]]:
    """Read a GGUF file of architecture ``llama``, dequantized to float32.

    llama.cpp stores the rows of query and key for interleaved rotary pairs; they are put back into the order of
    Hugging Face's "rotate_half", which `attention.rotate` computes.

    Args:
        path: The file.
        config: The architecture it must have, checked against the file's metadata.

    Returns:
        Canonical names and float32 tensors, one after the other.

    Raises:
        ValueError: Not a GGUF file, metadata of another architecture, or a name or shape that does not fit.
    """
    from gguf import GGUFReader, dequantize  # here, because only the first use of a backbone needs it

    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith(_METADATA)}
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path} is not a GGUF file: {error}") from error
    _check_metadata(path, config, fields)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in tensors.items()}
    names = _names(config, LLAMA_TOP, LLAMA_BLOCK, "blk")

    def read(name: str) -> Tensor:
        values = dequantize(tensors[name].data, tensors[name].tensor_type)
        tensor = torch.from_numpy(np.array(values, copy=not values.flags.writeable))  # float32 is a view of the file
        if name.endswith("attn_q.weight"):
            return _rotate_half_rows(tensor, config.n_head)
        return _rotate_half_rows(tensor, config.n_kv_head) if name.endswith("attn_k.weight") else tensor

    _check_tied(path, found, "output.weight", "token_embd.weight", read)
    _check_fit(path, config, found, names, lambda _, shape: shape)
    return _convert(config, names, read)


def _rotate_half_rows(weight: Tensor, n_head: int) -> Tensor:
    """Rows (first, second, first, second …) of each head to (all first, all second)."""
    pairs = weight.view(n_head, -1, 2, weight.shape[1])  # (H*D, C) -> (H, D/2, 2, C)
    return pairs.transpose(1, 2).reshape(weight.shape)  # (H, 2, D/2, C) -> (H*D, C)


_METADATA = ("general.architecture", "llama.")


def _check_metadata(path: Path, config: GPTConfig, fields: Mapping[str, Any]) -> None:
    expected: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "llama.block_count": config.n_layer,
        "llama.context_length": config.context,
        "llama.embedding_length": config.n_embd,
        "llama.feed_forward_length": config.n_inner,
        "llama.attention.head_count": config.n_head,
        "llama.attention.head_count_kv": config.n_kv_head,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    optional: dict[str, str | int | float] = {
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
        "llama.rope.scaling.type": "none",
    }
    expected |= {key: value for key, value in optional.items() if key in fields}
    wrong = [
        f"{key} is {fields.get(key, 'absent')}, not {value}"
        for key, value in expected.items()
        if not _same(fields.get(key), value)
    ]
    if wrong:
        raise ValueError(f"{path} does not hold weights of {config.name}: {_some(wrong, '; ')}")


def _same(found: object, expected: str | int | float) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(found, expected, rel_tol=1e-6)  # the file holds float32
    return found == expected


def _names(config: GPTConfig, top: Names, block: Names, prefix: str) -> Names:
    """Tensor names of the file → canonical parameter names, for the parameters that the architecture has."""
    modules = dict(top)
    for n in range(config.n_layer):
        for source, targets in block.items():
            modules[f"{prefix}.{n}.{source}"] = tuple(f"blocks.{n}.{target}" for target in targets)
    parameters = parameter_shapes(config)
    return {
        f"{source}.{kind}": tuple(f"{target}.{kind}" for target in targets)
        for source, targets in modules.items()
        for kind in ("weight", "bias")
        if f"{targets[0]}.{kind}" in parameters
    }


def _check_tied(path: Path, found: dict[str, Shape], head: str, embedding: str, read: Callable[[str], Tensor]) -> None:
    """Drop the head from `found` if it repeats the embedding."""
    if head not in found or embedding not in found:
        return
    if found[head] != found[embedding] or not torch.equal(read(head), read(embedding)):
        raise ValueError(f"{path}: {head} differs from {embedding}; this architecture ties them")
    del found[head]


def _check_fit(
    path: Path, config: GPTConfig, found: dict[str, Shape], names: Names, stored_shape: Callable[[str, Shape], Shape]
) -> None:
    parameters = parameter_shapes(config)
    unfilled = parameters.keys() - {target for targets in names.values() for target in targets}
    assert not unfilled, f"the name map does not fill {unfilled}"
    expected = {}
    for source, targets in names.items():
        rows = sum(parameters[target][0] for target in targets)
        expected[source] = stored_shape(source, (rows, *parameters[targets[0]][1:]))
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"{len(missing)} tensors missing ({_some(missing)})")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if wrong := [f"{n} {found[n]}, not {s}" for n, s in expected.items() if n in found and found[n] != s]:
        problems.append(f"{len(wrong)} of another shape ({_some(wrong)})")
    if problems:
        raise ValueError(f"{path} does not hold weights of {config.name}: {'; '.join(problems)}")


def _convert(config: GPTConfig, names: Names, read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    parameters = parameter_shapes(config)
    for source, targets in names.items():
        parts = torch.split(read(source), [parameters[target][0] for target in targets])
        for target, part in zip(targets, parts, strict=True):
            yield target, part.to(torch.float32).contiguous()


def _some(items: list[str], separator: str = ", ", limit: int = 3) -> str:
    return separator.join(items[:limit]) + (" …" if len(items) > limit else "")
