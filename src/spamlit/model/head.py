"""A head with hidden layers, for vectors of a frozen backbone; the published head is a plain `nn.Linear`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spamlit.model.spelling import WIDTH, hashed_ngrams, spelled


@dataclass(frozen=True)
class HeadSettings:
    """What a head is made of (`model.head`).

    Attributes:
        hidden: Units of the hidden layer; None: none, the head is linear and takes nothing of the rest.
        members: How many networks answer side by side; the mean of their probabilities decides.
        dropout: Of the vector and of the hidden layer, in training.
        spelling: Buckets of hashed character n-grams (`spelling`), read by linear models beside the networks; None: the
            networks alone.
        sources: Whether each member has two experts, for messages like the data's own and for all, and a gate.
        lean: Log-odds by which the gate takes a message for one like the data's own rather than not.

    Raises:
        ValueError: Values that make no head.
    """

    hidden: int | None = None
    members: int = 1
    dropout: float = 0.0
    spelling: int | None = None
    sources: bool = False
    lean: float = 0.0

    def __post_init__(self) -> None:
        for key, most in (("hidden", 1 << 14), ("members", 64), ("spelling", 1 << 16)):
            value = getattr(self, key)
            if (value is not None or key == "members") and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"model.head.{key}={value!r:.40}: choose a whole number from 1 to {most:,}")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"model.head.dropout={self.dropout!r:.40}: choose a share from 0 to below 1")
        if type(self.sources) is not bool:
            raise ValueError(f"model.head.sources={self.sources!r:.40}: choose true or false")
        if not isinstance(self.lean, int | float) or not -50 <= self.lean <= 50:
            raise ValueError(f"model.head.lean={self.lean!r:.40}: choose log-odds from -50 to 50")
        if self.lean and not self.sources:
            raise ValueError(f"model.head.lean={self.lean} turns the gate of model.head.sources=true: give that too")
        linear = {"members": 1, "dropout": 0.0, "spelling": None, "sources": False}
        changed = [key for key, value in linear.items() if getattr(self, key) != value]
        if self.hidden is None and changed:
            raise ValueError(
                f"model.head.{changed[0]}={getattr(self, changed[0])} needs a hidden layer: give model.head.hidden too"
            )


class Networks(nn.Module):
    """Several perceptrons with one hidden layer, side by side.

    Args:
        n_in: D, size of a vector.
        n_out: Number of outputs.
        settings: Their number K, units H and dropout.
    """

    def __init__(self, n_in: int, n_out: int, settings: HeadSettings) -> None:
        super().__init__()
        assert settings.hidden is not None
        self.dropout = settings.dropout
        K, H = settings.members, settings.hidden
        self.weight1 = nn.Parameter(torch.empty(K, n_in, H).uniform_(-(n_in**-0.5), n_in**-0.5))
        self.bias1 = nn.Parameter(torch.zeros(K, 1, H))
        self.weight2 = nn.Parameter(torch.empty(K, H, n_out).uniform_(-(H**-0.5), H**-0.5))
        self.bias2 = nn.Parameter(torch.zeros(K, 1, n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (K, B, n_out)."""
        x = F.dropout(x, self.dropout, self.training).expand(len(self.weight1), -1, -1)
        hidden = F.gelu(torch.baddbmm(self.bias1, x, self.weight1))  # (K, B, H)
        return torch.baddbmm(self.bias2, F.dropout(hidden, self.dropout, self.training), self.weight2)


class Perceptrons(nn.Module):
    """Several networks with one hidden layer each, on standardised vectors; the mean of their probabilities decides.

    With ``spelling``, a logistic regression on hashed n-grams, fitted before the networks are trained, answers beside
    each: the mean of their log-odds counts.

    With ``sources``, three networks make a member: one says a message's label as messages like the data's own have it
    (learned from those), one its label as all messages have it (learned from all, those that were added too), one which
    of the two kinds it is (learned as if spam came from both equally often, and ham too: `balance`); the third has a
    logistic regression beside it as well. Of a message like the data's own, the mean log-odds of all that judge labels
    count; of others the second network's alone, for how a collection spells its spam says nothing of other messages.
    The gate goes from the one to the other. Where one boundary has to serve an old collection and recent messages, both
    lose; with two they lose less (`docs/log.md`).

    Args:
        n_in: Size D of the backbone's vector.
        settings: With units of the hidden layer.
        n_classes: Number of logits; two with ``spelling``.
        vocab_size: V, number of token ids.

    Attributes:
        mean, scale: (D,) each, what vectors are standardised by; `standardise` sets them.
        kind_weights: (2, n_classes), what a message of a source and a label counts for the gate; `balance` sets them.
        lexical, constants: (R, buckets) and (R,), of the linear models' log-odds: of spam; with ``sources`` also of a
            message unlike the data's own. R is 0 without ``spelling``.
        spellings: (V, WIDTH) uint8 of `spelling.spellings`, to be set; without ``spelling`` of no token.
    """

    def __init__(self, n_in: int, settings: HeadSettings, n_classes: int = 2, vocab_size: int = 1) -> None:
        super().__init__()
        if settings.spelling and n_classes != 2:
            raise ValueError(f"model.head.spelling={settings.spelling} knows two classes, not {n_classes}")
        self.settings, self.n_in, self.n_classes = settings, n_in, n_classes
        self.own = Networks(n_in, n_classes, settings)
        if settings.sources:
            self.every = Networks(n_in, n_classes, settings)
            self.kind = Networks(n_in, 2, settings)
            self.kind_weights: Tensor
            self.register_buffer("kind_weights", torch.ones(2, n_classes, device="cpu"), persistent=False)
        self.mean: Tensor
        self.scale: Tensor
        self.lexical: Tensor
        self.constants: Tensor
        self.spellings: Tensor
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        models = (1 + settings.sources) if settings.spelling else 0
        self.register_buffer("lexical", torch.zeros(models, settings.spelling or 0))
        self.register_buffer("constants", torch.zeros(models))
        self.register_buffer("spellings", torch.zeros(vocab_size if settings.spelling else 0, WIDTH, dtype=torch.uint8))

    def ngrams(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Of rows (B, T), (B, buckets)."""
        assert self.settings.spelling
        return hashed_ngrams(*spelled(tokens, lengths, self.spellings), self.settings.spelling)

    def read(self, vectors: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The backbone's vectors (B, D) and the linear models' log-odds of the rows (B, T) side by side, (B, D + R)."""
        if self.settings.spelling is None:
            return vectors
        lexical = F.linear(self.ngrams(tokens, lengths), self.lexical.float(), self.constants.float())
        return torch.cat([vectors.float(), lexical], dim=1)

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """From now on vectors come in less their mean (D,), in units of their standard deviation (D,)."""
        self.mean.copy_(mean)
        self.scale.copy_(1 / (deviation + 1e-6))

    def balance(self, sources: Tensor, labels: Tensor) -> None:
        """From now on each source weighs the same in the gate's loss, among the spam as among the ham.

        Args:
            sources: (N,) of the training messages, as in `learn`.
            labels: (N,) of them.
        """
        counts = torch.zeros_like(self.kind_weights)
        counts.index_put_((sources, labels), torch.ones_like(labels, dtype=counts.dtype), accumulate=True)
        self.kind_weights.copy_(counts.mean(dim=0) / counts.clamp(min=1))

    def forward(self, x: Tensor) -> Tensor:
        """What `read` gave (…, D + R) to the logarithm of the members' mean probabilities (…, n_classes)."""
        rows = x.reshape(-1, x.shape[-1])
        return self._combined(rows, self._outputs(rows)).view(*x.shape[:-1], self.n_classes)

    def learn(
        self, x: Tensor, labels: Tensor, sources: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The networks' logits (B, n_classes) of vectors (B, D), and their loss (B,), the mean over the members.

        Args:
            x: (B, D), without the linear models' log-odds: those are fitted by now.
            labels: (B,), -100 for rows that do not count.
            sources: (B,), 0 for the data's own messages, 1 for added ones; needed with ``settings.sources``.
            weights: (n_classes,) of the classes, or None.
        """
        outputs = self._outputs(x)
        if not self.settings.sources:
            return self._combined(x, outputs), _loss(outputs[0], labels, weights)
        assert sources is not None
        own, every, kind = outputs
        loss = (
            _loss(own, labels.masked_fill(sources == 1, -100), weights)
            + _loss(every, labels, weights)
            + _loss(kind, sources.masked_fill(labels == -100, -100)) * self.kind_weights[sources, labels.clamp(min=0)]
        )
        return self._combined(x, outputs), loss

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """What `read` gave (B, D + R) to what each network of a member says, (K, B, classes)."""
        x = (x[:, : self.n_in].float() - self.mean) * self.scale
        return [self.own(x), self.every(x), self.kind(x)] if self.settings.sources else [self.own(x)]

    def _combined(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        """What the linear models say, the last of (B, D + R), and the networks, to log-probabilities (B, n_classes)."""
        labels = [each.log_softmax(dim=-1) for each in outputs[:2]]
        said = [_two(log_odds) for log_odds in x[:, self.n_in :].float().unbind(dim=1)]  # R of (B, 2)
        answer = torch.stack([*labels, *(each.expand_as(labels[0]) for each in said[:1])]).mean(dim=0)  # (K, B, C)
        if self.settings.sources:
            kinds = torch.stack([outputs[2], *(each.expand_as(outputs[2]) for each in said[1:])]).mean(dim=0)
            modern = (kinds[..., 1:] - kinds[..., :1] - self.settings.lean).sigmoid()
            answer = torch.lerp(answer, labels[1], modern)
        return answer.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(answer))


def _two(log_odds: Tensor) -> Tensor:
    """Log-odds (B,) as logits (B, 2)."""
    return torch.stack([-log_odds / 2, log_odds / 2], dim=-1)


def _loss(outputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of (K, B, classes) by row (B,), the mean over the members."""
    losses = F.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)), weights, reduction="none")
    return losses.view(outputs.shape[:2]).mean(dim=0)
