"""Our weights in published layouts."""

from __future__ import annotations

import torch
from torch import Tensor

from spamlit.model.formats import GPT2_BLOCK, GPT2_TOP
from spamlit.model.gpt import GPT


def gpt2_layout(model: GPT) -> dict[str, Tensor]:
    """State in the hub's GPT-2 names: joined query/key/value, transposed weights."""
    own, state = model.state_dict(), {}
    modules = dict(GPT2_TOP)
    for n in range(model.config.n_layer):
        modules |= {f"h.{n}.{s}": tuple(f"blocks.{n}.{t}" for t in targets) for s, targets in GPT2_BLOCK.items()}
    for source, targets in modules.items():
        for kind in ("weight", "bias"):
            if f"{targets[0]}.{kind}" in own:
                joined = torch.cat([own[f"{target}.{kind}"] for target in targets])
                transposed = joined.ndim == 2 and source.startswith("h.")
                state[f"{source}.{kind}"] = (joined.t() if transposed else joined).contiguous()
    return state
