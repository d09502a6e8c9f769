"""Small random models of both families, the same in `transformers`, and their weights in published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import layouts
from torch import Tensor, nn

from spamlit.model.formats import LLAMA_BLOCK, LLAMA_TOP
from spamlit.model.gpt import GPT, GPTConfig

GPT2_LIKE = GPTConfig("gpt2-like", vocab_size=97, context=48, n_layer=3, n_head=4, n_kv_head=4, n_embd=32, n_inner=128)
LLAMA_LIKE = GPTConfig(
    "llama-like",
    vocab_size=97,
    context=48,
    n_layer=3,
    n_head=6,
    n_kv_head=2,
    n_embd=96,
    n_inner=160,
    norm="rmsnorm",
    position="rotary",
    rope_theta=1000.0,
    mlp="swiglu",
    bias=False,
)


@pytest.fixture(params=[GPT2_LIKE, LLAMA_LIKE], ids=lambda config: config.name)
def config(request: pytest.FixtureRequest) -> GPTConfig:
    """Each of the two families."""
    return request.param


@pytest.fixture
def gpt2_like() -> GPTConfig:
    return GPT2_LIKE


@pytest.fixture
def llama_like() -> GPTConfig:
    return LLAMA_LIKE


@pytest.fixture
def random_gpt() -> Callable[..., GPT]:
    return _random_gpt


@pytest.fixture
def random_batch() -> Callable[..., tuple[Tensor, Tensor]]:
    return _random_batch


@pytest.fixture
def gpt2_layout() -> Callable[[GPT], dict[str, Tensor]]:
    return layouts.gpt2_layout


@pytest.fixture
def peer() -> Callable[[GPT], nn.Module]:
    return _peer


@pytest.fixture
def write_gguf() -> Callable[..., None]:
    return _write_gguf


def _random_gpt(config: GPTConfig, seed: int = 0) -> GPT:
    """Weights large enough, biases and norms included, for every term to matter."""
    model = GPT.random(config, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def _random_batch(config: GPTConfig, lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids (B, T) and lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, config.vocab_size, (len(lengths), max(lengths)), generator=generator)
    real = torch.tensor(lengths)
    tokens[torch.arange(tokens.shape[1]) >= real[:, None]] = 0
    return tokens, real


HF_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _llama_layout(model: GPT) -> dict[str, Tensor]:
    """State in `transformers`' Llama names."""
    own, state = model.state_dict(), {}
    for source, (target,) in LLAMA_TOP.items():
        state[f"{HF_LLAMA[source]}.weight"] = own[f"{target}.weight"]
    for n in range(model.config.n_layer):
        for source, (target,) in LLAMA_BLOCK.items():
            state[f"model.layers.{n}.{HF_LLAMA[source]}.weight"] = own[f"blocks.{n}.{target}.weight"]
    return state | {"lm_head.weight": own["token_embedding.weight"]}


def _peer(model: GPT) -> nn.Module:
    """`transformers`' model with the same weights, in eval mode."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    c = model.config
    if c.position == "learned":
        other = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=c.vocab_size, n_positions=c.context, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head
            )
        )
        state = {f"transformer.{name}": value for name, value in layouts.gpt2_layout(model).items()}
        state["lm_head.weight"] = state["transformer.wte.weight"]
    else:
        other = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=c.vocab_size,
                hidden_size=c.n_embd,
                intermediate_size=c.n_inner,
                num_hidden_layers=c.n_layer,
                num_attention_heads=c.n_head,
                num_key_value_heads=c.n_kv_head,
                max_position_embeddings=c.context,
                rms_norm_eps=c.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
                tie_word_embeddings=True,
            )
        )
        state = _llama_layout(model)
    other.load_state_dict(state)
    return other.eval()


def _write_gguf(path: Path, model: GPT, *, quantized: bool) -> None:
    """A GGUF file as llama.cpp's converter writes it: rows of query and key permuted for interleaved rotary."""
    import gguf

    c: GPTConfig = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.n_layer)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.n_embd)
    writer.add_feed_forward_length(c.n_inner)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    own = model.state_dict()
    names = {f"{s}.weight": f"{t}.weight" for s, (t,) in LLAMA_TOP.items()}
    for n in range(c.n_layer):
        names |= {f"blk.{n}.{s}.weight": f"blocks.{n}.{t}.weight" for s, (t,) in LLAMA_BLOCK.items()}
    for source, target in names.items():
        value = own[target].numpy()
        heads = {"attn_q": c.n_head, "attn_k": c.n_kv_head}.get(source.split(".")[-2])
        if heads is not None:  # convert_hf_to_gguf.py, LlamaModel.permute
            value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if quantized and value.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(source, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(source, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
