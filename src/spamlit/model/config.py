"""Architectures as values: every backbone is a `GPTConfig`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a decoder, and the tokenizer its ids come from.

    >>> CONFIGS["gpt2"].n_embd, CONFIGS["smollm2-135m"].cut(10).n_layer
    (768, 10)
    """

    name: str
    vocab_size: int
    context: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_inner: int
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-5
    position: Literal["learned", "rotary"] = "learned"
    rope_theta: float = 10_000.0
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    tokenizer: str = "gpt2"
    pad_id: int = 50256

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.n_head % self.n_kv_head:
            raise ValueError(
                f"{self.name}: n_embd={self.n_embd} must be a multiple of n_head={self.n_head}, "
                f"and n_head of n_kv_head={self.n_kv_head}"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"{self.name}: rotary positions need an even head size, not {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.n_embd // self.n_head

    def cut(self, n_layer: int | None) -> GPTConfig:
        """The same architecture with only the lowest `n_layer` blocks (None: all of them).

        Raises:
            ValueError: `n_layer` is below 1 or above what there is.
        """
        if n_layer is None:
            return self
        if not 1 <= n_layer <= self.n_layer:
            raise ValueError(f"backbone.n_layer={n_layer}: {self.name} can be cut to 1..{self.n_layer} blocks")
        return replace(self, n_layer=n_layer)


def _gpt2(name: str, n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    return GPTConfig(name, 50257, 1024, n_layer, n_head, n_head, n_embd, 4 * n_embd)


CONFIGS: dict[str, GPTConfig] = {
    config.name: config
    for config in (
        _gpt2("gpt2", 12, 12, 768),
        _gpt2("gpt2-medium", 24, 16, 1024),
        _gpt2("gpt2-large", 36, 20, 1280),
        _gpt2("gpt2-xl", 48, 25, 1600),
        _gpt2("tiny", 4, 4, 32),
        GPTConfig(
            name="smollm2-135m",
            vocab_size=49152,
            context=8192,
            n_layer=30,
            n_head=9,
            n_kv_head=3,
            n_embd=576,
            n_inner=1536,
            norm="rmsnorm",
            position="rotary",
            rope_theta=100_000.0,
            mlp="swiglu",
            bias=False,
            tokenizer="smollm2",
            pad_id=0,
        ),
    )
}
