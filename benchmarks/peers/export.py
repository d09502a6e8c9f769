"""Hub model folders (configuration, weights, tokenizer) with a run's weights, or random ones, for `transformers`.

python -m benchmarks.peers.export --run outputs/… --out folder
python -m benchmarks.peers.export --weights hub/model.safetensors --backbone gpt2 --out folder
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from spamlit.assets import fetch
from spamlit.data.tokenizer import SMOLLM2_GGUF
from spamlit.model.bundle import load_bundle
from spamlit.model.gpt import CONFIGS, GPTConfig
from spamlit.model.layouts import gpt2_layout, llama_layout
from spamlit.training.run_folder import find_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="run folder or bundle, read at the last real token")
    parser.add_argument("--weights", type=Path, help="GPT-2 safetensors in the hub's layout, without a head")
    parser.add_argument("--backbone", default="gpt2")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.run:
        from_run(given.run, given.out)
    else:
        config = CONFIGS[given.backbone]
        state = {f"transformer.{name}": value for name, value in load_file(given.weights).items()}
        save(given.out, config, state, config.context)


def from_run(run: str, out: Path) -> None:
    """A trained classifier.

    Raises:
        ValueError: its pooling or mask is not what `transformers` does.
    """
    classifier, settings = load_bundle(find_bundle(run))
    if classifier.pooling != "last_nonpad" or not classifier.causal:
        raise ValueError(f"{run}: transformers reads the last real token under a causal mask, not {classifier.pooling}")
    config = classifier.backbone.config
    state = classifier.backbone.state_dict()
    if config.position == "learned":
        renamed = {f"transformer.{name}": value for name, value in gpt2_layout(state, config.n_layer).items()}
    else:
        renamed = {f"model.{name}": value for name, value in llama_layout(state).items()}
    renamed |= {f"score.{kind}": value for kind, value in classifier.head.state_dict().items()}
    save(out, config, renamed, settings["max_length"])


def save(out: Path, config: GPTConfig, state: dict[str, torch.Tensor], max_length: int) -> None:
    """Writes the folder."""
    save_file({name: value.contiguous() for name, value in state.items()}, out / "model.safetensors", {"format": "pt"})
    hub_config(config).save_pretrained(out)
    hub_tokenizer(config, max_length).save_pretrained(out)


def hub_config(config: GPTConfig) -> PretrainedConfig:
    """The configuration class of the architecture."""
    labels = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}, "pad_token_id": config.pad_id}
    special = {"bos_token_id": config.pad_id, "eos_token_id": config.pad_id}
    sizes = {"vocab_size": config.vocab_size}
    if config.position == "learned":
        return GPT2Config(
            n_positions=config.context,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            architectures=["GPT2ForSequenceClassification"],
            **sizes,
            **labels,
            **special,
        )
    return LlamaConfig(
        hidden_size=config.n_embd,
        intermediate_size=config.n_inner,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        architectures=["LlamaForSequenceClassification"],
        **sizes,
        **labels,
        **special,
    )


def hub_tokenizer(config: GPTConfig, max_length: int) -> PreTrainedTokenizerFast:
    """The architecture's own byte-level BPE."""
    splits = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if config.tokenizer == "smollm2":
        from gguf import GGUFReader

        fields = GGUFReader(fetch(SMOLLM2_GGUF)).fields
        tokens, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
        pairs = [tuple(merge.split(" ")) for merge in merges]
        model = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs)
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    else:
        model = models.BPE.from_file(str(fetch("encoder.json")), str(fetch("vocab.bpe")))
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        padding_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


if __name__ == "__main__":
    main()
