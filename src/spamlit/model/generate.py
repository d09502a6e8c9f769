"""Text from a backbone: to see that its weights are right, to prompt it, and to write synthetic messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from spamlit.model.gpt import GPT


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
    """Continue one prompt, token by token: `generate_many` with one row.

    >>> from spamlit.model.gpt import CONFIGS
    >>> len(generate(GPT.random(CONFIGS["tiny"]), [464, 3280], 5))
    5
    """
    [new] = generate_many(
        model, ids, max_new_tokens, 1, temperature=temperature, top_k=top_k, stop_ids=stop_ids, generator=generator
    )
    return new


@torch.no_grad()
def generate_many(
    model: GPT,
    ids: Sequence[int],
    max_new_tokens: int,
    n_rows: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue one prompt several times, with cached keys and values; the prompt is read once.

    Args:
        model: In eval mode.
        ids: The prompt, at least one token. It and the new tokens must fit the context.
        max_new_tokens: At most this many are added to each row.
        n_rows: How many continuations; they differ where tokens are sampled.
        temperature: 0 takes the most likely token; above, samples from ``softmax(logits / temperature)``.
        top_k: Sample among the `top_k` most likely tokens only.
        stop_ids: A row ends before any of these.
        generator: Source of randomness; the global one if None.

    Returns:
        The new tokens of each row, without the prompt; a row of `max_new_tokens` met no stop.

    Raises:
        ValueError: An empty prompt, more tokens than the context, a negative temperature, or `top_k` below 1.
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
    past: list[list[Tensor]] = [[] for _ in model.blocks]
    logits = _next_logits(model, torch.tensor([ids], device=model.token_embedding.weight.device), 0, past)
    logits = logits.expand(n_rows, -1)  # (1, vocab_size) -> (B, vocab_size)
    for kept in past:
        kept[:] = [each.expand(n_rows, -1, -1, -1) for each in kept]
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    live = rows  # those that go on
    for n in range(max_new_tokens):
        tokens = _choose(logits, temperature, top_k, generator)  # (B,)
        going = [i for i, token in enumerate(tokens.tolist()) if token not in stop_ids]
        if len(going) < len(live):
            live, tokens = [live[i] for i in going], tokens[going]
            for kept in past:
                kept[:] = [each[going] for each in kept]
        for row, token in zip(live, tokens.tolist(), strict=True):
            row.append(token)
        if not live or n + 1 == max_new_tokens:
            break
        logits = _next_logits(model, tokens[:, None], len(ids) + n, past)
    return rows


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
    """Run `tokens` (B, T), which stand at `offset`; extends `past`. Returns (B, vocab_size)."""
    x = model.embed(tokens, offset)  # (B, T) -> (B, T, C)
    rotary = model.rotary(offset, offset + tokens.shape[1])
    for block, kept in zip(model.blocks, past, strict=True):
        x = block(x, rotary, past=kept)
    return model.logits(x[:, -1])  # (B, T, C) -> (B, C) -> (B, vocab_size)


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """A token for each row of (B, vocab_size): (B,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], float("-inf"))
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator).squeeze(1)
