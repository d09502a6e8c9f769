"""A head with hidden layers, for vectors of a frozen backbone; the published head is a plain `nn.Linear`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class HeadSettings:
    """What a head is made of (`model.head`).

    Attributes:
        hidden: Units of the hidden layer; None: none, the head is linear and the rest is without use.
        members: How many networks answer side by side; the mean of their probabilities decides.
        dropout: Of the vector and of the hidden layer, in training.
        sources: Whether each member has two experts, for messages like the data's own and for all, and a gate.

    Raises:
        ValueError: Values that make no head.
    """

    hidden: int | None = None
    members: int = 1
    dropout: float = 0.0
    sources: bool = False

    def __post_init__(self) -> None:
        for key, most in (("hidden", 1 << 14), ("members", 64)):
            value = getattr(self, key)
            if (value is not None or key == "members") and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"model.head.{key}={value!r:.40}: choose a whole number from 1 to {most:,}")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"model.head.dropout={self.dropout!r:.40}: choose a share from 0 to below 1")
        if type(self.sources) is not bool:
            raise ValueError(f"model.head.sources={self.sources!r:.40}: choose true or false")
        linear = {"members": 1, "dropout": 0.0, "sources": False}
        changed = [key for key, value in linear.items() if getattr(self, key) != value]
        if self.hidden is None and changed:
            raise ValueError(
                f"model.head.{changed[0]}={getattr(self, changed[0])} needs a hidden layer: give model.head.hidden too"
            )


class Perceptrons(nn.Module):
    """Several networks with one hidden layer each, on standardised vectors; the mean of their probabilities decides.

    With ``sources``, a member says three things of a message: its label as messages like the data's own have it
    (learned from those), its label as all messages have it (learned from all, those that were added too), and which of
    the two kinds it is. The third weighs the first two: a mixture of two experts. Where one boundary has to serve
    an old collection and recent messages, both lose; with two, neither does (`docs/log.md`).

    Args:
        n_in: D, size of a vector.
        settings: With units of the hidden layer.
        n_classes: Number of logits.

    Attributes:
        mean, scale: (D,) each, what vectors are standardised by; `standardise` sets them.
    """

    def __init__(self, n_in: int, settings: HeadSettings, n_classes: int = 2) -> None:
        super().__init__()
        assert settings.hidden is not None
        self.settings, self.n_classes = settings, n_classes
        parts = [n_classes, n_classes, 2] if settings.sources else [n_classes]
        self._parts = parts
        K, H = settings.members, settings.hidden
        self.weight1 = nn.Parameter(torch.empty(K, n_in, H).uniform_(-(n_in**-0.5), n_in**-0.5))
        self.bias1 = nn.Parameter(torch.zeros(K, 1, H))
        self.weight2 = nn.Parameter(torch.empty(K, H, sum(parts)).uniform_(-(H**-0.5), H**-0.5))
        self.bias2 = nn.Parameter(torch.zeros(K, 1, sum(parts)))
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """From now on vectors come in less their mean (D,), in units of their standard deviation (D,)."""
        self.mean.copy_(mean)
        self.scale.copy_(1 / (deviation + 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (…, D) to the logarithm of the members' mean probabilities (…, n_classes)."""
        return self._combined(self._outputs(x.reshape(-1, x.shape[-1]))).view(*x.shape[:-1], self.n_classes)

    def learn(
        self, x: Tensor, labels: Tensor, sources: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, n_classes) of vectors (B, D), and the loss (B,) of each row, the mean over the members.

        Args:
            x: (B, D).
            labels: (B,), -100 for rows that do not count.
            sources: (B,), 0 for the data's own messages, 1 for added ones; needed with ``settings.sources``.
            weights: (n_classes,) of the classes, or None.
        """
        outputs = self._outputs(x)
        loss = self._loss(outputs[-1], labels, weights)
        if self.settings.sources:
            assert sources is not None
            own, every, kind = outputs
            loss = (
                self._loss(own, labels.masked_fill(sources == 1, -100), weights)
                + self._loss(every, labels, weights)
                + self._loss(kind, sources.masked_fill(labels == -100, -100))
            )
        return self._combined(outputs), loss

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """(B, D) to what each part says, (K, B, classes)."""
        dropout = self.settings.dropout
        x = F.dropout((x.float() - self.mean) * self.scale, dropout, self.training)
        hidden = F.gelu(torch.baddbmm(self.bias1, x.expand(len(self.weight1), -1, -1), self.weight1))  # (K, B, H)
        outputs = torch.baddbmm(self.bias2, F.dropout(hidden, dropout, self.training), self.weight2)
        return list(torch.split(outputs, self._parts, dim=-1))

    def _combined(self, outputs: list[Tensor]) -> Tensor:
        """What the parts say to log-probabilities (B, n_classes)."""
        logs = [each.log_softmax(dim=-1) for each in outputs]
        answer = logs[0]
        if self.settings.sources:
            own, every, kind = logs
            answer = torch.logaddexp(kind[..., :1] + own, kind[..., 1:] + every)
        return answer.logsumexp(dim=0) - torch.tensor(float(len(answer))).log()

    @staticmethod
    def _loss(outputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Cross-entropy of (K, B, classes) by row (B,), the mean over the members."""
        losses = F.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)), weights, reduction="none")
        return losses.view(outputs.shape[:2]).mean(dim=0)
