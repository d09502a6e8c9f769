"""The backbones: one pre-norm decoder whose architecture is the values of a `GPTConfig`.

Parameter names (also those of prepared weights, checkpoints and exports)::

    token_embedding.weight            (vocab_size, n_embd), tied to the language-model head
    position_embedding.weight         (context, n_embd), learned positions only
    blocks.N.norm_1.{weight,bias}     before attention (no bias for RMSNorm)
    blocks.N.attention.{query,key,value,out}.{weight,bias}
    blocks.N.norm_2.{weight,bias}     before the MLP
    blocks.N.mlp.{gate,up,down}.{weight,bias}   gate for SwiGLU only
    norm.{weight,bias}                after the last block
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spamlit.model.attention import Attention, Packing, Rotary, pick, rotary_tables
from spamlit.model.config import CONFIGS, GPTConfig

__all__ = ["CONFIGS", "GPT", "MLP", "Block", "GPTConfig", "RMSNorm", "initial_state"]


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * weight``; without gradients in fewer passes over memory than PyTorch's CPU form."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        if torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (..., C) -> (..., 1)
        scale = norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        scaled: Tensor = (x * scale).mul_(self.weight)
        return scaled.to(x.dtype)


def _embedding(size: int, width: int) -> nn.Embedding:
    """Without `nn.Embedding`'s own initialisation, which on the meta device imports the compiler, a second or more."""
    made: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(size, width), freeze=False)  # type: ignore[no-untyped-call]
    return made


def _norm(config: GPTConfig) -> nn.Module:
    kind = RMSNorm if config.norm == "rmsnorm" else nn.LayerNorm
    return kind(config.n_embd, eps=config.norm_eps)


class MLP(nn.Module):
    """``down(gelu(up(x)))`` with GELU's tanh form, or ``down(silu(gate(x)) * up(x))`` (SwiGLU)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.n_inner, bias=config.bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=config.bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        up: Tensor = self.up(x)  # (B, T, n_inner)
        if self.gate is None:
            inner = F.gelu(up, approximate="tanh")
        elif torch.is_grad_enabled():
            inner = F.silu(self.gate(x)) * up
        else:
            inner = F.silu(self.gate(x), inplace=True).mul_(up)
        down: Tensor = self.down(inner)
        return down


class Block(nn.Module):
    """Pre-norm transformer block; `dropout` acts on both residual branches in train mode."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = _norm(config)
        self.attention = Attention(config.n_embd, config.n_head, config.n_kv_head, bias=config.bias)
        self.norm_2 = _norm(config)
        self.mlp = MLP(config)
        self.dropout = 0.0

    def set_dropout(self, p: float) -> None:
        """Of the attention weights and of both residual branches, in train mode."""
        self.dropout = self.attention.dropout = p

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        causal: bool = True,
        past: list[Tensor] | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """(B, T, C) to (B, T, C), or to (B, Q, C) at `positions`; arguments as in `Attention.forward`."""
        branch = self.attention(
            self.norm_1(x), rotary, positions=positions, lengths=lengths, causal=causal, past=past, packing=packing
        )
        if positions is not None:
            x = pick(x, positions)  # (B, T, C) -> (B, Q, C)
        x = x + F.dropout(branch, self.dropout, self.training)
        branch = F.dropout(self.mlp(self.norm_2(x)), self.dropout, self.training)
        return x + branch if torch.is_grad_enabled() else x.add_(branch)


class GPT(nn.Module):
    """A decoder without its vocabulary head (that one is tied: `logits`).

    Built on the meta device, without memory: give it weights with ``load_state_dict(state, assign=True)``,
    `GPT.random` or `spamlit.model.weights.load_backbone`.

    >>> model = GPT.random(CONFIGS["tiny"], seed=0)
    >>> model(torch.tensor([[464, 3280, 318]])).shape
    torch.Size([1, 3, 32])

    Attributes:
        packs: Allows skipping the padding (`packed_rows`), a choice by the lengths. Exports cannot choose: they switch
            it off.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = 0.0  # of the embeddings
        self.packs = True
        with torch.device("meta"):
            self.token_embedding = _embedding(config.vocab_size, config.n_embd)
            learned = config.position == "learned"
            self.position_embedding = _embedding(config.context, config.n_embd) if learned else None
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.norm = _norm(config)
        if not learned:
            cos, sin = rotary_tables(config.context, config.head_dim, config.rope_theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def random(cls, config: GPTConfig, seed: int = 0) -> GPT:
        """A model with GPT-2's initialisation, from its own generator: the global RNG state plays no part."""
        model = cls(config)
        model.load_state_dict(initial_state(model, seed), assign=True)
        return model

    def forward(
        self,
        x: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Run ``blocks[start:stop]``.

        Args:
            x: Token ids (B, T), integers, with `start` 0; or the hidden states (B, T, C) that enter block `start`.
            start: First block.
            stop: Block after the last one; None means to the end.
            lengths: (B,) real tokens per row. Hides the padding from non-causal attention, and blocks skip it where
                there is much of it (`packing`); None: padding takes part.
            positions: (B, Q) int64. The last block of the range computes queries, attention output and MLP for
                these positions only.
            causal: Whether a position sees only itself and what stands before it.

        Returns:
            Hidden states (B, T, C), or (B, Q, C) at `positions`, before the final norm; padding has no meaning.

        Raises:
            ValueError: More tokens than the context holds, or ids given to a later block.
        """
        blocks = range(len(self.blocks))[start:stop]
        if not x.is_floating_point():
            if start != 0:
                raise ValueError(f"block {start} takes hidden states (B, T, C), not ids of shape {tuple(x.shape)}")
            x = self.embed(x)
        rotary = self.rotary(0, x.shape[1])
        everywhere = blocks if positions is None else blocks[:-1]
        packing = packed_rows(lengths, x.shape[1]) if everywhere and self.packs else None
        if packing is None:
            for n in everywhere:
                x = self.blocks[n](x, rotary, lengths=lengths, causal=causal)
        else:
            x = packing.pack(x)[None]  # (B, T, C) -> (1, N, C)
            at = rotary and Rotary(rotary.cos[packing.position], rotary.sin[packing.position])
            for n in everywhere:
                x = self.blocks[n](x, at, lengths=lengths, causal=causal, packing=packing)
            x = packing.unpack(x.squeeze(0))
        if positions is None:
            return x
        if not blocks:
            return pick(x, positions)
        last: Tensor = self.blocks[blocks[-1]](x, rotary, positions=positions, lengths=lengths, causal=causal)
        return last

    def embed(self, tokens: Tensor, offset: int = 0) -> Tensor:
        """Token (and learned position) embeddings.

        Args:
            tokens: (B, T) ids.
            offset: Position of the first one.

        Returns:
            (B, T, C).

        Raises:
            ValueError: ``offset + T`` exceeds the context.
        """
        end = offset + tokens.shape[1]
        if end > self.config.context:
            raise ValueError(
                f"{end} tokens exceed the context of {self.config.name}, {self.config.context}: "
                f"lower data.max_length or truncate"
            )
        x: Tensor = self.token_embedding(tokens)  # (B, T) -> (B, T, C)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[offset:end]  # (T, C) over B
        return F.dropout(x, self.dropout, self.training)

    def rotary(self, start: int, stop: int) -> Rotary | None:
        """Angles of positions ``start:stop``; None for learned positions."""
        if self.position_embedding is not None:
            return None
        return Rotary(self.cos[start:stop], self.sin[start:stop])

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and tied head: hidden states (..., C) to next-token logits (..., vocab_size)."""
        return F.linear(self.norm(hidden), self.token_embedding.weight)

    def set_dropout(self, p: float, start: int | None = None) -> None:
        """Set dropout (attention weights and residual branches) of ``blocks[start:]``, and 0 below.

        Args:
            p: Probability; it acts in train mode only.
            start: First trained block. None: all blocks and the embeddings (GPT-2's three places).

        Raises:
            ValueError: `p` is not in [0, 1).
        """
        if not 0 <= p < 1:
            raise ValueError(f"model.dropout={p}: must be at least 0 and below 1")
        self.dropout = p if start is None else 0.0
        for n, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            block.set_dropout(p if n >= (start or 0) else 0.0)


def packed_rows(lengths: Tensor | None, n_tokens: int) -> Packing | None:
    """The packing of a batch that is more than a tenth padding; None where there is nothing to gain."""
    if lengths is None or lengths.sum() > 0.9 * len(lengths) * n_tokens:
        return None
    return Packing.of(lengths, n_tokens)


def initial_state(model: GPT, seed: int) -> dict[str, Tensor]:
    """GPT-2's initialisation: normal(0, 0.02), residual projections divided by sqrt(2 n_layer), biases 0, norms 1.

    Args:
        model: Gives the names and shapes (it may be on the meta device).
        seed: Of a generator used for this alone.

    Returns:
        A state dict for `model`, float32.
    """
    generator = torch.Generator().manual_seed(seed)
    residual_std = 0.02 / math.sqrt(2 * model.config.n_layer)
    state = {}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            state[name] = torch.zeros(parameter.shape)
        elif parameter.ndim == 1:
            state[name] = torch.ones(parameter.shape)
        else:
            std = residual_std if name.endswith(("attention.out.weight", "mlp.down.weight")) else 0.02
            state[name] = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
    return state
