"""The ONNX model: ids and lengths in, spam probabilities and logits out; any pooling, layers or mask."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spamlit.inference.export.check import Array, Encode, Ids, Run
from spamlit.inference.export.tokenizer import fast_tokenizer
from spamlit.inference.int8 import KEPT
from spamlit.inference.predictor import Predictor
from spamlit.model.attention import Attention
from spamlit.model.classifier import Classifier

MODEL = "model.onnx"
OPSET = 18
ONE_FILE = 1_800_000_000
"""Bytes of weights that one file may hold (a protobuf ends at 2 GiB); beyond, they go into `model.onnx.data`."""


class Scorer(nn.Module):
    """What is exported: a classifier without the choices that depend on the batch, and its temperature.

    Args:
        classifier: Its parameters are shared.
        temperature: What the logits are divided by.
    """

    def __init__(self, classifier: Classifier, temperature: float) -> None:
        super().__init__()
        shared = {id(value): value for value in (*classifier.parameters(), *classifier.buffers())}
        self.classifier = copy.deepcopy(classifier, shared)
        self.classifier.backbone.packs = False
        for module in self.classifier.modules():
            if isinstance(module, Attention):
                module.absorb = False
        self.temperature = temperature

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, T), right-padded, and lengths (B,) to spam probabilities (B,) and logits (B, 2)."""
        logits = self.classifier(tokens, lengths) / self.temperature
        return torch.softmax(logits, dim=-1)[:, 1], logits


def write_onnx(predictor: Predictor, folder: Path, *, int8: bool) -> None:
    """model.onnx and tokenizer.json.

    Args:
        predictor: Whose classifier.
        folder: Is there.
        int8: Weights of the backbone's linear layers in eight bits, but for `int8.KEPT`.
    """
    classifier = predictor.classifier
    fast_tokenizer(predictor.tokenizer).save(str(folder / "tokenizer.json"))
    exact = folder / ("float32.onnx" if int8 else MODEL)
    large = sum(value.numel() * value.element_size() for value in classifier.parameters()) > ONE_FILE
    _trace(Scorer(classifier, predictor.temperature), exact, external=large)
    if int8:
        _quantize(exact, folder / MODEL, external=large)
        for file in folder.glob("float32.onnx*"):
            file.unlink()


def load_onnx(folder: Path, predictor: Predictor) -> tuple[Encode, Run]:
    """What an exported folder says, as onnxruntime and `tokenizers` load it."""
    import onnxruntime
    from tokenizers import Tokenizer as FastTokenizer

    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(folder / MODEL), providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [each.ids[: predictor.max_length] for each in tokenizer.encode_batch(list(texts))]

    def run(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Array:
        (probability,) = session.run(["probability"], {"tokens": tokens, "lengths": lengths})
        return np.asarray(probability, dtype=np.float64)

    return encode, run


def _trace(scorer: Scorer, path: Path, *, external: bool) -> None:
    """Exports with any batch and any length; the example's sizes are none that a constant could have."""
    tokens, lengths = torch.zeros(3, 7, dtype=torch.int64), torch.tensor([7, 2, 5])
    dynamic = torch.export.Dim.DYNAMIC
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            scorer.eval(),
            (tokens, lengths),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=["tokens", "lengths"],
            output_names=["probability", "logits"],
            dynamic_shapes={"tokens": {0: dynamic, 1: dynamic}, "lengths": {0: dynamic}},
        )
    assert program is not None
    program.save(path, external_data=external)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter and the quantizer say of themselves; the check judges their work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantize(source: Path, target: Path, *, external: bool) -> None:
    """Onnxruntime's dynamic quantization of the layers that `int8.quantize` takes, with a scale for each output."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source, load_external_data=False).graph
    kept = [node.name for node in graph.node if _stays(node)]
    with _quiet():
        quantize_dynamic(
            source,
            target,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*kept, *(f"{name}_MatMul" for name in kept)],  # what it makes of a Gemm
            use_external_data_format=external,
        )


def _stays(node: Any) -> bool:
    """Whether a node belongs to the head or to a layer `int8.KEPT`."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
    return f".{KEPT}" in scopes or ".head" in scopes
