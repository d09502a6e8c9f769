"""A head with hidden layers, for vectors of a frozen backbone; the published head is a plain `nn.Linear`."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spamlit.model.attention import Rotary
from spamlit.model.gpt import Block
from spamlit.model.spelling import WIDTH, hashed_ngrams, spelled


@dataclass(frozen=True)
class HeadSettings:
    """What a head is made of (`model.head`).

    Attributes:
        hidden: Units of the hidden layer; None: none, the head is linear and takes nothing of the rest.
        members: How many networks answer side by side; the mean of their probabilities decides.
        dropout: Of the vector and of the hidden layer, in training.
        spelling: Buckets of hashed character n-grams (`spelling`) that are read beside the vector, a lexical model
            within; None: the vector alone.
        sources: Whether each member has two experts, for messages like the data's own and for all, and a gate.
        lean: Log-odds by which the gate takes a message for one like the data's own rather than not.
        joint: Weight of the expert for all messages where the gate is sure that a message is like the data's own.
        block: Learning rate of a copy of the backbone's last block (`TrainedBlock`), which learns from the data's own
            messages, not from disguised copies, beside the networks; None: no copy.

    Raises:
        ValueError: Values that make no head.
    """

    hidden: int | None = None
    members: int = 1
    dropout: float = 0.0
    spelling: int | None = None
    sources: bool = False
    lean: float = 0.0
    joint: float = 0.0
    block: float | None = None

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
        if not isinstance(self.joint, int | float) or not 0 <= self.joint < 1:
            raise ValueError(f"model.head.joint={self.joint!r:.40}: choose a weight from 0 to below 1")
        turned = next((key for key in ("lean", "joint") if getattr(self, key)), None)
        if turned and not self.sources:
            raise ValueError(
                f"model.head.{turned}={getattr(self, turned)} turns the gate of model.head.sources=true: give that too"
            )
        if self.block is not None and (type(self.block) is not float or not 0 < self.block < 1):
            raise ValueError(
                f"model.head.block={self.block!r:.40}: choose a learning rate above 0 and below 1, or null"
            )
        linear = {"members": 1, "dropout": 0.0, "spelling": None, "sources": False, "block": None}
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


class TrainedBlock(nn.Module):
    """A copy of the backbone's last block that is trained, with a final norm and a linear read of the last token.

    Args:
        block: The backbone's last block, to be copied.
        norm: Its final norm, to be copied.
        n_in: C, size of a token's state.
        n_classes: Number of logits.
    """

    def __init__(self, block: Block, norm: nn.Module, n_in: int, n_classes: int) -> None:
        super().__init__()
        self.block, self.norm = copy.deepcopy(block), copy.deepcopy(norm)
        self.linear = nn.Linear(n_in, n_classes)

    def forward(
        self, below: Tensor, rotary: Rotary | None, lengths: Tensor, *, causal: bool, everywhere: bool = False
    ) -> Tensor:
        """What enters the last block (B, T, C) to logits (B, n_classes) of the last token, or (B, T, n_classes)."""
        last = None if everywhere else lengths[:, None] - 1  # (B, 1)
        states = self.block(below, rotary, positions=last, lengths=lengths, causal=causal)  # (B, T or 1, C)
        logits: Tensor = self.linear(self.norm(states if everywhere else states.squeeze(1)))
        return logits


class Perceptrons(nn.Module):
    """Several networks with one hidden layer each, on standardised vectors; the mean of their probabilities decides.

    With ``sources``, three networks make a member: one says a message's label as messages like the data's own have it
    (learned from those), one its label as all messages have it (learned from all, those that were added too), one which
    of the two kinds it is (learned as if spam came from both equally often, and ham too: `balance`), and this gate goes
    from the log-odds of the first to those of the second: a mixture of two experts. Where one boundary has to serve an
    old collection and recent messages, both lose; with two they lose less (`docs/log.md`).

    With ``spelling`` too, the first reads the spelling beside the vector, and a network that reads nothing else judges
    the kind beside the third: the mean of their log-odds counts. The second does not: how a collection spells its spam
    says nothing of other messages.

    With ``block``, a trained block (`TrainedBlock`) judges labels beside the first: the mean of their log-odds counts.

    Args:
        n_in: Size of the backbone's vector; with spelling, D is as many buckets more.
        settings: With units of the hidden layer.
        n_classes: Number of logits.
        vocab_size: V, number of token ids.
        block: Where ``settings.block`` asks for it.

    Attributes:
        mean, scale: (D,) each, what vectors are standardised by; `standardise` sets them.
        kind_weights: (2, n_classes), what a message of a source and a label counts for the gate; `balance` sets them.
        spellings: (V, WIDTH) uint8 of `spelling.spellings`, to be set; without ``settings.spelling`` of no token.
    """

    def __init__(
        self,
        n_in: int,
        settings: HeadSettings,
        n_classes: int = 2,
        vocab_size: int = 1,
        block: TrainedBlock | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.n_in, self.n_classes = settings, n_in, n_classes
        n_all = n_in + (settings.spelling or 0)
        self.own = Networks(n_all, n_classes, settings)
        self.kind_spelled: Networks | None = None
        if settings.sources:
            self.every = Networks(n_in, n_classes, settings)
            self.kind = Networks(n_in, 2, settings)
            self.kind_spelled = Networks(settings.spelling, 2, settings) if settings.spelling else None
            self.kind_weights: Tensor
            self.register_buffer("kind_weights", torch.ones(2, n_classes, device="cpu"), persistent=False)
        self.block = block
        self.mean: Tensor
        self.scale: Tensor
        self.spellings: Tensor
        self.register_buffer("mean", torch.zeros(n_all))
        self.register_buffer("scale", torch.ones(n_all))
        self.register_buffer("spellings", torch.zeros(vocab_size if settings.spelling else 0, WIDTH, dtype=torch.uint8))

    def read(self, vectors: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The backbone's vectors (B, n_in) and the spelling of the rows (B, T) side by side, (B, D)."""
        if self.settings.spelling is None:
            return vectors
        codes, counts = spelled(tokens, lengths, self.spellings)
        return torch.cat([vectors.float(), hashed_ngrams(codes, counts, self.settings.spelling)], dim=1)

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

    def forward(self, x: Tensor, block: Tensor | None = None) -> Tensor:
        """To the logarithm of the members' mean probabilities (…, n_classes).

        Args:
            x: Vectors (…, D).
            block: What the trained block says of them, (…, n_classes).
        """
        outputs = self._outputs(x.reshape(-1, x.shape[-1]))
        said = None if block is None else block.reshape(-1, self.n_classes)
        return self._combined(outputs, said).view(*x.shape[:-1], self.n_classes)

    def learn(
        self, x: Tensor, labels: Tensor, sources: Tensor | None = None, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The networks' logits (B, n_classes) of vectors (B, D), and their loss (B,) of each row, the members' mean.

        The trained block learns apart, from other rows (`Classifier.learn_block`).

        Args:
            x: (B, D).
            labels: (B,), -100 for rows that do not count.
            sources: (B,), 0 for the data's own messages, 1 for added ones; needed with ``settings.sources``.
            weights: (n_classes,) of the classes, or None.
        """
        outputs = self._outputs(x)
        if not self.settings.sources:
            return self._combined(outputs), _loss(outputs[0], labels, weights)
        assert sources is not None
        own, every, *kinds = outputs
        kind_labels = sources.masked_fill(labels == -100, -100)
        loss = (
            _loss(own, labels.masked_fill(sources == 1, -100), weights)
            + _loss(every, labels, weights)
            + sum(_loss(kind, kind_labels) for kind in kinds) * self.kind_weights[sources, labels.clamp(min=0)]
        )
        return self._combined(outputs), loss

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """(B, D) to what each network of a member says, (K, B, classes)."""
        x = (x.float() - self.mean) * self.scale
        if not self.settings.sources:
            return [self.own(x)]
        vector, spelling = x[:, : self.n_in], x[:, self.n_in :]
        outputs = [self.own(x), self.every(vector), self.kind(vector)]
        return [*outputs, self.kind_spelled(spelling)] if self.kind_spelled is not None else outputs

    def _combined(self, outputs: list[Tensor], block: Tensor | None = None) -> Tensor:
        """What the networks (K, B, classes) and the block (B, n_classes) say to log-probabilities (B, n_classes)."""
        answer = outputs[0].float().log_softmax(dim=-1)
        if block is not None:
            answer = (answer + block.float().log_softmax(dim=-1)) / 2
        if self.settings.sources:
            _, every, *kinds = outputs
            kind = torch.stack(kinds).float().mean(dim=0)  # (K, B, 2)
            modern = (kind[..., 1:] - kind[..., :1] - self.settings.lean).sigmoid()
            modern = self.settings.joint + (1 - self.settings.joint) * modern
            answer = torch.lerp(answer, every.float().log_softmax(dim=-1), modern)
        return answer.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(answer))


def _loss(outputs: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of (K, B, classes) by row (B,), the mean over the members."""
    losses = F.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)), weights, reduction="none")
    return losses.view(outputs.shape[:2]).mean(dim=0)
