"""GPT-2 from the model hub: a stand-in on this machine serves random weights of the published layout."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.loopback import Loopback
from tests.synthetic import byte_tokenizer, write_collection
from torch import Tensor

from spamlit.assets import ASSETS, HubSource, cache_dir, fetch, hub
from spamlit.assets.registry import SourceError
from spamlit.cli import train as command
from spamlit.data.tokenizer import load_tokenizer
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.model.weights import load_backbone

ROOT = Path(__file__).parents[1]
(PUBLISHED,) = ASSETS["gpt2"].sources
assert isinstance(PUBLISHED, HubSource)
HELLO = [15496, 11, 314, 1101, 257, 3303, 2746, 11]  # "Hello, I'm a language model,"
SMALL = ["backbone=gpt2", "backbone.n_layer=2", "data.source=collection", "data.reserve=false", "report=false"]
SMALL += ["trainer.max_epochs=1", "trainer.limit_train_batches=3", "~callbacks.progress", "hydra.run.dir=run"]
SMALL += ["+trainer.enable_progress_bar=false"]

# The published module's name, and ours; weights of c_… are stored (in, out).
BLOCK = {
    "ln_1": ["norm_1"],
    "attn.c_attn": ["attention.query", "attention.key", "attention.value"],
    "attn.c_proj": ["attention.out"],
    "ln_2": ["norm_2"],
    "mlp.c_fc": ["mlp.up"],
    "mlp.c_proj": ["mlp.down"],
}


def published_layout(model: GPT) -> dict[str, Tensor]:
    """The 160 tensors of the hub's file: 148 parameters and 12 masks."""
    own = model.state_dict()
    state = {"wte.weight": own["token_embedding.weight"], "wpe.weight": own["position_embedding.weight"]}
    state |= {f"ln_f.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias")}
    for n in range(model.config.n_layer):
        state[f"h.{n}.attn.bias"] = torch.ones(1024, 1024).tril().view(1, 1, 1024, 1024)
        for name, modules in BLOCK.items():
            for kind in ("weight", "bias"):
                joined = torch.cat([own[f"blocks.{n}.{module}.{kind}"] for module in modules])
                state[f"h.{n}.{name}.{kind}"] = joined.t().contiguous() if joined.ndim == 2 else joined
    return state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Removed at the end, for it takes 2 GB."""
    folder = tmp_path_factory.mktemp("hub")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """A file like the published one, with other numbers."""
    model = GPT.random(CONFIGS["gpt2"])
    for parameter in model.parameters():  # biases and norms too
        if parameter.ndim == 1:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    save_file(published_layout(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[Loopback]:
    with Loopback() as server:
        server.hub_file(PUBLISHED.repo, PUBLISHED.revision, PUBLISHED.filename, weights)
        yield server


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def environment(folder: Path, server: Loopback) -> dict[str, str]:
    """Caches of the test's own, but for the vocabulary; the hub is the stand-in."""
    for name in ("vocab.bpe", "encoder.json"):
        fetch(name)
    (folder / "cache").mkdir()
    (folder / "cache" / "assets").mkdir()
    for name in ("vocab.bpe", "encoder.json"):
        key = ASSETS[name].key
        (folder / "cache" / "assets" / key).symlink_to(cache_dir() / "assets" / key)
    return {
        "SPAMLIT_CACHE": str(folder / "cache"),
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "home" / "hub"),
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def source(weights: Path) -> dict[str, str]:
    return {"repo": PUBLISHED.repo, "revision": PUBLISHED.revision, "sha256": sha256(weights)}


@pytest.fixture(scope="module")
def finished(folder: Path, environment: dict[str, str], source: dict[str, str]) -> Path:
    """A run folder: `python train.py backbone=gpt2` with the stand-in's weights."""
    write_collection(folder / "collection", n_ham=60, n_spam=30)
    given = ", ".join(f"{key}: {value}" for key, value in source.items())
    overrides = [*SMALL, f"backbone.source={{{given}}}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
def test_the_stand_in_has_the_published_layout(weights: Path) -> None:
    with safe_open(weights, "pt") as file:
        assert len(file.keys()) == 160
        assert file.get_slice("h.0.attn.c_attn.weight").get_shape() == [768, 2304]
    assert weights.stat().st_size == pytest.approx(ASSETS["gpt2"].size, abs=100)  # headers list tensors in other orders


@pytest.mark.assets
@pytest.mark.slow
def test_a_run_trains_from_the_hubs_file(finished: Path, source: dict[str, str], server: Loopback) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["backbone"]["sha256"] == source["sha256"]
    assert record["backbone"]["n_layer"] == 2
    assert record["steps"] == 3
    assert (finished / "classifier" / "backbone.safetensors").exists()
    assert server.gets(f"/{PUBLISHED.repo}/resolve/{PUBLISHED.revision}/{PUBLISHED.filename}") == 1


@pytest.mark.assets
@pytest.mark.slow
def test_transformers_reads_the_same_model_from_the_same_bytes(
    finished: Path,
    folder: Path,
    weights: Path,
    source: dict[str, str],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    monkeypatch.setenv("SPAMLIT_CACHE", environment["SPAMLIT_CACHE"])  # the run prepared the weights
    GPT2Config().save_pretrained(folder)
    theirs = GPT2LMHeadModel.from_pretrained(folder).eval()
    ours = load_backbone("gpt2", source=source)
    tokens = torch.tensor([HELLO, HELLO[::-1]])
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.fault("network", "model hub")
@pytest.mark.slow
def test_other_bytes_than_the_published_ones_are_refused(
    tmp_path: Path, server: Loopback, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pinned hash holds wherever the bytes come from, and no gigabyte travels to find out."""
    before = len([request for request in server.requests if request[0] == "GET"])
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    assert refused([], tmp_path, monkeypatch) == 1
    error = capsys.readouterr().err
    assert "wrong bytes: the hub states SHA-256" in error
    assert f"expected {ASSETS['gpt2'].sha256}" in error
    assert len([request for request in server.requests if request[0] == "GET"]) == before
    assert not (tmp_path / "run" / "metrics.json").exists()


SOURCES = {
    "{}": (2, "backbone.source has the keys none"),
    "{repo: openai-community/gpt2, sha256: ab}": (2, "give repo, revision and sha256"),
    "{file: other.safetensors}": (2, "give repo, revision and sha256 (of model.safetensors on the hub), or file"),
    "{file: missing.safetensors, sha256: ab}": (1, "missing.safetensors: cannot be read: No such file"),
    "{file: other.safetensors, sha256: ab}": (1, "wrong bytes: SHA-256 is"),
    "{file: other.safetensors, sha256: RIGHT}": (2, "does not hold weights of gpt2: 148 tensors missing"),
    "{file: text, sha256: RIGHT}": (2, "is not a safetensors file"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_that_do_not_hold_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no weights at all" * 99)
    code, said = SOURCES[source]
    named = tmp_path / ("text" if "text" in source else "other.safetensors")
    assert refused([f"backbone.source={source.replace('RIGHT', sha256(named))}"], tmp_path, monkeypatch) == code
    error = capsys.readouterr().err
    assert said in error
    assert [line[:7] for line in error.splitlines() if not line.startswith("Fetching")] == ["error: "]
    assert "GB" not in error  # of a size that nobody stated


def refused(overrides: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of a run in an empty folder, with empty caches."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("SPAMLIT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    write_collection(folder / "collection", n_ham=60, n_spam=30)
    with pytest.raises(SystemExit) as stop:
        command.main([*SMALL, *overrides])
    return stop.value.code


@pytest.mark.hub
@pytest.mark.slow
def test_the_known_answer_of_the_published_weights() -> None:
    """design.md: what GPT-2 makes of "Hello, I'm a language model,"."""
    try:
        hub.stated_sha256(PUBLISHED)
    except SourceError as error:
        pytest.skip(f"the hub does not answer: {error}")
    assert load_tokenizer("gpt2").encode("Hello, I'm a language model,") == HELLO
    model = load_backbone("gpt2")
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([HELLO])))[0, -1]  # (1, T, V) -> (V,)
    assert int(logits.argmax()) == 407
    assert logits[407].item() == pytest.approx(-94.687, abs=2e-3)
