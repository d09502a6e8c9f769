"""The head of perceptrons: what it computes, what it learns from which message, what it refuses."""

import pytest
import torch
from torch.nn import functional as F

from spamlit.model.head import HeadSettings, Perceptrons
from spamlit.model.spelling import spellings

B, D = 6, 5
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
SOURCES = torch.tensor([0, 0, 0, 1, 1, 1])


def vectors() -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


def head(**settings: object) -> Perceptrons:
    torch.manual_seed(0)
    return Perceptrons(D, HeadSettings(hidden=4, **settings)).eval()  # type: ignore[arg-type]


def by_hand(net: Perceptrons, part: str, member: int, x: torch.Tensor) -> torch.Tensor:
    network = net.get_submodule(part)
    hidden = F.gelu((x - net.mean) * net.scale @ network.weight1[member] + network.bias1[member])
    return hidden @ network.weight2[member] + network.bias2[member]


def experts(net: Perceptrons) -> list[torch.Tensor]:
    return [by_hand(net, part, 0, vectors()) for part in ("own", "every", "kind")]


def test_the_members_mean_probability_decides() -> None:
    net = head(members=3)
    net.standardise(torch.arange(D) / 10, torch.arange(1, D + 1))
    expected = torch.stack([by_hand(net, "own", k, vectors()).softmax(-1) for k in range(3)]).mean(0)
    torch.testing.assert_close(net(vectors()).exp(), expected)


@pytest.mark.parametrize(("lean", "joint"), [(0.0, 0.0), (2.0, 0.0), (-1.5, 0.25), (0.0, 0.5)])
def test_the_gate_goes_from_one_experts_log_odds_to_the_others(lean: float, joint: float) -> None:
    net = head(sources=True, lean=lean, joint=joint)
    own, every, kind = (each[:, 1] - each[:, 0] for each in experts(net))
    gate = joint + (1 - joint) * (kind - lean).sigmoid()
    logits = net(vectors())
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], (1 - gate) * own + gate * every)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(B))


@pytest.mark.parametrize("sources", [True, False])
def test_the_block_counts_as_much_as_the_own_messages_expert(sources: bool) -> None:
    net = head(sources=sources)
    said = torch.randn(B, 2, generator=torch.Generator().manual_seed(2))
    own = by_hand(net, "own", 0, vectors()).log_softmax(-1)
    expected = (own + said.log_softmax(-1)) / 2
    if sources:
        _, every, kind = experts(net)
        expected = torch.lerp(expected, every.log_softmax(-1), kind.softmax(-1)[:, 1:])
    torch.testing.assert_close(net(vectors(), said), expected.log_softmax(-1))


def test_the_gate_learns_as_if_both_sources_were_equally_frequent_in_each_class() -> None:
    net = head(sources=True)
    labels, sources = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 1])
    _, before = net.learn(vectors()[:5], labels, sources)
    net.balance(sources, labels)
    _, after = net.learn(vectors()[:5], labels, sources)
    gate = F.cross_entropy(experts(net)[2][:5], sources, reduction="none")
    torch.testing.assert_close(after - before, torch.tensor([-0.25, -0.25, 0.5, 0, 0]) * gate)


def test_any_shape_before_the_last_dimension() -> None:
    net = head(members=2, sources=True)
    torch.testing.assert_close(net(vectors().view(2, 3, D)), net(vectors()).view(2, 3, 2))


def test_without_sources_the_loss_is_the_members_mean_cross_entropy() -> None:
    net = head(members=2)
    logits, losses = net.learn(vectors(), LABELS)
    expected = sum(F.cross_entropy(by_hand(net, "own", k, vectors()), LABELS, reduction="none") for k in range(2)) / 2
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(logits, net(vectors()))


def test_each_expert_learns_from_its_own_messages() -> None:
    net = head(sources=True)
    own, every, kind = experts(net)
    each = [F.cross_entropy(*pair, reduction="none") for pair in ((own, LABELS), (every, LABELS), (kind, SOURCES))]
    torch.testing.assert_close(net.learn(vectors(), LABELS, SOURCES)[1], each[0] * (SOURCES == 0) + each[1] + each[2])


def test_the_spelling_is_read_by_the_expert_of_the_own_messages_and_by_a_gate() -> None:
    torch.manual_seed(0)
    net = Perceptrons(D, HeadSettings(hidden=4, spelling=32, sources=True), vocab_size=3).eval()
    net.spellings.copy_(spellings({b"free ": 0, b"Prize": 1, b"home": 2}, 3))
    tokens, lengths = torch.tensor([[0, 1, 2], [0, 2, 2]]), torch.tensor([2, 2])
    read = net.read(vectors()[:2], tokens, lengths)
    alike = net.read(vectors()[:1].expand(2, -1), tokens, lengths)
    assert read.shape == (2, D + 32)
    torch.testing.assert_close(read[:, :D], vectors()[:2])
    own, every, kind, kind_spelled = net._outputs(alike)
    assert not torch.allclose(own[:, 0], own[:, 1])
    assert not torch.allclose(kind_spelled[:, 0], kind_spelled[:, 1])
    torch.testing.assert_close(every[:, 0], every[:, 1])
    torch.testing.assert_close(kind[:, 0], kind[:, 1])
    changed = net._outputs(read + torch.nn.functional.pad(torch.ones(2, D), (0, 32)))[3]
    torch.testing.assert_close(changed, net._outputs(read)[3])  # which reads nothing but the spelling


def test_both_gates_count_and_learn() -> None:
    torch.manual_seed(0)
    net = Perceptrons(D, HeadSettings(hidden=4, spelling=3, sources=True)).eval()
    x = torch.cat([vectors(), vectors()[:, :3].flip(0)], dim=1)
    own, every, *kinds = (each[0] for each in net._outputs(x))
    gate = torch.stack([kind[:, 1:] - kind[:, :1] for kind in kinds]).mean(0).sigmoid()
    expected = torch.lerp(own.log_softmax(-1), every.log_softmax(-1), gate).log_softmax(-1)
    torch.testing.assert_close(net(x), expected)
    label = F.cross_entropy(own, LABELS, reduction="none") * (SOURCES == 0) + F.cross_entropy(
        every, LABELS, reduction="none"
    )
    kind = sum(F.cross_entropy(each, SOURCES, reduction="none") for each in kinds)
    torch.testing.assert_close(net.learn(x, LABELS, SOURCES)[1], label + kind)


def test_sixteen_bit_networks_are_mixed_in_float32() -> None:
    net = head(sources=True)
    block = torch.randn(B, 2, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, said = net._outputs(vectors()), net(vectors(), block)
        losses = net.learn(vectors(), LABELS, SOURCES)[1]
    assert losses.dtype == torch.float32
    torch.testing.assert_close(
        said, net._combined([each.float() for each in outputs], block.float()), rtol=0, atol=1e-6
    )


def test_an_ignored_row_has_no_loss() -> None:
    labels = LABELS.masked_fill(torch.arange(B) == 2, -100)
    losses = head(sources=True).learn(vectors(), labels, SOURCES)[1]
    assert (losses == 0).tolist() == [False, False, True, False, False, False]


def test_dropout_acts_in_training_alone() -> None:
    net = head(dropout=0.5)
    torch.testing.assert_close(net(vectors()), net(vectors()), rtol=0, atol=0)
    net.train()
    assert not torch.equal(net(vectors()), net(vectors()))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hidden": 0}, "model.head.hidden=0"),
        ({"hidden": 4, "members": 0}, "model.head.members=0"),
        ({"hidden": 4, "dropout": 1.0}, "model.head.dropout=1.0"),
        ({"hidden": 4, "sources": 1}, "model.head.sources=1"),
        ({"hidden": 4, "lean": 99.0, "sources": True}, "model.head.lean=99.0"),
        ({"hidden": 4, "lean": 1.0}, "model.head.lean=1.0 turns the gate"),
        ({"hidden": 4, "joint": 1.0, "sources": True}, "model.head.joint=1.0"),
        ({"hidden": 4, "joint": 0.5}, "model.head.joint=0.5 turns the gate"),
        ({"hidden": 4, "block": 1}, "model.head.block=1: choose a learning rate"),
        ({"hidden": 4, "block": 0.0}, "model.head.block=0.0: choose a learning rate"),
        ({"block": 1e-4}, "model.head.block=0.0001 needs a hidden layer"),
        ({"members": 3}, "model.head.members=3 needs a hidden layer"),
        ({"sources": True}, "model.head.sources=True needs a hidden layer"),
    ],
)
def test_values_that_make_no_head_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        HeadSettings(**settings)  # type: ignore[arg-type]
