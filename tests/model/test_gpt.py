"""The backbones: parity with `transformers`, block ranges, chosen positions, initialisation."""

import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from spamlit.model.attention import Attention, pick
from spamlit.model.gpt import CONFIGS, GPT, initial_state, packed_rows


def close(a, b, rtol=1e-5):
    """Equal up to `rtol` of the largest value."""
    return (a - b).abs().max() <= rtol * b.abs().max()


def set_absorb(model, value):
    for module in model.modules():
        if isinstance(module, Attention):
            module.absorb = value


def test_logits_equal_transformers(config, random_gpt, random_batch, peer):
    model = random_gpt(config)
    tokens, _ = random_batch(config, [17, 17])
    with torch.no_grad():
        assert close(model.logits(model(tokens)), peer(model)(tokens).logits)


def test_logits_of_a_padded_batch_equal_transformers(config, random_gpt, random_batch, peer):
    model = random_gpt(config)
    tokens, lengths = random_batch(config, [17, 1, 9])
    real = torch.arange(17) < lengths[:, None]
    with torch.no_grad():
        theirs = peer(model)(tokens, attention_mask=real.long()).logits
        assert close(model.logits(model(tokens, lengths=lengths))[real], theirs[real])


@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_reach_real_positions(config, random_gpt, random_batch, causal):
    model = random_gpt(config)
    tokens, lengths = random_batch(config, [12, 5])
    alone = model(tokens[1:, :5], causal=causal)
    assert close(model(tokens, lengths=lengths, causal=causal)[1:, :5], alone)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chosen", [None, [[11], [4], [0]]])
def test_skipping_the_padding_changes_no_value_and_no_gradient(
    config, random_gpt, random_batch, causal, chosen, monkeypatch
):
    model = random_gpt(config)
    tokens, lengths = random_batch(config, [12, 5, 1])
    positions = chosen and torch.tensor(chosen)
    real = torch.arange(12) < lengths[:, None] if chosen is None else torch.ones(3, 1, dtype=torch.bool)

    def run():
        model.zero_grad()
        out = model(tokens, lengths=lengths, positions=positions, causal=causal)[real]
        out.sin().sum().backward()
        return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    skipped, gradients = run()
    monkeypatch.setattr("spamlit.model.gpt.packed_rows", lambda *_: None)
    plain, plain_gradients = run()
    assert close(skipped, plain)
    scale = max(gradient.abs().max() for gradient in plain_gradients.values())
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert (gradients[name] - gradient).abs().max() < 1e-5 * scale, name


@pytest.mark.parametrize(("lengths", "packed"), [([10, 10, 10], False), ([10, 9, 9], False), ([10, 9, 5], True)])
def test_rows_are_packed_where_more_than_a_tenth_is_padding(lengths, packed):
    packing = packed_rows(torch.tensor(lengths), 10)
    assert (packing is not None) == packed
    assert packed_rows(None, 10) is None
    if packing:
        assert packing.position.tolist() == [t for n in lengths for t in range(n)]
        x = torch.randn(24, 2)
        assert torch.equal(packing.pack(packing.unpack(x)), x)
        assert packing.unpack(x)[2, 5:].eq(0).all()


def test_without_lengths_padding_takes_part_unless_causal(config, random_gpt, random_batch):
    model = random_gpt(config)
    tokens, _ = random_batch(config, [12, 5])
    alone = model(tokens[1:, :5], causal=False)
    assert not close(model(tokens, causal=False)[1:, :5], alone, rtol=1e-2)


def test_causal_positions_do_not_see_later_tokens_and_others_do(config, random_gpt, random_batch):
    model = random_gpt(config)
    tokens, _ = random_batch(config, [12])
    changed = tokens.clone()
    changed[0, 7] += 1
    assert torch.equal(model(tokens)[:, :7], model(changed)[:, :7])
    assert not close(model(tokens, causal=False)[:, :7], model(changed, causal=False)[:, :7])


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_block_ranges_compose(config, random_gpt, random_batch, cut):
    model = random_gpt(config)
    tokens, _ = random_batch(config, [12, 12])
    assert torch.equal(model(model(tokens, stop=cut), start=cut), model(tokens))


@pytest.mark.parametrize("absorb", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [[[11], [4]], [[0], [0]], [[0, 3, 4], [2, 2, 1]]])
def test_chosen_positions_equal_all(config, random_gpt, random_batch, causal, positions, absorb):
    model, positions = random_gpt(config), torch.tensor(positions)
    set_absorb(model, absorb)
    tokens, lengths = random_batch(config, [12, 5])
    chosen = model(tokens, lengths=lengths, positions=positions, causal=causal)
    assert close(chosen, pick(model(tokens, lengths=lengths, causal=causal), positions))


def test_chosen_positions_of_an_empty_range_are_picked(config, random_gpt, random_batch):
    model = random_gpt(config)
    hidden = model(random_batch(config, [6])[0])
    assert torch.equal(model(hidden, start=3, positions=torch.tensor([[5]])), hidden[:, 5:])


@pytest.mark.parametrize("causal", [True, False])
def test_absorbed_attention_equals_plain_in_value_and_gradient(config, random_gpt, random_batch, causal, monkeypatch):
    model = random_gpt(config)
    tokens, lengths = random_batch(config, [40, 23, 1])
    calls = []
    absorbed = Attention._absorbed
    monkeypatch.setattr(Attention, "_absorbed", lambda *args: calls.append(1) or absorbed(*args))

    def run(absorb):
        set_absorb(model, absorb)
        model.zero_grad()
        out = model(tokens, lengths=lengths, positions=lengths[:, None] - 1, causal=causal)
        out.sin().sum().backward()
        return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    (plain, plain_grads), (fast, fast_grads) = run(False), run(True)
    assert len(calls) == 1
    assert close(fast, plain)
    assert plain_grads.keys() == fast_grads.keys()
    scale = max(grad.abs().max() for grad in plain_grads.values())
    for name, grad in plain_grads.items():
        assert close(fast_grads[name], grad) or (fast_grads[name] - grad).abs().max() < 1e-6 * scale, name


def test_absorbed_attention_drops_weights_without_bias(gpt2_like, random_gpt, random_batch):
    """The mean over dropout masks tends to the value without dropout, value bias included."""
    model = random_gpt(gpt2_like)
    attention = model.blocks[0].attention
    attention.dropout = 0.3
    x = model(random_batch(gpt2_like, [12])[0], stop=0).expand(4000, -1, -1)
    where = torch.full((4000, 1), 11)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = attention.train()(x, positions=where)
        exact = attention.eval()(x[:1], positions=where[:1])
    assert close(dropped.mean(0), exact[0], rtol=0.05)
    assert not close(dropped[0], exact[0], rtol=0.05)


def test_wrapped_projections_take_the_plain_path(gpt2_like, random_gpt, random_batch, monkeypatch):
    class Wrapped(torch.nn.Linear):
        """Stands for LoRA: not exactly nn.Linear any more."""

    model = random_gpt(gpt2_like)
    tokens, lengths = random_batch(gpt2_like, [12, 5])
    expected = model(tokens, positions=lengths[:, None] - 1)
    model.blocks[-1].attention.value.__class__ = Wrapped
    monkeypatch.delattr(Attention, "_absorbed")
    assert close(model(tokens, positions=lengths[:, None] - 1), expected)


def test_depth_cut_runs_the_lowest_blocks(config, random_gpt, random_batch):
    model = random_gpt(config)
    short = GPT(config.cut(2))
    short.load_state_dict({name: model.state_dict()[name] for name, _ in short.named_parameters()}, assign=True)
    tokens, _ = random_batch(config, [9])
    assert torch.equal(short(tokens), model(tokens, stop=2))


@pytest.mark.parametrize("n_layer", [0, 4, -1])
def test_depth_cut_beyond_the_model_is_refused(config, n_layer):
    with pytest.raises(ValueError, match=rf"n_layer={n_layer}: .* 1\.\.3"):
        config.cut(n_layer)


def test_impossible_architectures_are_refused(config):
    with pytest.raises(ValueError, match=r"multiple of n_head"):
        replace(config, n_head=5)
    with pytest.raises(ValueError, match=r"even head size"):
        replace(config, n_embd=3 * config.n_head, position="rotary")


def test_more_tokens_than_the_context_are_refused(config, random_gpt):
    with pytest.raises(ValueError, match=r"49 tokens exceed the context of .* 48"):
        random_gpt(config)(torch.zeros(1, 49, dtype=torch.int64))


def test_token_ids_cannot_enter_a_later_block(config, random_gpt):
    with pytest.raises(ValueError, match=r"block 1 takes hidden states"):
        random_gpt(config)(torch.zeros(1, 4, dtype=torch.int64), start=1)


def test_initialisation_has_the_statistics_of_transformers_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = replace(CONFIGS["tiny"], vocab_size=997, n_embd=128, n_inner=512)
    model = GPT.random(config, seed=3)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=997, n_positions=1024, n_embd=128, n_layer=4, n_head=4)).transformer
    pairs = [
        ("token_embedding.weight", theirs.wte.weight),
        ("position_embedding.weight", theirs.wpe.weight),
        ("blocks.0.attention.query.weight", theirs.h[0].attn.c_attn.weight),
        ("blocks.0.attention.out.weight", theirs.h[0].attn.c_proj.weight),
        ("blocks.1.mlp.up.weight", theirs.h[1].mlp.c_fc.weight),
        ("blocks.1.mlp.down.weight", theirs.h[1].mlp.c_proj.weight),
    ]
    for name, expected in pairs:
        ours = model.get_parameter(name)
        assert ours.std().item() == pytest.approx(expected.std().item(), rel=0.05), name
        assert abs(ours.mean().item()) < 1e-3
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.all(parameter == (0.0 if name.endswith("bias") else 1.0)), name


def test_initialisation_depends_on_its_seed_alone():
    before = torch.get_rng_state()
    first, again = GPT.random(CONFIGS["tiny"], 7).state_dict(), GPT.random(CONFIGS["tiny"], 7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = initial_state(GPT(CONFIGS["tiny"]), 8)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])


def test_dropout_acts_in_trained_blocks_in_train_mode_only(config, random_gpt, random_batch):
    model = random_gpt(config)
    tokens, _ = random_batch(config, [9, 9])
    plain = model(tokens)
    model.set_dropout(0.5, start=2)
    assert torch.equal(model(tokens), plain)
    model.train()
    assert torch.equal(model(tokens, stop=2), model(tokens, stop=2))
    assert not torch.equal(model(tokens), model(tokens))
    model.set_dropout(0.5)
    assert not torch.equal(model(tokens, stop=0), model(tokens, stop=0))
    with pytest.raises(ValueError, match=r"model.dropout=1.0"):
        model.set_dropout(1.0)


@pytest.mark.parametrize(("name", "millions"), [("gpt2", 124.44), ("gpt2-xl", 1557.61), ("smollm2-135m", 134.52)])
def test_published_sizes(name, millions):
    count = sum(parameter.numel() for parameter in GPT(CONFIGS[name]).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def test_without_gradients_the_model_computes_the_same(config, random_gpt, random_batch):
    model = random_gpt(config)
    tokens, lengths = random_batch(config, [12, 5])
    with torch.no_grad():
        fast = model(tokens, lengths=lengths)
    assert close(model.norm(model(tokens, lengths=lengths)), model.norm(fast))


def test_keeping_freed_memory_spares_page_faults():
    """In a process of its own: the setting stays for the rest of it."""
    code = """
import resource, torch
from spamlit.model.allocator import keep_freed_memory
effect = keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(20_000_000)
print(effect, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    touched = 20 * 80_000_000 / resource.getpagesize()
    assert answer[0] == "False" or int(answer[1]) < touched / 2
