"""LoRA (Hu et al. 2021, arXiv:2106.09685): frozen linear layers with a trained update of low rank.

A layer ``x W' + b`` becomes ``x W' + b + scale * (x A) B`` with A (in, rank) drawn and B (rank, out) zero, so that
training starts from the frozen model. A `LoRALinear` keeps the names of the layer it replaces, ``….weight`` and
``….bias``, and adds ``….lora_a`` and ``….lora_b``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from spamlit.model.config import GPTConfig

Scaling = Literal["alpha_over_rank", "alpha"]
Init = Literal["fan_in", "rank"]
BLOCK_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")
TARGETS = (*BLOCK_TARGETS, "head")
MATRICES = (".lora_a", ".lora_b")


@dataclass(frozen=True)
class LoRA:
    """Where LoRA is placed, how large, and how it starts: the values of `model.lora`.

    Attributes:
        rank: Columns of A and rows of B.
        alpha: Strength of the update.
        scaling: ``alpha_over_rank`` (the paper's) multiplies the update by ``alpha / rank``, ``alpha`` (the lesson's)
            by ``alpha``.
        init: A is uniform within ±1/sqrt(in features) with ``fan_in`` (the paper's code), within ±1/sqrt(rank) with
            ``rank`` (the lesson's, which calls the same initialisation on A transposed).
        targets: Names of the linear layers, of `TARGETS`; by default the paper's choice. Those that an architecture
            lacks (GPT-2 has no ``gate``) are passed over.

    Raises:
        ValueError: A value that is none of these.

    >>> LoRA(rank=8, alpha=16).scale, LoRA(rank=8, alpha=16, scaling="alpha").scale
    (2.0, 16)
    """

    rank: int = 8
    alpha: float = 16
    scaling: Scaling = "alpha_over_rank"
    init: Init = "fan_in"
    targets: Sequence[str] = ("query", "value")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", (self.targets,) if isinstance(self.targets, str) else tuple(self.targets))
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"model.lora.rank={self.rank}: choose a whole number from 1 on")
        if not isinstance(self.alpha, int | float) or not 0 < self.alpha < math.inf:
            raise ValueError(f"model.lora.alpha={self.alpha}: choose a number above 0")
        for key, value, choices in (("scaling", self.scaling, get_args(Scaling)), ("init", self.init, get_args(Init))):
            if value not in choices:
                raise ValueError(f"model.lora.{key}={value}: choose one of {', '.join(choices)}")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets:
            raise ValueError(
                f"model.lora.targets={list(self.targets)}: choose from {', '.join(TARGETS)}"
                + (f"; there is no {unknown[0]}" if unknown else "; at least one is needed")
            )

    @property
    def scale(self) -> float:
        """What the update ``A B`` is multiplied by."""
        return self.alpha if self.scaling == "alpha" else self.alpha / self.rank

    def check_fits(self, config: GPTConfig) -> None:
        """Refuses targets none of which the architecture has.

        Raises:
            ValueError: Nothing would be trained but the head.
        """
        if config.mlp != "swiglu" and set(self.targets) == {"gate"}:
            raise ValueError(f"model.lora.targets={list(self.targets)}: {config.name} has no gate; add up or down")


class LoRALinear(nn.Linear):
    """``x W' + b + scale * (x A) B``.

    Args:
        layer: Its weight and bias are shared.
        lora: Rank, scale and the range of A.
        generator: Draws A.
    """

    def __init__(self, layer: nn.Linear, lora: LoRA, generator: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = lora.scale
        bound = (self.in_features if lora.init == "fan_in" else lora.rank) ** -0.5
        a = torch.empty(self.in_features, lora.rank).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(a.to(self.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(lora.rank, self.out_features, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        small = x @ self.lora_a * self.scale  # (..., in) -> (..., rank)
        return super().forward(x) + small @ self.lora_b  # (..., rank) -> (..., out)

    def merged(self) -> nn.Linear:
        """One plain, frozen layer of the same function; the weight is new memory."""
        weight = merged_weight(self.weight.detach(), self.lora_a.detach(), self.lora_b.detach(), self.scale)
        return self.plain(nn.Parameter(weight, requires_grad=False))

    def plain(self, weight: Tensor) -> nn.Linear:
        """An ordinary layer with this weight, a parameter, and the bias that is here."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        layer.weight, layer.bias = weight, self.bias
        return layer.train(self.training)


def merged_weight(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``W + scale * (A B)'``: weight (out, in), a (in, rank), b (rank, out) to (out, in)."""
    return torch.addmm(weight, b.T, a.T, alpha=scale)


def add(model: nn.Module, lora: LoRA, generator: torch.Generator, within: Sequence[str] = ("",)) -> None:
    """Replace the target layers of `model`, in the order of its modules.

    Args:
        model: Changed in place.
        lora: What to add.
        generator: Draws the A's, one after the other.
        within: Prefixes of module names: only layers below one of these.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name.rpartition(".")[2] in lora.targets and name.startswith(tuple(within)):
            model.set_submodule(name, LoRALinear(layer, lora, generator))


def remove(model: nn.Module) -> None:
    """Put the plain frozen layers back; A and B are gone."""
    for name, layer in _layers(model):
        model.set_submodule(name, layer.plain(layer.weight))


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` computes with merged layers, as fast as without LoRA; then it is as before, to the bit.

    For evaluation: nothing can be trained in the block.
    """
    layers = _layers(model)
    for name, layer in layers:
        model.set_submodule(name, layer.merged())
    try:
        yield
    finally:
        for name, layer in layers:
            model.set_submodule(name, layer)


def merge_state(state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state dict with every ``….lora_a`` and ``….lora_b`` merged into its ``….weight``.

    Raises:
        KeyError: A matrix without its partner or without its weight.
        ValueError: Shapes that do not fit together (they might be broadcast into gigabytes).
    """
    whole = {name: value for name, value in state.items() if not name.endswith(MATRICES)}
    for name in state.keys() - whole.keys():
        layer = name.rpartition(".")[0]
        if name.endswith(".lora_a"):
            weight, a, b = (state[f"{layer}.{kind}"] for kind in ("weight", "lora_a", "lora_b"))
            if not (a.dim() == b.dim() == 2 and a.shape[1] == len(b) and weight.shape == (b.shape[1], len(a))):
                raise ValueError(
                    f"{layer}: lora_a {list(a.shape)} and lora_b {list(b.shape)} do not fit weight {list(weight.shape)}"
                )
            whole[f"{layer}.weight"] = merged_weight(weight, a, b, scale)
        elif f"{layer}.lora_a" not in state:
            raise KeyError(f"{layer}.lora_a")
    return whole


def _layers(model: nn.Module) -> list[tuple[str, LoRALinear]]:
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoRALinear)]
