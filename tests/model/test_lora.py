"""LoRA: a start that changes nothing, what is trained, merging, and the lesson's own layers."""

import itertools

import pytest
import torch
from tests import lesson

from spamlit.model.attention import Attention
from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.lora import BLOCK_TARGETS, TARGETS, LoRA, LoRALinear, merge_state, merged
from spamlit.model.pooling import POOLINGS

ROW_11 = LoRA(rank=16, alpha=16, scaling="alpha", init="rank", targets=TARGETS)


@pytest.fixture
def adapted(random_gpt):
    """adapted(config, LoRA(rank=2), last_k=1, moved=True) is a classifier with LoRA, moved from B = 0 if wanted."""

    def made(config, lora=None, last_k=None, moved=False, **options):
        classifier = Classifier(random_gpt(config), **options)
        classifier.set_trainable("lora", last_k, lora)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in classifier.named_parameters():
            if moved and name.endswith(".lora_b"):
                parameter.data.normal_(0, 0.1, generator=generator)
        return classifier.eval()

    return made


def layers(classifier):
    return {name: layer for name, layer in classifier.named_modules() if isinstance(layer, LoRALinear)}


def plain_attention(classifier):
    for module in classifier.modules():
        if isinstance(module, Attention):
            module.absorb = False


@pytest.mark.parametrize("pooling", POOLINGS)
def test_starts_from_the_frozen_model_to_the_bit(config, random_gpt, random_batch, adapted, pooling):
    batch = random_batch(config, [12, 5, 1])
    base = Classifier(random_gpt(config), pooling=pooling).eval()
    plain_attention(base)  # the shortcut is equal only up to rounding; LoRA's layers do not take it
    with torch.no_grad():
        assert torch.equal(adapted(config, ROW_11, pooling=pooling)(*batch), base(*batch))


def test_trains_its_matrices_and_the_head_alone(config, random_batch, adapted):
    classifier = adapted(config, LoRA(rank=2, targets=BLOCK_TARGETS), moved=True)
    classifier(*random_batch(config, [9, 4])).sum().backward()
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    per_block = 7 if config.mlp == "swiglu" else 6
    assert len(layers(classifier)) == 3 * per_block
    matrices = {f"{name}.lora_{which}" for name in layers(classifier) for which in "ab"}
    assert trained == matrices | {"head.weight", "head.bias"} == classifier.trained_state().keys()


@pytest.mark.parametrize(
    ("targets", "last_k", "boundary"),
    [(BLOCK_TARGETS, None, 0), ("value", 1, 2), (["query", "down"], 2, 1), (["head"], None, 4)],
)
def test_the_prefix_ends_at_the_lowest_adapted_block(config, random_batch, adapted, targets, last_k, boundary):
    classifier = adapted(config, LoRA(rank=2, targets=targets), last_k, moved=True)
    assert classifier.boundary == boundary
    tokens, lengths = random_batch(config, [12, 5, 1])
    prefix = classifier.prefix(tokens, lengths)
    assert not prefix.requires_grad
    whole = classifier.head(classifier.backbone.norm(classifier.backbone(tokens))[torch.arange(3), lengths - 1])
    torch.testing.assert_close(classifier.suffix(prefix, lengths), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["query", "key", "value", "out"])
def test_attention_at_one_position_is_right_whichever_projection_is_adapted(config, random_batch, adapted, target):
    """Its shortcut reads the weights of key and value: it may be taken only where these are plain."""
    classifier = adapted(config, LoRA(rank=2, targets=target), moved=True)
    batch = random_batch(config, [12, 5, 1])
    logits = classifier(*batch)
    plain_attention(classifier)
    torch.testing.assert_close(logits, classifier(*batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lora", [LoRA(rank=4, alpha=8), ROW_11], ids=["paper", "lesson"])
def test_merged_computes_the_same_and_ends_without_a_trace(config, random_batch, adapted, lora):
    classifier, batch = adapted(config, lora, moved=True), random_batch(config, [12, 5, 1])
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        logits = classifier(*batch)
        with merged(classifier):
            assert not layers(classifier)
            torch.testing.assert_close(classifier(*batch), logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(classifier(*batch), logits)
    after = classifier.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_merged_state_is_the_merged_model(config, random_batch, adapted, random_gpt):
    classifier, batch = adapted(config, ROW_11, moved=True), random_batch(config, [12, 5])
    plain = Classifier(random_gpt(config)).eval()
    plain.load_state_dict(merge_state(classifier.state_dict(), ROW_11.scale))
    with torch.no_grad(), merged(classifier):
        assert torch.equal(plain(*batch), classifier(*batch))
    lonely = {"out.lora_b": torch.zeros(2, 3), "out.weight": torch.zeros(3, 3)}
    with pytest.raises(KeyError, match=r"out\.lora_a"):
        merge_state(lonely, 1.0)
    broad = {"out.weight": torch.zeros(1), "out.lora_a": torch.zeros(3, 1), "out.lora_b": torch.zeros(1, 4)}
    with pytest.raises(ValueError, match=r"do not fit weight \[1\]"):  # not (4, 3), as broadcasting would have it
        merge_state(broad, 1.0)


def test_another_choice_takes_it_away(config, random_gpt, random_batch):
    classifier, base = (Classifier(random_gpt(config)) for _ in range(2))
    batch = random_batch(config, [9, 4])
    classifier.set_trainable("lora")
    classifier.set_trainable("lora", 1, LoRA(rank=2))
    assert len({name.split(".")[2] for name in layers(classifier)}) == 1
    classifier.set_trainable("last_block")
    base.set_trainable("last_block")
    assert classifier.lora is None
    assert classifier.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(classifier(*batch), base(*batch))


def test_draws_from_a_generator_of_its_own(config, adapted):
    before = torch.get_rng_state()
    first, same, other = (adapted(config, ROW_11, head_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, layer in layers(first).items():
        assert torch.equal(layers(same)[name].lora_a, layer.lora_a)
        assert not torch.equal(layers(other)[name].lora_a, layer.lora_a)
    a = [layer.lora_a for layer in layers(first).values()]
    assert not any(torch.equal(x, y) for x, y in itertools.combinations(a, 2) if x.shape == y.shape)


@pytest.mark.parametrize("init", ["fan_in", "rank"])
def test_the_range_of_a(config, adapted, init):
    for layer in layers(adapted(config, LoRA(rank=4, init=init))).values():
        bound = (layer.in_features if init == "fan_in" else 4) ** -0.5
        assert 0.95 * bound < layer.lora_a.abs().max() <= bound
        assert not layer.lora_b.any()


def test_equal_seeds_draw_what_the_lessons_script_draws(gpt2_like, adapted):
    """Head first, then its `replace_linear_with_lora`: every A of row 11, the head's too."""
    model = lesson.model_with_weights_of(GPT.random(gpt2_like))
    lesson.new_head(model, "lora", rank=16, alpha=16)
    theirs = [module.lora.A for module in model.modules() if hasattr(module, "lora")]
    ours = [layer.lora_a for layer in layers(adapted(gpt2_like, ROW_11)).values()]
    assert len(ours) == len(theirs) == 3 * 6 + 1
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, r"model\.lora\.rank=0: choose a whole number from 1 on"),
        ({"rank": 1.5}, r"model\.lora\.rank=1\.5"),
        ({"alpha": 0}, r"model\.lora\.alpha=0: choose a number above 0"),
        ({"alpha": float("nan")}, r"model\.lora\.alpha=nan"),
        ({"scaling": "rank"}, r"model\.lora\.scaling=rank: choose one of alpha_over_rank, alpha"),
        ({"init": "zeros"}, r"model\.lora\.init=zeros"),
        ({"targets": ["query", "q_proj"]}, r"model\.lora\.targets=.*choose from query, .* head; there is no q_proj"),
        ({"targets": []}, r"model\.lora\.targets=\[\].*at least one"),
    ],
)
def test_values_that_make_no_lora_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**values)


def test_targets_that_an_architecture_lacks_are_refused_where_nothing_is_left(gpt2_like, adapted):
    assert layers(adapted(gpt2_like, LoRA(targets=["gate", "up"])))
    with pytest.raises(ValueError, match=r"gpt2-like has no gate"):
        adapted(gpt2_like, LoRA(targets="gate"))


@pytest.mark.parametrize(
    ("targets", "last_k", "megabytes"),
    [("query value", None, 1.85), ("query key value", None, 2.59), (" ".join(BLOCK_TARGETS), 9, 2.94)],
)
def test_adapters_of_the_default_backbone_are_small(targets, last_k, megabytes):
    """What README says of rank 8: under 3 MB. Every linear layer of every block would be 9.8 MB."""
    classifier = Classifier(GPT(CONFIGS["smollm2-135m"]))
    classifier.set_trainable("lora", last_k, LoRA(rank=8, targets=targets.split()))
    stored = 4 * sum(value.numel() for value in classifier.trained_state().values())
    assert stored / 1e6 == pytest.approx(megabytes, abs=0.01)
