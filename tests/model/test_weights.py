"""Weight files: published layouts in, equal logits out; everything else refused; the prepared form."""

import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import lesson

from spamlit.assets import ASSETS, Asset, AssetError
from spamlit.model import weights
from spamlit.model.generate import generate
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.weights import load_backbone, prepared_path, read_gpt2, read_llama_gguf, weights_sha256


def built(config, tensors):
    model = GPT(config)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def with_masks(state, config):
    """The 160 tensors of the hub's file are parameters and these buffers."""
    mask = torch.ones(config.context, config.context).tril()[None, None]
    masks = {f"h.{n}.attn.bias": mask.clone() for n in range(config.n_layer)}
    return state | masks | {f"h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(config.n_layer)}


# GPT-2, safetensors


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("masks", [False, True])
def test_gpt2_in_the_hubs_layout_gives_the_same_logits(
    tmp_path, gpt2_like, random_gpt, random_batch, gpt2_layout, peer, prefix, masks
):
    model = random_gpt(gpt2_like)
    state = with_masks(gpt2_layout(model), gpt2_like) if masks else gpt2_layout(model)
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "m.safetensors")
    loaded = built(gpt2_like, read_gpt2(tmp_path / "m.safetensors", gpt2_like))
    tokens, _ = random_batch(gpt2_like, [11, 11])
    torch.testing.assert_close(loaded.logits(loaded(tokens)), peer(model)(tokens).logits, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_gpt2_as_transformers_saves_it(tmp_path, gpt2_like, random_gpt, random_batch, peer):
    theirs = peer(random_gpt(gpt2_like))
    theirs.save_pretrained(tmp_path)
    loaded = built(gpt2_like, read_gpt2(tmp_path / "model.safetensors", gpt2_like))
    tokens, _ = random_batch(gpt2_like, [11])
    torch.testing.assert_close(loaded.logits(loaded(tokens)), theirs(tokens).logits, rtol=1e-5, atol=1e-4)


def test_half_precision_files_become_float32(tmp_path, gpt2_like, random_gpt, gpt2_layout):
    state = {name: value.half() for name, value in gpt2_layout(random_gpt(gpt2_like)).items()}
    save_file(state, tmp_path / "m.safetensors")
    loaded = built(gpt2_like, read_gpt2(tmp_path / "m.safetensors", gpt2_like))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_tied_head_is_accepted_and_another_refused(tmp_path, gpt2_like, random_gpt, gpt2_layout):
    state, path = gpt2_layout(random_gpt(gpt2_like)), tmp_path / "m.safetensors"
    save_file(state | {"lm_head.weight": state["wte.weight"].clone()}, path)
    assert len(dict(read_gpt2(path, gpt2_like))) == len(list(GPT(gpt2_like).parameters()))
    save_file(state | {"lm_head.weight": state["wte.weight"] + 1}, path)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from wte\.weight"):
        read_gpt2(path, gpt2_like)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("h.1.ln_1.bias"), r"1 tensors missing \(h\.1\.ln_1\.bias\)"),
        (lambda s: s.update({"h.3.ln_1.bias": torch.ones(32)}), r"1 unexpected \(h\.3\.ln_1\.bias\)"),
        (lambda s: s.update({"wpe.weight": torch.ones(40, 32)}), r"wpe\.weight \(40, 32\), not \(48, 32\)"),
        (lambda s: s.update({"h.0.attn.bias": torch.ones(32)}), r"1 unexpected \(h\.0\.attn\.bias\)"),
    ],
    ids=["missing", "unexpected", "shape", "a bias is no mask"],
)
def test_gpt2_files_that_do_not_fit_are_refused(tmp_path, gpt2_like, random_gpt, gpt2_layout, change, message):
    state = gpt2_layout(random_gpt(gpt2_like))
    change(state)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=rf"does not hold weights of gpt2-like: .*{message}"):
        read_gpt2(tmp_path / "m.safetensors", gpt2_like)


def test_weights_of_another_architecture_give_a_short_message(tmp_path, gpt2_like, llama_like, random_gpt, peer):
    peer(random_gpt(llama_like)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"40 tensors missing .* unexpected") as error:
        read_gpt2(tmp_path / "model.safetensors", gpt2_like)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("read", [read_gpt2, read_llama_gguf])
@pytest.mark.parametrize("content", [b"", b"no weights at all" * 99])
def test_files_of_another_kind_are_refused(tmp_path, gpt2_like, read, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a (safetensors|GGUF) file"):
        read(tmp_path / "m", gpt2_like)


# Llama, GGUF


@pytest.mark.parametrize(("quantized", "tolerance"), [(False, 1e-5), (True, 0.1)])
def test_gguf_gives_the_logits_of_transformers(
    tmp_path, llama_like, random_gpt, random_batch, peer, write_gguf, quantized, tolerance
):
    model = random_gpt(llama_like)
    write_gguf(tmp_path / "m.gguf", model, quantized=quantized)
    loaded = built(llama_like, read_llama_gguf(tmp_path / "m.gguf", llama_like))
    tokens, _ = random_batch(llama_like, [11, 11])
    ours, theirs = loaded.logits(loaded(tokens)), peer(model)(tokens).logits
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    same = peer(loaded)(tokens).logits  # with the same dequantized weights, exactly the same function
    assert (ours - same).abs().max() <= 1e-5 * same.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": 500.0}, r"llama\.rope\.freq_base is 1000\.0, not 500\.0"),
        ({"norm_eps": 1e-6}, "layer_norm_rms_epsilon"),
        ({"n_layer": 2}, r"llama\.block_count is 3, not 2"),
        ({"n_kv_head": 3}, r"head_count_kv is 2, not 3"),
        ({"vocab_size": 98}, r"token_embd\.weight \(97, 96\), not \(98, 96\)"),
    ],
)
def test_gguf_files_that_do_not_fit_are_refused(tmp_path, llama_like, random_gpt, write_gguf, change, message):
    write_gguf(tmp_path / "m.gguf", random_gpt(llama_like), quantized=False)
    with pytest.raises(ValueError, match=message):
        read_llama_gguf(tmp_path / "m.gguf", replace(llama_like, **change))


# Loading by name


@pytest.fixture
def published(tmp_path, monkeypatch, gpt2_like, random_gpt, gpt2_layout):
    """A backbone ``small`` whose published file is on this disk, in a cache of its own."""
    model, path = random_gpt(gpt2_like), tmp_path / "published.safetensors"
    save_file(gpt2_layout(model), path)
    asset = Asset("small", "ab" * 32, 1, ASSETS["gpt2"].sources)
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CONFIGS, "small", gpt2_like)
    monkeypatch.setitem(weights.SOURCES, "small", ("small", read_gpt2))
    monkeypatch.setattr(weights, "ASSETS", {"small": asset})
    fetched = []
    monkeypatch.setattr(weights, "fetch", lambda asset, progress: fetched.append(asset.name) or path)
    return model, fetched


def test_the_prepared_form_is_made_once_and_mapped(published):
    model, fetched = published
    for _ in range(2):
        loaded = load_backbone("small")
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert fetched == ["small"]
    assert prepared_path("small").name == "small-abababababababab-v1.safetensors"
    assert load_file(prepared_path("small")).keys() == model.state_dict().keys()  # readable by anyone


@pytest.mark.fault("corruption", "prepared weights")
def test_a_damaged_prepared_file_is_made_again(published):
    model, fetched = published
    path = prepared_path("small")
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], whole[:20], b"", whole + b"x"):
        path.write_bytes(damaged)
        assert torch.equal(load_backbone("small").norm.weight, model.norm.weight)
        assert path.read_bytes() == whole
    assert len(fetched) == 6


def test_a_depth_cut_of_pretrained_weights_keeps_the_lowest_blocks(published):
    model, _ = published
    cut = load_backbone("small", n_layer=2)
    assert len(cut.blocks) == 2
    assert torch.equal(cut.blocks[1].mlp.up.weight, model.blocks[1].mlp.up.weight)


def test_no_room_for_the_prepared_form_is_an_asset_error(published, monkeypatch):
    monkeypatch.setattr(weights, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(AssetError, match=r"No space left on device.*SPAMLIT_CACHE"):
        load_backbone("small")
    assert not list((weights.cache_dir() / "weights").glob(".*tmp"))


def test_random_weights_by_name():
    assert torch.equal(
        load_backbone("tiny", weights="random", seed=5).norm.weight, GPT.random(CONFIGS["tiny"], 5).norm.weight
    )
    assert len(load_backbone("tiny", weights="random", n_layer=1).blocks) == 1


def test_random_weights_of_torch_are_the_lessons_own(monkeypatch, gpt2_like):
    monkeypatch.setitem(CONFIGS, "small", gpt2_like)
    before = torch.get_rng_state()
    ours = load_backbone("small", weights="random_torch", seed=lesson.SEED)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        theirs = lesson.new_model(gpt2_like).state_dict()
        converted = lesson.model_with_weights_of(ours).state_dict()
    del theirs["out_head.weight"]  # which the classifier's head replaces
    assert all(torch.equal(converted[name], value) for name, value in theirs.items())


def test_weights_of_other_kinds_and_seeds_have_other_names():
    names = {weights_sha256("tiny", weights=kind, seed=seed) for kind in ("random", "random_torch") for seed in (1, 2)}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gpt3"}, "backbone=gpt3: choose one of gpt2, "),
        ({"name": "tiny"}, r"tiny has no pretrained weights: use backbone\.weights=random"),
        ({"name": "tiny", "weights": "zero"}, r"backbone\.weights=zero: choose one of pretrained, random"),
        ({"name": "tiny", "weights": "random", "n_layer": 5}, r"n_layer=5: tiny can be cut to 1\.\.4"),
    ],
)
def test_unknown_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(**arguments)


def test_the_fingerprint_names_the_weights():
    assert weights_sha256("smollm2-135m", n_layer=10) == ASSETS["SmolLM2-135M-Instruct.Q4_1.gguf"].sha256
    random = {weights_sha256("tiny", weights="random", seed=seed, n_layer=n) for seed in (0, 1) for n in (2, 3)}
    assert len(random) == 4
    assert len(weights_sha256("gpt2-xl")) > 12


# The real SmolLM2


@pytest.mark.assets
def test_real_smollm2_equals_transformers_and_knows_paris(peer):
    model = load_backbone("smollm2-135m")
    ids = [504, 3575, 282, 4649, 314]  # "The capital of France is"
    tokens = torch.tensor([ids])
    with torch.no_grad():
        ours, theirs = model.logits(model(tokens)), peer(model)(tokens).logits
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert generate(model, ids, 1) == [7042]  # " Paris"


@pytest.mark.assets
def test_real_weights_map_in_under_a_second():
    prepared_path("smollm2-135m")
    began = time.process_time()
    model = load_backbone("smollm2-135m")
    assert time.process_time() - began < 1.0
    assert model.blocks[29].mlp.down.weight.shape == (576, 1536)
