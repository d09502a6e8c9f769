"""`spamlit generate`: continue a prompt with a pretrained backbone."""

from __future__ import annotations

import click


@click.command()
@click.option("--backbone", default="smollm2-135m", show_default=True, help="Name of a backbone: gpt2, smollm2-135m, …")
@click.option("--weights", type=click.Choice(["pretrained", "random"]), default="pretrained", show_default=True)
@click.option("--max-new-tokens", type=click.IntRange(1), default=40, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(1), help="Sample from the k likeliest tokens only.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.argument("prompt")
def command(
    backbone: str, weights: str, max_new_tokens: int, temperature: float, top_k: int | None, seed: int, prompt: str
) -> None:
    """Print PROMPT and what the model makes of it, before any head is replaced.

    spamlit generate "The capital of France is" --max-new-tokens 8
    """
    import torch

    from spamlit.data.tokenizer import load_tokenizer
    from spamlit.model.generate import generate
    from spamlit.model.weights import load_backbone

    model = load_backbone(backbone, weights=weights, seed=seed)
    tokenizer = load_tokenizer(model.config.tokenizer)
    ids = tokenizer.encode(prompt)
    out = generate(
        model,
        ids,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        stop_ids=(tokenizer.pad_id,),
        generator=torch.Generator().manual_seed(seed),
    )
    click.echo(prompt + tokenizer.decode(out))
