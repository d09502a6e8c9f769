"""The folder that `transformers` loads: `GPT2ForSequenceClassification` or `LlamaForSequenceClassification`.

Both read the logits of the last token whose id is not the padding's, through a head without a bias. Temperature goes
into the head's weight. Its bias goes where the architecture has a place for it: GPT-2's final norm has a bias of its
own; Llama has none, so the head becomes one block more (`_head_as_block`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from spamlit.inference.export.check import Array, Encode, Ids, Run
from spamlit.inference.export.tokenizer import fast_tokenizer
from spamlit.inference.predictor import Predictor
from spamlit.model.classifier import Classifier
from spamlit.model.config import GPTConfig
from spamlit.model.head import Perceptrons
from spamlit.model.layouts import gpt2_layout, llama_layout

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

State = dict[str, Tensor]
LOUD, LOUDER = 1e10, 1e15
"""Of `_head_as_block`: far above all states (1e4 were seen); far above the logits times that, with finite squares."""
HALF_OPEN = 10.0
"""A gate's constant input: silu(10) is 9.9995."""


def check_expressible(classifier: Classifier) -> None:
    """Refuses what the two architectures of `transformers` do not compute.

    Raises:
        ValueError: with the setting and what to use instead.
    """
    config = classifier.backbone.config
    reason = ""
    if classifier.pooling != "last_nonpad":
        reason = f"model.pooling={classifier.pooling}: transformers reads the last real token"
    elif classifier.layers != (config.n_layer,):
        reason = f"model.layers={list(classifier.layers)}: transformers reads the last block alone"
    elif not classifier.causal:
        reason = "model.causal=false: GPT-2 and Llama are causal in transformers"
    elif _family(config) is None:
        reason = f"{config.name}: neither GPT-2's architecture nor Llama's"
    elif isinstance(classifier.head, Perceptrons):
        reason = f"model.head.hidden={classifier.head.settings.hidden}: transformers has a linear head"
    elif classifier.n_classes != 2:
        reason = f"{classifier.n_classes} classes: two are expected"
    if reason:
        raise ValueError(f"{reason}. Choose --to onnx, which exports any classifier.")


def write_hub(predictor: Predictor, folder: Path, settings: dict[str, Any]) -> None:
    """config.json, model.safetensors and the tokenizer's files.

    Args:
        predictor: Its classifier is one that `check_expressible` lets pass.
        folder: Is there.
        settings: Go into config.json under the key `spamlit`, which transformers hands on.
    """
    classifier = predictor.classifier
    state, extra_block = _state(classifier, predictor.temperature)
    config = _hub_config(classifier.backbone.config, extra_block=extra_block, settings=settings)
    save_file(
        {name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config.save_pretrained(folder)
    _hub_tokenizer(predictor).save_pretrained(folder)


def load_hub(folder: Path) -> tuple[Encode, Run]:
    """What an exported folder says, as `transformers` loads it.

    Raises:
        ValueError: a weight is missing or not used.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    if wrong := sorted(map(str, [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]])):
        raise ValueError(f"{folder}: transformers misses or does not use {', '.join(wrong[:5])}")
    model.eval()

    def encode(texts: Sequence[str]) -> list[Ids]:
        ids: list[Ids] = tokenizer(list(texts), truncation=True)["input_ids"]
        return ids

    @torch.inference_mode()
    def run(tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Array:
        mask = torch.arange(tokens.shape[1]) < torch.from_numpy(lengths)[:, None]  # (B, T)
        logits = model(input_ids=torch.from_numpy(tokens), attention_mask=mask.long()).logits  # (B, 2)
        probability: Array = logits.double().softmax(dim=-1)[:, 1].numpy()
        return probability

    return encode, run


def _family(config: GPTConfig) -> str | None:
    """`gpt2`, `llama`, or None for a mixture of theirs."""
    kinds = config.position, config.norm, config.mlp, config.bias
    families = {("learned", "layernorm", "gelu", True): "gpt2", ("rotary", "rmsnorm", "swiglu", False): "llama"}
    return families.get(kinds)


def _state(classifier: Classifier, temperature: float) -> tuple[State, bool]:
    """All weights by the names of `transformers`, and whether there is a block more than in the backbone."""
    config, own = classifier.backbone.config, classifier.backbone.state_dict()
    head = {name: value / temperature for name, value in classifier.head.state_dict().items()}
    weight, bias = head["weight"], head.get("bias")  # (2, C), (2,)
    if _family(config) == "gpt2":
        if bias is not None:
            own["norm.bias"] = own["norm.bias"] + _shift(weight, bias)
        state = {f"transformer.{name}": value for name, value in gpt2_layout(own, config.n_layer).items()}
        return state | {"score.weight": weight}, False
    if bias is None:
        return {f"model.{name}": value for name, value in llama_layout(own).items()} | {"score.weight": weight}, False
    block, score = _head_as_block(own, weight, bias, config)
    return {f"model.{name}": value for name, value in llama_layout(block).items()} | {"score.weight": score}, True


def _shift(weight: Tensor, bias: Tensor) -> Tensor:
    """The shortest step (C,) that moves the spam logit against ham's as the bias does; the softmax knows no more."""
    direction = weight[1] - weight[0]
    length = direction.dot(direction)
    if length == 0:
        raise ValueError("the head's weight is the same for spam and ham: such a classifier has nothing to export")
    return direction * (bias[1] - bias[0]) / length


def _head_as_block(own: State, weight: Tensor, bias: Tensor, config: GPTConfig) -> tuple[State, Tensor]:
    """One block more, whose MLP is the final norm and the head; then a final norm and a score that only rescale.

    Its attention is zero. Its gates are constant, so that the MLP is linear: it adds the two logits times `LOUD` to two
    features and `LOUDER` to a third. Beside the first two the state that was there is lost in rounding; the third makes
    the final norm a division by a constant. In float32 that costs less than 1e-5 of a logit; bfloat16 has the same
    range, float16 has not.

    Args:
        own: The backbone's state.
        weight: (2, C) of the head.
        bias: (2,).
        config: Of the backbone.

    Returns:
        The state with the block, and with biases of zero in the other blocks' MLPs (`mlp_bias` is a choice for all);
        the score's weight (2, C).
    """
    width, inner, kv_width = config.n_embd, config.n_inner, config.n_kv_head * config.head_dim
    gate = torch.tensor(HALF_OPEN)
    opened = torch.nn.functional.silu(gate)
    state = dict(own)
    for n in range(config.n_layer + 1):
        sizes = {"gate": inner, "up": inner, "down": width}
        state |= {f"blocks.{n}.mlp.{name}.bias": torch.zeros(size) for name, size in sizes.items()}
    new = f"blocks.{config.n_layer}."
    for name, rows in {"query": width, "key": kv_width, "value": kv_width, "out": width}.items():
        state[f"{new}attention.{name}.weight"] = torch.zeros(rows, width)
    gates, up, down = torch.zeros(inner, width), torch.zeros(inner, width), torch.zeros(width, inner)
    up[:2] = weight
    down[[0, 1, 2], [0, 1, 2]] = torch.tensor([LOUD, LOUD, LOUDER]) / opened
    state |= {f"{new}mlp.gate.weight": gates, f"{new}mlp.up.weight": up, f"{new}mlp.down.weight": down}
    state[f"{new}mlp.gate.bias"][:3] = gate
    state[f"{new}mlp.up.bias"][:3] = torch.cat((bias, torch.ones(1)))
    state |= {f"{new}norm_1.weight": torch.ones(width), f"{new}norm_2.weight": own["norm.weight"].clone()}
    state["norm.weight"] = torch.ones(width)
    score = torch.zeros(2, width)
    score[[0, 1], [0, 1]] = LOUDER / (LOUD * math.sqrt(width))  # the norm divides by LOUDER / sqrt(C)
    return state, score


def _hub_config(config: GPTConfig, *, extra_block: bool, settings: dict[str, Any]) -> PretrainedConfig:
    from transformers import GPT2Config, LlamaConfig

    shared = {
        "vocab_size": config.vocab_size,
        "id2label": {0: "ham", 1: "spam"},
        "label2id": {"ham": 0, "spam": 1},
        "pad_token_id": config.pad_id,
        "bos_token_id": config.pad_id,
        "eos_token_id": config.pad_id,
        "dtype": "float32",
        "spamlit": settings,
    }
    if _family(config) == "gpt2":
        return GPT2Config(
            n_positions=config.context,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.n_inner,
            layer_norm_epsilon=config.norm_eps,
            architectures=["GPT2ForSequenceClassification"],
            **shared,
        )
    return LlamaConfig(
        hidden_size=config.n_embd,
        intermediate_size=config.n_inner,
        num_hidden_layers=config.n_layer + extra_block,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        mlp_bias=extra_block,
        architectures=["LlamaForSequenceClassification"],
        **shared,
    )


def _hub_tokenizer(predictor: Predictor) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    padding = next(text for text, i in predictor.tokenizer.special.items() if i == predictor.tokenizer.pad_id)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast_tokenizer(predictor.tokenizer),
        pad_token=padding,
        eos_token=padding,
        padding_side="right",
        truncation_side="right",
        model_max_length=predictor.max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # what a sender types is text
    )
