"""Text from a backbone: to see that its weights are right, to prompt it, and to write synthetic messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from spamlit.model.gpt import GPT


@torch.no_grad()
def generate(
    model: GPT,
    ids: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[int]:
    """Continue one prompt, token by token, with cached keys and values.

    Args:
        model: In eval mode.
        ids: The prompt, at least one token. It and the new tokens must fit the context.
        max_new_tokens: At most this many are added.
        temperature: 0 takes the most likely token; above, samples from ``softmax(logits / temperature)``.
        top_k: Sample among the `top_k` most likely tokens only.
        stop_ids: Generation ends before any of these.
        generator: Source of randomness; the global one if None.

    Returns:
        The new tokens, without the prompt.

    Raises:
        ValueError: An empty prompt, more tokens than the context, a negative temperature, or `top_k` below 1.

    >>> from spamlit.model.gpt import CONFIGS
    >>> len(generate(GPT.random(CONFIGS["tiny"]), [464, 3280], 5))
    5
    """
    if not ids or temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"cannot generate from {len(ids)} tokens with temperature={temperature}, top_k={top_k}: "
            "needs a prompt of at least one token, temperature >= 0, top_k >= 1"
        )
    if len(ids) + max_new_tokens > model.config.context:
        raise ValueError(
            f"{len(ids)} + {max_new_tokens} tokens exceed the context of {model.config.name}, {model.config.context}"
        )
    device = model.token_embedding.weight.device
    past: list[list[Tensor]] = [[] for _ in model.blocks]
    new: list[int] = []
    fresh = list(ids)  # tokens whose keys and values are not in `past` yet
    while len(new) < max_new_tokens:
        logits = _next_logits(model, torch.tensor([fresh], device=device), len(ids) + len(new) - len(fresh), past)
        token = _choose(logits, temperature, top_k, generator)
        if token in stop_ids:
            break
        new.append(token)
        fresh = [token]
    return new


@torch.no_grad()
def read_prompt(model: GPT, ids: Sequence[int]) -> list[list[Tensor]]:
    """Keys and values of a prompt, of each block, for `continued_logits`."""
    past: list[list[Tensor]] = [[] for _ in model.blocks]
    _next_logits(model, torch.tensor([ids], device=model.token_embedding.weight.device), 0, past)
    return past


@torch.no_grad()
def continued_logits(model: GPT, past: Sequence[Sequence[Tensor]], tokens: Tensor, lengths: Tensor) -> Tensor:
    """What follows each of several continuations of one prompt, which is not read again.

    Args:
        model: In eval mode.
        past: The prompt, of `read_prompt`; it stays as it is.
        tokens: (B, T) continuations, padded on the right.
        lengths: (B,) real tokens of each, at least one.

    Returns:
        (B, vocab_size) logits of the next token.

    Raises:
        ValueError: Prompt and continuation exceed the context.

    >>> from spamlit.model.gpt import CONFIGS
    >>> model = GPT.random(CONFIGS["tiny"])
    >>> past = read_prompt(model, [464, 3280])
    >>> continued_logits(model, past, torch.tensor([[318], [257]]), torch.tensor([1, 1])).shape
    torch.Size([2, 50257])
    """
    offset, n_rows = past[0][0].shape[2], len(tokens)
    x = model.embed(tokens, offset)  # (B, T) -> (B, T, C)
    rotary = model.rotary(offset, offset + tokens.shape[1])
    for block, kept in zip(model.blocks, past, strict=True):
        x = block(x, rotary, past=[each.expand(n_rows, -1, -1, -1) for each in kept])
    return model.logits(x[torch.arange(n_rows), lengths - 1])  # (B, T, C) -> (B, C) -> (B, vocab_size)


def _next_logits(model: GPT, tokens: Tensor, offset: int, past: list[list[Tensor]]) -> Tensor:
    """Run `tokens` (1, T), which stand at `offset`; extends `past`. Returns (vocab_size,)."""
    x = model.embed(tokens, offset)  # (1, T) -> (1, T, C)
    rotary = model.rotary(offset, offset + tokens.shape[1])
    for block, kept in zip(model.blocks, past, strict=True):
        x = block(x, rotary, past=kept)
    return model.logits(x[0, -1])  # (1, T, C) -> (C,) -> (vocab_size,)


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    return int(torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator))
