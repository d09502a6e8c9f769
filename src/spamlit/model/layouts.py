"""Our weights in the hub's layouts, the way back from `formats`: for exports, and for whoever compares with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spamlit.model.formats import GPT2_BLOCK, GPT2_TOP

_LLAMA = {
    "blocks.": "layers.",
    "token_embedding.": "embed_tokens.",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def gpt2_layout(state: Mapping[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """Names of `openai-community/gpt2`: linear weights transposed (Conv1D), query, key and value as one.

    Args:
        state: Of a `GPT`, by its own names.
        n_layer: Its depth.
    """
    modules = dict(GPT2_TOP)
    for n in range(n_layer):
        modules |= {f"h.{n}.{hub}": tuple(f"blocks.{n}.{own}" for own in ours) for hub, ours in GPT2_BLOCK.items()}
    out = {}
    for hub, ours in modules.items():
        for kind in ("weight", "bias"):
            if f"{ours[0]}.{kind}" in state:
                tensor = torch.cat([state[f"{own}.{kind}"] for own in ours])
                linear = kind == "weight" and ".c_" in hub
                out[f"{hub}.{kind}"] = (tensor.t() if linear else tensor).contiguous()
    return out


def llama_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of `transformers`' `LlamaModel`; the tensors are the same.

    Args:
        state: Of a `GPT`, by its own names.

    >>> one = torch.ones(1)
    >>> list(llama_layout({"blocks.3.attention.query.weight": one, "norm.weight": one}))
    ['layers.3.self_attn.q_proj.weight', 'norm.weight']
    """
    return {_llama_name(name): value for name, value in state.items()}


def _llama_name(name: str) -> str:
    for own, hub in _LLAMA.items():
        name = name.replace(own, hub)
    return name
