"""Self-attention for both families: grouped heads, optional rotary positions, chosen query positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotary(NamedTuple):
    """Cosines and signed sines of the rotary angles, each (T, D), for the positions in play (`rotary_tables`)."""

    cos: Tensor
    sin: Tensor


def rotary_tables(context: int, head_dim: int, theta: float) -> Rotary:
    """Angles ``position * theta ** (-2i / head_dim)``, i < head_dim / 2, for every position of the context.

    Returns:
        Cosines, twice side by side, and sines, first negated and then plain: each (context, head_dim), float32, CPU.
    """
    cpu = torch.device("cpu")  # explicit: the model is built on the meta device
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=cpu) / head_dim
    positions = torch.arange(context, dtype=torch.float32, device=cpu)
    angles = torch.outer(positions, 1.0 / theta**exponents)  # (context, D/2)
    return Rotary(angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=1))  # (context, D)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn each pair ``(x[i], x[i + D/2])`` by its position's angle (Hugging Face's "rotate_half" layout).

    Args:
        x: Queries or keys (B, T, H, D).
        rotary: Tables, broadcastable to (B, T, H, D).

    Returns:
        (B, T, H, D), a new tensor.
    """
    return (x * rotary.cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), rotary.sin)


def pick(x: Tensor, positions: Tensor) -> Tensor:
    """Take the rows of ``x`` (B, T, C) at ``positions`` (B, Q).

    Returns:
        (B, Q, C).
    """
    index = positions[..., None].expand(-1, -1, x.shape[-1])  # (B, Q) -> (B, Q, C)
    return x.gather(1, index)


class Packing(NamedTuple):
    """The real tokens of a right-padded batch, one after another: what acts on each token alone skips the padding.

    Attributes:
        place: (N,) where each real token stands among the batch's B * T places.
        position: (N,) where it stands in its row.
        shape: (B, T).
    """

    place: Tensor
    position: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, lengths: Tensor, n_tokens: int) -> Packing:
        """The packing of rows with `lengths` (B,) real tokens, padded to `n_tokens`."""
        real = torch.arange(n_tokens, device=lengths.device) < lengths[:, None]  # (B, T)
        place = real.flatten().nonzero().squeeze(1)
        return cls(place, place % n_tokens, (len(lengths), n_tokens))

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        return x.flatten(0, 1).index_select(0, self.place)

    def unpack(self, x: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...), zero in the padding."""
        n_rows, n_tokens = self.shape
        padded = x.new_zeros(n_rows * n_tokens, *x.shape[1:]).index_copy(0, self.place, x)
        return padded.view(n_rows, n_tokens, *x.shape[1:])


def visible_keys(n_keys: int, *, positions: Tensor | None, lengths: Tensor | None, causal: bool) -> Tensor | None:
    """Which keys each query may see, where the causal flag of the kernel does not say it already.

    Args:
        n_keys: T.
        positions: (B, Q) chosen query positions, or None for all of them.
        lengths: (B,) number of real tokens, or None where padding takes part.
        causal: Whether a query sees only keys up to its own position. Under right padding this hides the padding
            from every real query, so that `lengths` adds nothing.

    Returns:
        Boolean (B, Q, T) or (B, 1, T), True where visible; None for "the kernel's own rule".
    """
    if causal and positions is not None:
        return torch.arange(n_keys, device=positions.device) <= positions[..., None]  # (B, Q, T)
    if not causal and lengths is not None:
        return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None]  # (B, 1, T)
    return None


class Attention(nn.Module):
    """Multi-head attention with `n_kv_head` shared key/value heads and separate projections.

    The four projections are plain ``nn.Linear`` so that LoRA can wrap any of them by name.

    Attributes:
        absorb: Allows the shortcut for a single query per row (`_absorbed`), a choice by the number of tokens. Exports
            cannot choose, and tests compare: they switch it off.
        dropout: Probability of dropping an attention weight, in train mode.
    """

    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, *, bias: bool) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = n_head, n_kv_head, n_embd // n_head
        self.query = nn.Linear(n_embd, n_head * self.head_dim, bias=bias)
        self.key = nn.Linear(n_embd, n_kv_head * self.head_dim, bias=bias)
        self.value = nn.Linear(n_embd, n_kv_head * self.head_dim, bias=bias)
        self.out = nn.Linear(n_head * self.head_dim, n_embd, bias=bias)
        self.absorb = True
        self.dropout = 0.0

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        causal: bool = True,
        past: list[Tensor] | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: Normed hidden states (B, T, C).
            rotary: Angles of the T positions; None for learned positions.
            positions: (B, Q) query positions; None means all T.
            lengths: (B,) real tokens per row; keys beyond are hidden when not causal. None: padding takes part.
            causal: Whether keys after the query are hidden.
            past: Keys and values of earlier positions, each (B, K, S, D), or an empty list; extended in place
                (generation). A query sees all S of them, and of the T those up to its own.
            packing: Where the tokens of `x`, then (1, N, C), stand in the batch; `rotary` has their N angles.

        Returns:
            (B, T, C), (B, Q, C) for chosen positions, or (1, N, C) with `packing`.
        """
        queries = self.query(x if positions is None else pick(x, positions))  # (B, Q, H*D)
        queries = queries.unflatten(-1, (self.n_head, self.head_dim))  # (B, Q, H, D)
        if rotary is not None:
            at = rotary if positions is None else Rotary(rotary.cos[positions], rotary.sin[positions])
            queries = rotate(queries, Rotary(at.cos.unsqueeze(-2), at.sin.unsqueeze(-2)))  # tables (..., Q, 1, D)
        n_keys = packing.shape[1] if packing else x.shape[1]
        visible = visible_keys(n_keys, positions=positions, lengths=lengths, causal=causal)
        if queries.shape[1] == 1 and past is None and packing is None and self._absorbing_pays(x, rotary):
            heads = self._absorbed(x, queries, visible, rotary)
        else:
            causal = causal and positions is None
            heads = self._plain(x, queries, visible, rotary, causal=causal, past=past, packing=packing)
        projected: Tensor = self.out(heads)
        return projected

    def _keys(self, x: Tensor, rotary: Rotary | None) -> Tensor:
        keys: Tensor = self.key(x).unflatten(-1, (self.n_kv_head, self.head_dim))  # (B, T, K, D)
        if rotary is not None:
            keys = rotate(keys, Rotary(rotary.cos[:, None], rotary.sin[:, None]))
        return keys  # (B, T, K, D)

    def _plain(
        self,
        x: Tensor,
        queries: Tensor,
        visible: Tensor | None,
        rotary: Rotary | None,
        *,
        causal: bool,
        past: list[Tensor] | None,
        packing: Packing | None,
    ) -> Tensor:
        keys = self._keys(x, rotary)
        values = self.value(x).unflatten(-1, (self.n_kv_head, self.head_dim))
        if packing is not None:  # (1, N, H or K, D) -> (B, T, H or K, D)
            queries, keys, values = (packing.unpack(each.squeeze(0)) for each in (queries, keys, values))
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)  # (B, K, T, D)
        if past is not None:
            if past:
                causal = False
                n_past, n_new = past[0].shape[2], keys.shape[2]
                keys, values = torch.cat((past[0], keys), dim=2), torch.cat((past[1], values), dim=2)  # (B, K, S+T, D)
                if n_new > 1:
                    visible = keys.new_ones(n_new, n_past + n_new, dtype=torch.bool).tril(n_past)[None]  # (1, T, S+T)
            past[:] = keys, values
        if past is not None and visible is None and queries.shape[1] == 1:
            # Heads that share keys ask like so many positions: without a copy of the keys for each of them.
            grouped = queries.view(len(queries), self.n_kv_head, -1, self.head_dim)  # (B, 1, H, D) -> (B, K, H/K, D)
            return F.scaled_dot_product_attention(grouped, keys, values).reshape(len(queries), 1, -1)  # (B, 1, H*D)
        heads = F.scaled_dot_product_attention(
            queries.transpose(1, 2),  # (B, H, Q, D)
            keys,
            values,
            attn_mask=None if visible is None else visible[:, None],  # (B, 1, Q, T)
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            enable_gqa=self.n_kv_head != self.n_head,
        )
        heads = heads.transpose(1, 2).flatten(2)  # (B, H, Q, D) -> (B, Q, H*D)
        return heads if packing is None else packing.pack(heads)[None]  # (1, N, H*D)

    def _absorbing_pays(self, x: Tensor, rotary: Rotary | None) -> bool:
        """Whether one query a row is cheaper without materialised values (and keys); never for wrapped layers."""
        absorbed = (self.value,) if rotary is not None else (self.key, self.value)
        plain_layers = all(type(layer) is nn.Linear for layer in absorbed)
        n_tokens, kv_width = x.shape[1], self.n_kv_head * self.head_dim
        # Per row and input feature: T*K*D for one projection, H*(T + D) for its absorbed form.
        return self.absorb and plain_layers and n_tokens * kv_width > self.n_head * (n_tokens + self.head_dim)

    def _absorbed(self, x: Tensor, queries: Tensor, visible: Tensor | None, rotary: Rotary | None) -> Tensor:
        """One query a row: the projections of keys and values move to the query's side of the products.

        With keys ``W_k x_j + b_k``, the score is ``(W_k' q) . x_j + q . b_k``; with weights ``a_j`` on values
        ``W_v x_j + b_v``, the output is ``W_v (sum_j a_j x_j) + b_v sum_j a_j``. Equal to `_plain` in real arithmetic
        and about `head_dim` times cheaper. Rotary keys depend on the position after the projection: they stay.

        Args:
            x: (B, T, C).
            queries: (B, 1, H, D), rotated.
            visible: (B, 1, T) or None.
            rotary: As in `forward`.

        Returns:
            (B, 1, H*D).
        """
        n_rows, width = x.shape[0], x.shape[2]
        kv, group, dim = self.n_kv_head, self.n_head // self.n_kv_head, self.head_dim
        query = queries.view(n_rows, kv, group, dim)  # (B, 1, H, D) -> (B, K, G, D)
        if rotary is None:
            key_weight = self.key.weight.view(kv, dim, width)  # (K*D, C) -> (K, D, C)
            probes = torch.einsum("bkgd,kdc->bkgc", query, key_weight).flatten(1, 2)  # (B, H, C)
            scores = probes @ x.transpose(1, 2)  # (B, H, T)
            if self.key.bias is not None:  # constant over keys: softmax ignores it, but its gradient must exist
                constant = torch.einsum("bkgd,kd->bkg", query, self.key.bias.view(kv, dim))  # (B, K, G)
                scores = scores + constant.reshape(n_rows, -1, 1)  # (B, K, G) -> (B, H, 1)
        else:
            scores = (query @ self._keys(x, rotary).permute(0, 2, 3, 1)).flatten(1, 2)  # (B, K, G, T) -> (B, H, T)
        scores = scores * dim**-0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)  # (B, H, T)
        mixed = (weights.to(x.dtype) @ x).view(n_rows, kv, group, width)  # (B, H, C) -> (B, K, G, C)
        value_weight = self.value.weight.view(kv, dim, width)  # (K*D, C) -> (K, D, C)
        heads = torch.einsum("bkgc,kdc->bkgd", mixed, value_weight)  # (B, K, G, D)
        if self.value.bias is not None:
            total = weights.sum(dim=-1).view(n_rows, kv, group, 1)  # (B, H) -> (B, K, G, 1); 1 without dropout
            heads = heads + total * self.value.bias.view(kv, 1, dim)
        return heads.reshape(n_rows, 1, -1)  # (B, K, G, D) -> (B, 1, H*D)
