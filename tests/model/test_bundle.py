"""The bundle: whole or not at all, the same classifier back, and nothing damaged gets used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.synthetic import byte_tokenizer

from spamlit.assets import sha256_settings
from spamlit.data.tokenizer import Tokenizer
from spamlit.model import bundle
from spamlit.model.bundle import BundleError, load_bundle, read_settings, save_bundle
from spamlit.model.classifier import Classifier
from spamlit.model.formats import parameter_shapes
from spamlit.model.gpt import GPT
from spamlit.model.head import HeadSettings
from spamlit.model.lora import LoRALinear, merged
from spamlit.model.weights import _write

SETTINGS = {"labels": ["ham", "spam"], "threshold": 0.25, "temperature": 1.0, "max_length": 12, "note": "ü"}
CHOICES = [("none", None), ("head", None), ("last_block", None), ("last_k", 2), ("all", None), ("lora", 2)]


@pytest.fixture
def frozen(tmp_path, gpt2_like, random_gpt) -> Path:
    """The prepared form of a published file, as the cache has it."""
    path = tmp_path / "cache" / "prepared.safetensors"
    path.parent.mkdir()
    _write(path, random_gpt(gpt2_like).state_dict().items(), parameter_shapes(gpt2_like))
    return path


@pytest.fixture
def classifier(gpt2_like, random_gpt) -> Callable[..., Classifier]:
    """classifier("head") is one whose trained parameters have moved away from the backbone's."""

    def made(trainable: str = "last_block", last_k: int | None = None, backbone: GPT | None = None, **options):
        model = Classifier(backbone or random_gpt(gpt2_like), **options)
        model.set_trainable(trainable, last_k)
        with torch.no_grad():
            for parameter in model.trained_state().values():
                if parameter.is_floating_point():
                    parameter.add_(0.1)
        return model.eval()

    return made


def saved(folder, classifier, frozen=None, settings=SETTINGS):
    save_bundle(folder, classifier, settings, byte_tokenizer().save, frozen)
    return folder


@pytest.mark.parametrize(("trainable", "last_k"), CHOICES)
@pytest.mark.parametrize("linked", [True, False])
def test_a_classifier_comes_back(
    tmp_path, classifier, frozen, random_batch, gpt2_like, trainable, last_k, linked
) -> None:
    model = classifier(trainable, last_k)
    folder = saved(tmp_path / "bundle", model, frozen if linked else None)
    loaded, settings = load_bundle(folder)
    tokens, lengths = random_batch(gpt2_like, [12, 5, 1])
    with merged(model):  # which is what comes back of LoRA; elsewhere nothing
        assert torch.equal(loaded(tokens, lengths), model(tokens, lengths))
    assert not any(isinstance(module, LoRALinear) for module in loaded.modules())
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    stored = load_file(folder / "model.safetensors").keys()
    trained = model.trained_state().keys() | {"head.weight", "head.bias"}
    assert stored == (trained if linked else model.state_dict().keys())


@pytest.mark.parametrize("key", ["lora", "layers"])
def test_a_bundle_from_before_a_choice_loads(tmp_path, classifier, random_batch, gpt2_like, key):
    model = classifier()
    folder = saved(tmp_path / "bundle", model)
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    config["sha256"] = sha256_settings(config)
    (folder / "config.json").write_text(json.dumps(config))
    batch = random_batch(gpt2_like, [12, 5])
    assert torch.equal(load_bundle(folder)[0](*batch), model(*batch))


def test_a_bundle_whose_experts_were_mixed_in_another_way_is_refused(tmp_path, classifier, llama_like, random_gpt):
    head = HeadSettings(hidden=8, sources=True)
    folder = saved(tmp_path / "bundle", classifier("head", backbone=random_gpt(llama_like), head=head))
    config = json.loads((folder / "config.json").read_text())
    del config["head"]["block"]
    config["sha256"] = sha256_settings(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=r"not describe a classifier of this version: .* train again"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "options",
    [
        *({"pooling": "mean"}, {"layers": [1, 3]}, {"causal": False}, {"head_bias": False}, {"n_classes": 3}),
        {
            "head": HeadSettings(hidden=8, members=2, spelling=32, sources=True, block=1e-3),
            "pooling": "mean_nonfirst",
            "layers": [1, 3],
        },
    ],
)
def test_the_choices_of_a_classifier_come_back(tmp_path, classifier, random_batch, llama_like, random_gpt, options):
    model = classifier("head" if "head" in options else "last_block", backbone=random_gpt(llama_like), **options)
    loaded, _ = load_bundle(saved(tmp_path / "bundle", model))
    batch = random_batch(llama_like, [12, 5])
    with torch.no_grad():  # with gradients the norm is computed in another way
        assert torch.equal(loaded(*batch), model(*batch))


def test_a_depth_cut_comes_back(tmp_path, classifier, frozen, random_batch, gpt2_like, random_gpt):
    cut = GPT(gpt2_like.cut(2))
    cut.load_state_dict(
        {name: value for name, value in random_gpt(gpt2_like).state_dict().items() if ".2." not in name}, assign=True
    )
    model = classifier(backbone=cut)
    loaded, _ = load_bundle(saved(tmp_path / "bundle", model, frozen))
    batch = random_batch(gpt2_like, [12, 5])
    assert torch.equal(loaded(*batch), model(*batch))


def test_frozen_weights_are_linked_and_a_copy_is_whole(tmp_path, classifier, frozen, random_batch, gpt2_like):
    model = classifier()
    folder = saved(tmp_path / "bundle", model, frozen)
    assert (folder / "backbone.safetensors").samefile(frozen)
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(frozen.parent)
    shutil.rmtree(folder)
    loaded, _ = load_bundle(elsewhere)
    batch = random_batch(gpt2_like, [12, 5])
    assert torch.equal(loaded(*batch), model(*batch))


def test_where_links_are_impossible_it_copies(tmp_path, classifier, frozen, monkeypatch):
    monkeypatch.setattr(bundle.os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    assert not (folder / "backbone.safetensors").samefile(frozen)
    load_bundle(folder)


def test_what_is_all_trained_links_nothing(tmp_path, classifier, frozen):
    folder = saved(tmp_path / "bundle", classifier("all"), frozen)
    assert not (folder / "backbone.safetensors").exists()


def test_it_holds_no_pickle(tmp_path, classifier, frozen):
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    assert sorted(path.name for path in folder.iterdir()) == [
        "backbone.safetensors",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.tiktoken",
    ]


# Damage


def flip(path: Path, at: float) -> None:
    """Change one bit, at a part of the length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def truncate(path: Path, at: float) -> None:
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])


FILES = ["config.json", "model.safetensors", "backbone.safetensors", "tokenizer.json", "tokenizer.tiktoken"]


@pytest.mark.fault("corruption", "bundle")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 0.0),  # a header
        lambda path: flip(path, 0.5),
        lambda path: flip(path, 0.99),  # a tensor
        lambda path: truncate(path, 0.9),
        lambda path: truncate(path, 0.0),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.unlink(),
    ],
    ids=["first byte", "middle", "end", "cut", "empty", "longer", "missing"],
)
def test_a_damaged_file_is_never_used(tmp_path, classifier, frozen, name, damage):
    """The message names the folder or the file."""
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    damage(folder / name)
    with pytest.raises(BundleError, match=str(folder)):
        load_bundle(folder)


@pytest.mark.fault("corruption", "bundle")
def test_every_value_of_the_configuration_is_covered(tmp_path, classifier, frozen):
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    whole = json.loads((folder / "config.json").read_text())
    for key in whole:
        (folder / "config.json").write_text(json.dumps(whole | {key: "changed"}))
        with pytest.raises(BundleError):
            read_settings(folder)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
        with pytest.raises(BundleError):
            read_settings(folder)


@pytest.mark.fault("hostile", "bundle")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 2}', "\udcff"])
def test_other_files_called_config_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=r"config\.json"):
        load_bundle(tmp_path)


# Consistent, and wrong all the same: what another program might have written


def rewritten(folder: Path, **changes) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    config["sha256"] = sha256_settings(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: bundle.sha256_file(path) for path in folder.iterdir() if path.name != "config.json"}


@pytest.mark.fault("hostile", "path that climbs out")
@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", ".", "", "sub/../model.safetensors"])
def test_names_that_leave_the_folder_are_refused(tmp_path, classifier, name):
    (tmp_path / "secret").write_text("secret")
    folder = saved(tmp_path / "bundle", classifier())
    files = hashes(folder) | {name: bundle.sha256_file(tmp_path / "secret")}
    with pytest.raises(BundleError, match="has no file"):
        load_bundle(rewritten(folder, files=files))


def test_weights_that_no_hash_covers_are_refused(tmp_path, classifier):
    folder = saved(tmp_path / "bundle", classifier())
    files = hashes(folder)
    del files["model.safetensors"]
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        load_bundle(rewritten(folder, files=files))


@pytest.mark.fault("hostile", "bundle")
@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"name": "no such thing"}},
        {"pooling": "middle"},
        {"layers": [1, 3]},
        {"n_classes": 3},
        {"n_classes": -1},
        {"head_bias": False},
        {"n_classes": "two"},
        {"head": {"hidden": 4}},
        {"head": {"hidden": 16384, "members": 64, "sources": True}},  # terabytes, if it were built
        {"head": {"hidden": "many"}},
        {"head": {"depth": 2}},
        {"head": [4]},
    ],
    ids=str,
)
def test_configurations_that_do_not_fit_the_weights_are_refused(tmp_path, classifier, frozen, changes):
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    with pytest.raises(BundleError, match=str(folder)):
        load_bundle(rewritten(folder, **changes))


@pytest.mark.fault("hostile", "bundle")
@pytest.mark.parametrize("change", [{"n_layer": 4}, {"n_layer": 2}, {"vocab_size": 98}, {"n_head": 0}, {"n_inner": 1}])
def test_backbones_that_do_not_fit_the_weights_are_refused(tmp_path, classifier, frozen, change):
    folder = saved(tmp_path / "bundle", classifier("all"))
    backbone = json.loads((folder / "config.json").read_text())["backbone"]
    with pytest.raises(BundleError, match=str(folder)):
        load_bundle(rewritten(folder, backbone=backbone | change))


def test_missing_tensors_are_refused(tmp_path, classifier):
    folder = saved(tmp_path / "bundle", classifier("all"))
    state = load_file(folder / "model.safetensors")
    del state["head.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BundleError, match=r"missing or unexpected: head\.bias"):
        load_bundle(rewritten(folder, files=hashes(folder)))


def test_a_tokenizer_of_other_ranks_is_refused(tmp_path, classifier):
    """It carries a hash of its own, wherever it is read from."""
    folder = saved(tmp_path / "bundle", classifier())
    flip(folder / "tokenizer.tiktoken", 0.5)
    with pytest.raises(ValueError, match="SHA-256"):
        Tokenizer.load(folder)


# Replacing


def test_a_bundle_replaces_another(tmp_path, classifier, frozen):
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    (folder / "rest.txt").write_text("of an older version")
    saved(folder, classifier("head"), None, SETTINGS | {"threshold": 0.75})
    assert load_bundle(folder)[1]["threshold"] == 0.75
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"backbone.safetensors"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bundle")] == ["bundle"]


@pytest.mark.parametrize("fails", ["save_file", "link_or_copy", "sha256_file", "tokenizer", "rename"])
def test_what_goes_wrong_leaves_the_bundle_that_was_there(tmp_path, classifier, frozen, monkeypatch, fails):
    folder = saved(tmp_path / "bundle", classifier(), frozen)
    other = classifier("head")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    rename, save_tokenizer = Path.rename, byte_tokenizer().save
    with monkeypatch.context() as patch:
        if fails == "rename":  # of the new folder into its place
            patch.setattr(Path, "rename", lambda a, b: full() if a.name.endswith(".part") else rename(a, b))
        elif fails == "tokenizer":
            save_tokenizer = full
        else:
            patch.setattr(bundle, fails, full)
        with pytest.raises(OSError, match="No space"):
            save_bundle(folder, other, SETTINGS, save_tokenizer, frozen)
    assert load_bundle(folder)[1]["threshold"] == 0.25
    saved(folder, other, frozen, SETTINGS | {"threshold": 0.75})  # and the next one goes well
    assert load_bundle(folder)[1]["threshold"] == 0.75
