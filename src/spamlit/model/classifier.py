"""The classifier: a backbone, a pooling, a small head, and the choice of what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spamlit.model import lora
from spamlit.model.gpt import GPT, Block
from spamlit.model.head import HeadSettings, Perceptrons, TrainedBlock
from spamlit.model.lora import LoRA
from spamlit.model.pooling import POOLINGS, READS_PADDING, pool, pool_beginnings, pooled_position, read_layers

Trainable = Literal["none", "head", "last_block", "last_two_blocks", "last_k", "all", "lora"]
TRAINABLES: tuple[str, ...] = get_args(Trainable)


def trained_blocks(trainable: str, last_k: int | None, n_layer: int) -> int:
    """How many blocks, counted from the top, a choice of `TRAINABLES` trains or adapts.

    Raises:
        ValueError: `last_k` is missing, without use, or not one of 1..n_layer.

    >>> trained_blocks("last_two_blocks", None, 12), trained_blocks("last_k", 5, 12), trained_blocks("lora", None, 12)
    (2, 5, 12)
    """
    fixed = {"none": 0, "head": 0, "last_block": 1, "last_two_blocks": 2, "all": n_layer, "lora": n_layer}
    if last_k is None and trainable == "last_k":
        raise ValueError(f"model.trainable=last_k needs the number of blocks, model.last_k=None: choose 1..{n_layer}")
    if last_k is not None and trainable not in ("last_k", "lora"):
        raise ValueError(f"model.last_k={last_k} goes with model.trainable=last_k or lora, not {trainable}")
    count = fixed[trainable] if last_k is None else last_k
    if count > n_layer or (last_k is not None and last_k < 1):
        raise ValueError(
            f"model.trainable={trainable}: cannot train the last {count} blocks of {n_layer}; choose 1..{n_layer}"
        )
    return count


class Classifier(nn.Module):
    """Backbone → final norm → pooling → head, with as many states side by side as layers are read.

    Everything is frozen until `set_trainable` says otherwise. What lies below the lowest trained parameter is the
    *prefix*, a fixed function of the tokens; the rest is the *suffix*: ``forward = suffix(prefix(tokens))``.

    Args:
        backbone: Its parameters are shared, not copied, while frozen.
        pooling: One of `POOLINGS`.
        layers: After how many blocks states are read (`read_layers`). Final norm and pooling act on each, and the head
            reads their L vectors as one of L·C; None: the last block's alone.
        causal: False lets every position see the whole message.
        head_bias: Whether a linear head has a bias.
        head: What the head is made of; None: linear.
        n_classes: Number of logits.
        dropout: In the trained blocks (and the embeddings, if trained), in train mode.
        head_seed: A linear head is ``nn.Linear``'s default initialisation under this seed (the lesson's 123); LoRA's
            matrices are drawn from the numbers that follow. The global RNG state stays as it was.

    Attributes:
        lora: The values of LoRA where that is what is trained, else None.

    Raises:
        ValueError: Unknown pooling, layers that are none, or dropout outside [0, 1).
    """

    def __init__(
        self,
        backbone: GPT,
        *,
        pooling: str = "last_nonpad",
        layers: Sequence[int] | None = None,
        causal: bool = True,
        head_bias: bool = True,
        head: HeadSettings | None = None,
        n_classes: int = 2,
        dropout: float = 0.0,
        head_seed: int = 123,
    ) -> None:
        super().__init__()
        _check("model.pooling", pooling, POOLINGS)
        self.backbone, self.pooling, self.causal, self.dropout = backbone, pooling, causal, dropout
        self.head_bias, self.n_classes = head_bias, n_classes
        self.layers = read_layers(layers, backbone.config.n_layer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            self.head = self._new_head(head or HeadSettings())
        self.head_seed = head_seed
        self.lora: LoRA | None = None
        self.set_trainable("none")

    def _new_head(self, settings: HeadSettings) -> nn.Linear | Perceptrons:
        n_in = len(self.layers) * self.backbone.config.n_embd
        if settings.hidden is None:
            return nn.Linear(n_in, self.n_classes, bias=self.head_bias)
        if not self.head_bias:
            raise ValueError(f"model.head_bias=false goes with a linear head, not model.head.hidden={settings.hidden}")
        block = None
        if settings.block is not None:
            if self.pooling in READS_PADDING:
                raise ValueError(
                    f"model.head.block={settings.block} reads no padding, model.pooling={self.pooling} does"
                )
            last = self.backbone.blocks[-1]
            assert isinstance(last, Block)
            block = TrainedBlock(last, self.backbone.norm, self.backbone.config.n_embd, self.n_classes)
        return Perceptrons(n_in, settings, self.n_classes, self.backbone.config.vocab_size, block)

    def set_trainable(self, trainable: str, last_k: int | None = None, adapters: LoRA | None = None) -> None:
        """Choose which parameters are trained; those get memory of their own, the others stay mapped.

        Args:
            trainable: ``none``; ``head`` alone; ``last_block``, ``last_two_blocks`` or ``last_k`` blocks with the final
                norm and the head; ``all``, embeddings included; ``lora``: the matrices of LoRA, new ones, and the head.
            last_k: Number of blocks for ``last_k``; with ``lora`` those that get LoRA (None: all).
            adapters: The values of LoRA; None: its defaults.

        Raises:
            ValueError: Unknown choice, `last_k` missing, out of range or without use, or LoRA without a layer.
        """
        _check("model.trainable", trainable, TRAINABLES)
        if self.block is not None and trainable not in ("none", "head"):
            raise ValueError(
                f"model.trainable={trainable}: a head with a block of its own goes with model.trainable=head"
            )
        n_blocks = trained_blocks(trainable, last_k, self.backbone.config.n_layer)
        lora.remove(self)
        self.lora = (adapters or LoRA()) if trainable == "lora" else None
        if self.lora is not None:
            self._add_lora(self.lora, n_blocks)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(False)
            if self._is_trained(name, trainable, n_blocks):
                parameter.data = parameter.data.clone()  # out of the read-only map of the weight file
                parameter.requires_grad_(True)
        lowest = self._lowest_trained()
        self.backbone.set_dropout(self.dropout, lowest)
        if self.block is not None:
            self.block.block.set_dropout(self.dropout)
        read_below = lowest is not None and self.layers[0] < lowest <= self.backbone.config.n_layer
        self._boundary = self.layers[0] if read_below else lowest  # asked for in every step

    def _add_lora(self, adapters: LoRA, n_blocks: int) -> None:
        """Add LoRA to the last blocks, lowest first, then to the head if that is a target.

        The lesson's script draws the A's in this order too, and the head before them: with ``init="rank"`` and its seed
        they are the ones of its run.
        """
        adapters.check_fits(self.backbone.config)
        generator = torch.Generator().manual_seed(self.head_seed)
        for parameter in self.head.parameters():
            torch.empty(parameter.shape).uniform_(generator=generator)
        n_layer = self.backbone.config.n_layer
        within = [f"backbone.blocks.{n}." for n in range(n_layer - n_blocks, n_layer)]
        lora.add(self, adapters, generator, [*within, "head"])

    def _is_trained(self, name: str, trainable: str, n_blocks: int) -> bool:
        if trainable == "all" or name.startswith("head."):
            return trainable != "none"
        if trainable == "lora":
            return name.endswith(lora.MATRICES)
        if name.startswith("backbone.blocks."):
            return int(name.split(".")[2]) >= self.backbone.config.n_layer - n_blocks
        return name.startswith("backbone.norm.") and n_blocks > 0

    @property
    def boundary(self) -> int | None:
        """Number of blocks in the prefix: those under the lowest trained parameter since the last `set_trainable`, and
        under the first layer that is read.

        0..n_layer; n_layer + 1 where the final norm is frozen too (then pooling belongs to the prefix); None where
        the embeddings are trained, so that nothing is frozen below.
        """
        return self._boundary

    def _lowest_trained(self) -> int | None:
        n_layer = self.backbone.config.n_layer
        lowest = n_layer + 1
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad:
                if name.startswith(("token_embedding.", "position_embedding.")):
                    return None
                lowest = min(lowest, int(name.split(".")[1]) if name.startswith("blocks.") else n_layer)
        return lowest

    @torch.no_grad()
    def prefix(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Run the frozen part, without gradients; no dropout acts there in any mode.

        Args:
            tokens: (B, T) ids, right-padded.
            lengths: (B,) real tokens per row, at least 1.

        Returns:
            What enters the first trained block: (B, T, C); the pooled and normed (B, L·C) where norm and blocks are
            frozen; the tokens themselves where nothing is.
        """
        boundary = self.boundary
        if boundary is None:
            return tokens
        if boundary > self.backbone.config.n_layer:
            return self.pooled(tokens, lengths, start=0)
        return self.states(tokens, lengths, stop=boundary)

    def states(self, tokens: Tensor, lengths: Tensor, stop: int) -> Tensor:
        """What enters block `stop`: token ids (B, T) to (B, T, C)."""
        hidden: Tensor = self.backbone(tokens, stop=stop, lengths=self._visible_lengths(lengths), causal=self.causal)
        return hidden

    @property
    def block(self) -> TrainedBlock | None:
        """The head's own block, where it has one."""
        return self.head.block if isinstance(self.head, Perceptrons) else None

    @torch.no_grad()
    def below(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """What enters the backbone's last block, and the head's own: token ids (B, T) to (B, T, C)."""
        return self.states(tokens, lengths, stop=self.backbone.config.n_layer - 1)

    def suffix(
        self, hidden: Tensor, lengths: Tensor, tokens: Tensor | None = None, below: Tensor | None = None
    ) -> Tensor:
        """Run the trained rest on what `prefix` gave.

        Args:
            hidden: The result of `prefix`, rows padded alike.
            lengths: (B,).
            tokens: (B, T) ids, right-padded; for a head that reads the spelling.
            below: The result of `below`; for a head with a block of its own.

        Returns:
            Logits (B, n_classes).
        """
        assert (below is None) == (self.block is None)
        vectors = self.vectors(hidden, lengths, tokens)
        said = [] if below is None else [self._block_logits(below, lengths)]
        logits: Tensor = self.head(vectors, *said)
        return logits

    def _block_logits(self, below: Tensor, lengths: Tensor, *, everywhere: bool = False) -> Tensor:
        """What the head's own block says of (B, T, C)."""
        assert self.block is not None
        rotary = self.backbone.rotary(0, below.shape[1])
        logits: Tensor = self.block(below, rotary, lengths, causal=self.causal, everywhere=everywhere)
        return logits

    def vectors(self, hidden: Tensor, lengths: Tensor, tokens: Tensor | None = None) -> Tensor:
        """What the head reads, (B, D), of what `prefix` gave; see `suffix`."""
        boundary = self.boundary
        if boundary is None or boundary <= self.backbone.config.n_layer:
            hidden = self.pooled(hidden, lengths, start=boundary or 0)  # (B, T, C) -> (B, L·C)
        if isinstance(self.head, Perceptrons) and tokens is not None:
            return self.head.read(hidden, tokens, lengths)
        return hidden

    def learn(
        self,
        hidden: Tensor,
        lengths: Tensor,
        labels: Tensor,
        sources: Tensor | None = None,
        weights: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`suffix` with the loss that trains it, but for a block of the head's own (`learn_block`).

        Args:
            hidden: The result of `prefix`, rows padded alike.
            lengths: (B,).
            labels: (B,), -100 for rows that do not count.
            sources: (B,), 0 for the data's own messages, 1 for added ones; for a head that tells them apart.
            weights: (n_classes,) of the classes, or None.
            tokens: (B, T) ids, right-padded; for a head that reads the spelling.

        Returns:
            Logits (B, n_classes), and the loss (B,) of each row, float32: a linear head's is the cross-entropy.
        """
        vectors = self.vectors(hidden, lengths, tokens)
        if isinstance(self.head, Perceptrons):
            return self.head.learn(vectors, labels, sources, weights)
        logits = self.head(vectors).float()
        return logits, F.cross_entropy(logits, labels, weights, reduction="none")

    def learn_block(self, below: Tensor, lengths: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss (B,) of each row that trains the head's own block; arguments as in `suffix` and `learn`."""
        return F.cross_entropy(self._block_logits(below, lengths).float(), labels, weights, reduction="none")

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T) and lengths (B,) to logits (B, n_classes)."""
        if self.block is None:
            return self.suffix(self.prefix(tokens, lengths), lengths, tokens)
        states: dict[int, Tensor] = {self.backbone.config.n_layer - 1: tokens}
        with torch.no_grad():
            hidden = self.pooled(tokens, lengths, start=0, keep=states)
        return self.suffix(hidden, lengths, tokens, *states.values())

    def pooled(self, x: Tensor, lengths: Tensor, start: int, keep: dict[int, Tensor] | None = None) -> Tensor:
        """Blocks from `start`, final norm and pooling: (B, T) ids or (B, T, C) states to (B, L·C) for L layers.

        `start` is at most the first layer that is read. After as many blocks as a key of `keep` says, its value becomes
        the states (B, T, C).
        """
        position = pooled_position(x.shape[1], lengths, self.pooling)
        vectors = []
        for stop in sorted({*self.layers, *(keep or ())}):
            only = position[:, None] if position is not None and stop == self.layers[-1] else None  # (B,) -> (B, 1)
            x = self.backbone(
                x, start=start, stop=stop, lengths=self._visible_lengths(lengths), positions=only, causal=self.causal
            )
            if keep is not None and stop in keep:
                keep[stop] = x
            if stop in self.layers:
                hidden = self.backbone.norm(x)  # (B, T, C) or (B, 1, C)
                vectors.append(pool(hidden, lengths, self.pooling) if only is None else hidden.squeeze(1))
            start = stop
        return torch.cat(vectors, dim=1)  # L of (B, C) -> (B, L·C)

    def beginnings(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits of every beginning of each row, in one pass over the rows.

        Args:
            tokens: (B, T) ids, right-padded.
            lengths: (B,) real tokens per row, at least 1.

        Returns:
            (B, T, n_classes), at [:, t] what `forward` gives for ``tokens[:, : t + 1]``.

        Raises:
            ValueError: A beginning is not read as the whole has read it: not causal, or a pooling that reads padding.
        """
        if not self.reads_on:
            raise ValueError(
                f"model.pooling={self.pooling}, model.causal={self.causal}: beginnings need passes of their own"
            )
        x, start, vectors, said = tokens, 0, [], []
        below = {self.backbone.config.n_layer - 1} if self.block is not None else set()
        for stop in sorted({*self.layers} | below):
            x = self.backbone(x, start=start, stop=stop, lengths=lengths, causal=True)  # (B, T, C)
            if stop in below:
                said = [self._block_logits(x, lengths, everywhere=True)]  # (B, T, n_classes)
            if stop in self.layers:
                vectors.append(pool_beginnings(self.backbone.norm(x), self.pooling))
            start = stop
        read = torch.cat(vectors, dim=-1)  # L of (B, T, C) -> (B, T, L·C)
        if isinstance(self.head, Perceptrons) and self.head.settings.spelling:
            each = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).repeat(len(tokens))  # (B·T,)
            rows = tokens.repeat_interleave(tokens.shape[1], dim=0)  # (B·T, T)
            read = self.head.read(read.flatten(0, 1), rows, each).view(*tokens.shape, -1)
        logits: Tensor = self.head(read, *said)  # (B, T, D) -> (B, T, n_classes)
        return logits

    @property
    def reads_on(self) -> bool:
        """Whether what follows a beginning of a message plays no part in what is computed of the beginning."""
        return self.causal and self.pooling not in READS_PADDING

    def _visible_lengths(self, lengths: Tensor) -> Tensor | None:
        return None if self.pooling in READS_PADDING else lengths

    def parameter_counts(self) -> tuple[int, int]:
        """Number of parameters, (total, trained)."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)

    def trained_state(self) -> dict[str, Tensor]:
        """The trained parameters by name, detached, not copied, and the head's constants: what checkpoints store."""
        trained = {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
        return trained | {name: constant for name, constant in self.named_buffers() if name.startswith("head.")}

    @torch.no_grad()
    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Copy a `trained_state` into the parameters that are trained now.

        Raises:
            ValueError: Names or shapes are not exactly those of the trained parameters.
        """
        own = self.trained_state()
        wrong = sorted(state.keys() ^ own.keys()) or [n for n in own if own[n].shape != state[n].shape]
        if wrong:
            raise ValueError(
                f"trained weights do not fit this classifier ({len(state)} tensors for {len(own)} trained parameters); "
                f"missing, unexpected or of another shape: {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}"
            )
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _check(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{key}={value}: choose one of {', '.join(choices)}")
