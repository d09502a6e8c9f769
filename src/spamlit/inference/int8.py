"""Eight-bit linear layers for prediction on a CPU."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from spamlit.model.classifier import Classifier

ENGINES = ("onednn", "x86", "fbgemm", "qnnpack")
"""PyTorch's kernels, the fastest one measured first."""
KEPT = "down"
"""The MLP's last layer stays float32: a few inputs of it are so large that eight bits leave nothing of the others."""


def quantize(classifier: Classifier) -> None:
    """Replaces the backbone's linear layers but `KEPT` by PyTorch's dynamically quantized ones, in place.

    Weights are int8 with a scale for each output; activations are quantized batch by batch, so that a message's
    probability depends (slightly) on what else is in its batch. docs/log.md says how much quality it costs.

    Raises:
        ValueError: this build of PyTorch has no such kernels.
    """
    engine = next((name for name in ENGINES if name in torch.backends.quantized.supported_engines), None)
    if engine is None:
        raise ValueError(f"precision=int8 needs one of PyTorch's engines {', '.join(ENGINES)}; this build has none.")
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        # the successor, torchao, is fast on a CPU only behind torch.compile, whose start costs more than it saves here
        warnings.simplefilter("ignore")
        names = [name for name, layer in classifier.backbone.named_modules() if isinstance(layer, nn.Linear)]
        setting = torch.ao.quantization.per_channel_dynamic_qconfig
        choice = {name: setting for name in names if not name.endswith(KEPT)}
        torch.ao.quantization.quantize_dynamic(classifier.backbone, choice, inplace=True)  # type: ignore[no-untyped-call]
