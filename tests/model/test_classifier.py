"""The classifier: pooling, what is trained, prefix and suffix, trained state."""

import itertools

import pytest
import torch

from spamlit.model.attention import Attention
from spamlit.model.classifier import Classifier
from spamlit.model.head import HeadSettings
from spamlit.model.pooling import POOLINGS, READS_PADDING, pool

CHOICES = [("none", 4), ("head", 4), ("last_block", 2), ("last_two_blocks", 1), ("all", None)]
READS_REAL_ONLY = ["last_nonpad", "mean_nonpad", "mean_nonfirst", "first"]


def trained_names(classifier):
    return {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}


def test_unknown_choices_list_the_valid_ones(config, random_gpt):
    with pytest.raises(
        ValueError, match=r"model.pooling=lst: choose one of last_nonpad, mean_nonpad, mean_nonfirst, first, last, mean"
    ):
        Classifier(random_gpt(config), pooling="lst")
    with pytest.raises(ValueError, match=r"model.pooling=lst"):
        pool(torch.zeros(1, 1, 1), torch.tensor([1]), "lst")
    with pytest.raises(
        ValueError, match=r"model.trainable=last_blok: choose one of none, head, last_block, .* all, lora"
    ):
        Classifier(random_gpt(config)).set_trainable("last_blok")


@pytest.mark.parametrize(
    ("trainable", "last_k", "message"),
    [
        ("last_k", None, "model.last_k=None"),
        ("head", 1, "model.last_k=1"),
        ("last_k", 0, r"choose 1\.\.3"),
        ("last_k", 4, r"choose 1\.\.3"),
        ("lora", 0, r"choose 1\.\.3"),
        ("lora", 4, r"choose 1\.\.3"),
    ],
)
def test_choices_that_do_not_fit_are_refused(config, random_gpt, trainable, last_k, message):
    with pytest.raises(ValueError, match=message):
        Classifier(random_gpt(config)).set_trainable(trainable, last_k)


def test_each_choice_trains_what_it_says(gpt2_like, random_gpt):
    classifier = Classifier(random_gpt(gpt2_like))
    everything = {name for name, _ in classifier.named_parameters()}
    head = {"head.weight", "head.bias"}
    norm = {"backbone.norm.weight", "backbone.norm.bias"}
    blocks = [{name for name in everything if name.startswith(f"backbone.blocks.{n}.")} for n in range(3)]
    expected = {
        ("none", None): set(),
        ("head", None): head,
        ("last_block", None): head | norm | blocks[2],
        ("last_two_blocks", None): head | norm | blocks[2] | blocks[1],
        ("last_k", 1): head | norm | blocks[2],
        ("last_k", 3): head | norm | blocks[2] | blocks[1] | blocks[0],
        ("all", None): everything,
    }
    for (trainable, last_k), names in expected.items():
        classifier.set_trainable(trainable, last_k)
        assert trained_names(classifier) == names, trainable
        assert classifier.parameter_counts()[1] == sum(classifier.get_parameter(name).numel() for name in names)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("causal", [True, False])
def test_suffix_of_prefix_is_the_same_function_for_every_boundary(config, random_gpt, random_batch, pooling, causal):
    classifier = Classifier(random_gpt(config), pooling=pooling, causal=causal)
    tokens, lengths = random_batch(config, [12, 5, 1])
    hidden = classifier.backbone(
        tokens, lengths=lengths if pooling in READS_REAL_ONLY else None, causal=causal
    )  # the plain path: all positions
    expected = classifier.head(pool(classifier.backbone.norm(hidden), lengths, pooling))
    for (trainable, boundary), k in itertools.product(CHOICES, [None]):
        classifier.set_trainable(trainable, k)
        assert classifier.boundary == boundary
        torch.testing.assert_close(classifier(tokens, lengths), expected, rtol=1e-5, atol=1e-5)
        assert not classifier.prefix(tokens, lengths).requires_grad


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("causal", [True, False])
def test_layers_are_read_side_by_side(config, random_gpt, random_batch, pooling, causal):
    """Whatever is trained, what comes out is a plain loop over the hidden states."""
    layers = [1, 3]
    classifier = Classifier(random_gpt(config), pooling=pooling, causal=causal, layers=layers)
    tokens, lengths = random_batch(config, [12, 5, 1])
    visible = lengths if pooling in READS_REAL_ONLY else None
    states = [classifier.backbone(tokens, stop=n, lengths=visible, causal=causal) for n in layers]
    read = torch.cat([pool(classifier.backbone.norm(state), lengths, pooling) for state in states], dim=1)
    assert read.shape == (3, 2 * config.n_embd)
    for trainable, boundary in [("head", 4), ("last_block", 1), ("last_two_blocks", 1), ("lora", 0), ("all", None)]:
        classifier.set_trainable(trainable)
        assert classifier.boundary == boundary
        torch.testing.assert_close(classifier(tokens, lengths), classifier.head(read), rtol=1e-5, atol=1e-5)


def test_the_last_layer_alone_is_the_default(config, random_gpt, random_batch):
    batch = random_batch(config, [12, 5, 1])
    assert torch.equal(Classifier(random_gpt(config), layers=[3])(*batch), Classifier(random_gpt(config))(*batch))


def test_dropout_leaves_frozen_blocks_alone_above_a_layer_that_is_read(config, random_gpt, random_batch):
    classifier = Classifier(random_gpt(config), dropout=0.5, layers=[1, 3])
    classifier.set_trainable("last_block")
    assert [block.dropout for block in classifier.backbone.blocks] == [0, 0, 0.5]


@pytest.mark.parametrize("layers", [[], [3, 1], [1, 1, 3], [1, 2], [1, 4], [0, 3], ["1", 3], [1.5, 3]])
def test_layers_that_do_not_fit_are_refused(config, random_gpt, layers):
    with pytest.raises(ValueError, match=r"model.layers=.*the backbone's depth, 3"):
        Classifier(random_gpt(config), layers=layers)


def test_the_boundary_lies_at_the_lowest_trained_parameter(config, random_gpt):
    classifier = Classifier(random_gpt(config))
    classifier.set_trainable("last_k", 3)
    assert classifier.boundary == 0  # the embeddings are frozen
    classifier.set_trainable("last_block")
    assert classifier.boundary == 2
    classifier.set_trainable("head")
    assert classifier.boundary == 4
    classifier.set_trainable("all")
    assert classifier.boundary is None


@pytest.mark.parametrize("pooling", READS_REAL_ONLY)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_never_matters_to_poolings_of_real_tokens(config, random_gpt, random_batch, pooling, causal):
    classifier = Classifier(random_gpt(config), pooling=pooling, causal=causal)
    classifier.set_trainable("last_block")
    tokens, lengths = random_batch(config, [9, 4])
    longer = torch.cat((tokens, torch.full((2, 7), 5)), dim=1)
    for i in (tokens, longer):
        torch.testing.assert_close(classifier(i, lengths)[1:], classifier(tokens[1:, :4], lengths[1:]))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_padding_takes_part_where_the_recipe_says_so(config, random_gpt, random_batch, pooling):
    classifier = Classifier(random_gpt(config), pooling=pooling)
    tokens, lengths = random_batch(config, [9, 4])
    alone = classifier(tokens[1:, :4], lengths[1:])
    assert (classifier(tokens, lengths)[1:] - alone).abs().max() > 1e-3


@pytest.mark.parametrize(("trainable", "_"), CHOICES[1:])
def test_gradients_reach_exactly_the_trained_parameters(config, random_gpt, random_batch, trainable, _):
    classifier = Classifier(random_gpt(config))
    classifier.set_trainable(trainable)
    classifier(*random_batch(config, [9, 4])).sum().backward()
    with_gradient = {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    assert with_gradient == trained_names(classifier)


def test_training_curves_of_plain_and_absorbed_attention_agree(config, random_gpt, random_batch):
    def losses(absorb):
        classifier = Classifier(random_gpt(config))
        classifier.set_trainable("last_two_blocks")
        for module in classifier.modules():
            if isinstance(module, Attention):
                module.absorb = absorb
        optimizer = torch.optim.AdamW([p for p in classifier.parameters() if p.requires_grad], lr=1e-3)
        batch, labels, curve = random_batch(config, [9, 4, 12, 7]), torch.tensor([0, 1, 1, 0]), []
        for _ in range(10):
            loss = torch.nn.functional.cross_entropy(classifier(*batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        return curve

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)


def test_the_head_is_the_lessons_and_the_global_rng_stays(config, random_gpt):
    before = torch.get_rng_state()
    head = Classifier(random_gpt(config)).head
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        lesson = torch.nn.Linear(config.n_embd, 2)
    assert torch.equal(head.weight, lesson.weight)
    assert torch.equal(head.bias, lesson.bias)
    assert Classifier(random_gpt(config), head_bias=False, n_classes=3).head.weight.shape == (3, config.n_embd)


def test_dropout_leaves_the_frozen_part_alone(config, random_gpt, random_batch):
    classifier = Classifier(random_gpt(config), dropout=0.5)
    classifier.set_trainable("last_block")
    batch = random_batch(config, [9, 4])
    classifier.eval()
    still, calm = classifier.prefix(*batch), classifier(*batch)
    classifier.train()
    assert torch.equal(classifier.prefix(*batch), still)
    assert not torch.equal(classifier(*batch), calm)


def test_trained_state_travels_and_is_strict(config, random_gpt, random_batch):
    trained, fresh = Classifier(random_gpt(config)), Classifier(random_gpt(config), head_seed=7)
    for classifier in (trained, fresh):
        classifier.set_trainable("last_block")
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    batch = random_batch(config, [9, 4])
    assert not torch.equal(fresh(*batch), trained(*batch))
    fresh.load_trained_state(trained.trained_state())
    assert torch.equal(fresh(*batch), trained(*batch))
    with pytest.raises(ValueError, match=r"missing, unexpected.*head.weight"):
        fresh.load_trained_state({k: v for k, v in trained.trained_state().items() if k != "head.weight"})
    with pytest.raises(ValueError, match=r"head\.weight"):
        fresh.load_trained_state(trained.trained_state() | {"head.weight": torch.zeros(3, 3)})


def test_trained_parameters_get_memory_of_their_own(config, random_gpt):
    backbone = random_gpt(config)
    kept = {name: parameter.data_ptr() for name, parameter in backbone.named_parameters()}
    Classifier(backbone).set_trainable("last_block")
    for name, parameter in backbone.named_parameters():
        assert (parameter.data_ptr() != kept[name]) == parameter.requires_grad, name


@pytest.mark.parametrize("pooling", [pooling for pooling in POOLINGS if pooling not in READS_PADDING])
def test_beginnings_are_what_forward_says_of_them(config, random_gpt, random_batch, pooling):
    classifier = Classifier(random_gpt(config), pooling=pooling, layers=[1, 3]).eval()
    tokens, lengths = random_batch(config, [9, 4, 1])
    with torch.inference_mode():
        found = classifier.beginnings(tokens, lengths)
        for row, length in enumerate(lengths.tolist()):
            for t in range(length):
                alone = classifier(tokens[row : row + 1, : t + 1], torch.tensor([t + 1]))
                torch.testing.assert_close(found[row, t], alone[0], atol=1e-4, rtol=1e-4)


def test_beginnings_are_spelled_as_far_as_they_go(llama_like, random_gpt, random_batch):
    head = HeadSettings(hidden=8, spelling=32, sources=True, block=1e-3)
    classifier = Classifier(random_gpt(llama_like), pooling="mean_nonfirst", layers=[1, 3], head=head).eval()
    classifier.head.spellings.random_(97, 123, generator=torch.Generator().manual_seed(0))
    tokens, lengths = random_batch(llama_like, [9, 4])
    with torch.inference_mode():
        found = classifier.beginnings(tokens, lengths)
        for row, t in ((0, 2), (0, 8), (1, 0), (1, 3)):
            alone = classifier(tokens[row : row + 1, : t + 1], torch.tensor([t + 1]))
            torch.testing.assert_close(found[row, t], alone[0], atol=1e-4, rtol=1e-4)


def with_block(backbone, **settings):
    """A classifier whose head has a block of its own."""
    head = HeadSettings(hidden=8, block=1e-3)
    return Classifier(backbone, head=head, **{"pooling": "mean_nonfirst", "layers": [1, 3], **settings})


@pytest.mark.parametrize("causal", [True, False])
def test_the_heads_own_block_begins_as_a_copy_and_reads_the_last_token(config, random_gpt, random_batch, causal):
    classifier = with_block(random_gpt(config), causal=causal)
    tokens, lengths = random_batch(config, [9, 4, 1])
    hidden = classifier.backbone(tokens, lengths=lengths, causal=causal)
    last = classifier.backbone.norm(hidden)[torch.arange(3), lengths - 1]
    said = classifier.block.linear(last)
    expected = classifier.head(classifier.prefix(tokens, lengths), said)
    torch.testing.assert_close(classifier(tokens, lengths), expected, rtol=1e-4, atol=1e-5)
    below = classifier.below(tokens, lengths)
    apart = classifier.suffix(classifier.prefix(tokens, lengths), lengths, tokens, below)
    torch.testing.assert_close(apart, expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_the_heads_own_block_too(gpt2_like, random_gpt, random_batch):
    classifier = with_block(random_gpt(gpt2_like), dropout=0.5)
    classifier.set_trainable("head")
    batch = random_batch(gpt2_like, [9, 4])
    below = classifier.below(*batch)
    said = [classifier.train()._block_logits(below, batch[1]) for _ in range(2)]
    assert not torch.equal(*said)
    said = [classifier.eval()._block_logits(below, batch[1]) for _ in range(2)]
    assert torch.equal(*said)


def test_the_heads_own_block_learns_and_the_backbones_stays(gpt2_like, random_gpt, random_batch):
    classifier = with_block(random_gpt(gpt2_like))
    classifier.set_trainable("head")
    tokens, lengths = random_batch(gpt2_like, [9, 4])
    losses = classifier.learn_block(classifier.below(tokens, lengths), lengths, torch.tensor([1, -100]))
    assert (losses == 0).tolist() == [False, True]
    losses.sum().backward()
    learned = {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in classifier.named_parameters() if name.startswith("head.block.")}
    assert set(classifier.trained_state()) >= learned


def test_what_a_block_of_the_heads_own_does_not_go_with_is_refused(gpt2_like, random_gpt):
    with pytest.raises(ValueError, match=r"model.head.block=0.001 reads no padding, model.pooling=mean does"):
        with_block(random_gpt(gpt2_like), pooling="mean")
    with pytest.raises(ValueError, match=r"model.trainable=last_block: .* model.trainable=head"):
        with_block(random_gpt(gpt2_like)).set_trainable("last_block")


@pytest.mark.parametrize("choice", [{"pooling": "mean"}, {"causal": False}])
def test_beginnings_that_depend_on_the_rest_are_refused(gpt2_like, random_gpt, choice):
    classifier = Classifier(random_gpt(gpt2_like), **choice)
    with pytest.raises(ValueError, match="beginnings need passes of their own"):
        classifier.beginnings(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]))
