"""Bits that flip and files that end early: noticed before use. Caches heal, results are refused with the reason."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tests.cli.command import started
from tests.faults.flips import damaged, each
from tests.faults.outcome import FULL, Lost, Wrong, cases
from tests.inference.bundles import random_bundle
from tests.runs import tiny_run
from tests.synthetic import byte_tokenizer, write_collection
from tests.training.test_prefix_cache import MESSAGES, batch_of, make_cache, make_classifier

from spamlit.assets import Asset, FileSource, cached, fetch, sha256_file
from spamlit.cli import main
from spamlit.data.splits import read_split
from spamlit.data.tokenizer import Tokenizer
from spamlit.inference.predictor import Predictor
from spamlit.model import weights
from spamlit.model.bundle import BundleError
from spamlit.training.checkpoint import CheckpointError, read_checkpoint

Record = Callable[[str, object], None]
TEXTS = ["You have won a holiday", "see you at the pub"]


@pytest.mark.fault("corruption", "cached asset")
def test_a_cached_asset_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record) -> None:
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    body = bytes(range(256)) * 8
    (tmp_path / "source").write_bytes(body)
    asset = Asset("thing", sha256_file(tmp_path / "source"), None, (FileSource(tmp_path / "source"),))
    path = fetch(asset, progress=False)

    def check(seed: int) -> None:
        with damaged(path, seed):
            if cached(asset) is not None:
                raise Wrong("damage was not noticed")
            if fetch(asset, progress=False).read_bytes() != body:
                raise Lost("it did not heal")

    each(cases(30, 2000), check, record_property)


@pytest.mark.fault("corruption", "hash of an asset without a published one")
def test_a_damaged_record_of_a_hash_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    from spamlit.assets import HubSource, store

    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    asset = Asset("thing", None, 5, (HubSource("a/b", "c" * 40, "thing"),))
    path = store.path_of(asset)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bytes")
    store._record(path).write_text(f"{sha256_file(path)}  thing\n")
    assert cached(asset) == path

    def check(seed: int) -> None:
        with damaged(store._record(path), seed):
            whole = sha256_file(path).encode() in store._record(path).read_bytes()
            if cached(asset) is not None and not whole:
                raise Wrong("believed")

    each(cases(30, 2000), check, record_property)


@pytest.mark.fault("corruption", "prefix cache, shard and index")
@pytest.mark.parametrize("name", ["values.npy", "index.npz", "about.json"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_prefix_cache_heals(tmp_path: Path, record_property: Record, name: str, dtype: torch.dtype) -> None:
    classifier = make_classifier()
    whole = make_cache(tmp_path / "whole", classifier, dtype=dtype)
    whole.fill(MESSAGES, progress=False)
    wanted = whole(*batch_of(MESSAGES))

    def check(seed: int) -> None:
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        (path,) = (tmp_path / "damaged").rglob(name)
        with damaged(path, seed):
            healed = make_cache(tmp_path / "damaged", classifier, dtype=dtype)
            healed.fill(MESSAGES, progress=False)
            if not torch.equal(healed(*batch_of(MESSAGES)), wanted):
                raise Wrong("other values")
            again = make_cache(tmp_path / "damaged", classifier, dtype=dtype)
            again.fill(MESSAGES, progress=False)
            if again.computed:
                raise Lost("it did not heal")

    each(cases(12, 1500), check, record_property)


@pytest.mark.fault("corruption", "prepared weights")
def test_prepared_weights_heal(tmp_path: Path, record_property: Record) -> None:
    tensors = {"a.weight": torch.randn(4, 6), "b.bias": torch.randn(5)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    path = tmp_path / "prepared.safetensors"
    weights._write(path, tensors.items(), shapes)
    assert weights._is_sound(path, shapes)
    assert not weights._is_sound(path, shapes | {"b.bias": (6,)})

    def check(seed: int) -> None:
        with damaged(path, seed):
            if weights._is_sound(path, shapes):
                raise Wrong("damage was not noticed")

    each(cases(300, 20_000), check, record_property)


@pytest.mark.fault("corruption", "cached tokenizer")
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.tiktoken"])
def test_a_damaged_tokenizer_is_not_used(tmp_path: Path, record_property: Record, name: str) -> None:
    byte_tokenizer().save(tmp_path)
    wanted = vars_of(Tokenizer.load(tmp_path))

    def check(seed: int) -> None:
        with damaged(tmp_path / name, seed):
            try:
                found = vars_of(Tokenizer.load(tmp_path))
            except ValueError:
                return
            if found != wanted:  # white space may be other than it was
                raise Wrong("another tokenizer")

    each(cases(100, 10_000), check, record_property)


def vars_of(tokenizer: Tokenizer) -> tuple[object, ...]:
    return tokenizer.name, tokenizer.ranks, tokenizer.pattern, tokenizer.special, tokenizer.pad_id


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false", "report=false").folder


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints hold the same."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b or a != a)


@pytest.mark.fault("corruption", "checkpoint")
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_is_refused(finished: Path, record_property: Record, name: str) -> None:
    path = finished / "checkpoints" / name
    wanted = read_checkpoint(path)

    def check(seed: int) -> None:
        with damaged(path, seed):
            try:
                found = read_checkpoint(path)
            except CheckpointError as error:
                if str(path) not in str(error):
                    raise Wrong("which file?") from error
                return
            if not same(found, wanted):  # padding may be other than it was
                raise Wrong("another checkpoint")

    each(cases(40, 3000), check, record_property)


@pytest.mark.fault("corruption", "checkpoint")
def test_a_tensor_that_is_marked_as_a_folder_is_refused(finished: Path) -> None:
    """Torch would read nothing into it, and say nothing."""
    path = finished / "checkpoints/last.ckpt"
    before = path.read_bytes()
    entry = before.rindex(b"archive/data/14")  # in the directory at the end, whose attributes no checksum covers
    flip_bits(path, entry - 8, 0x10)
    try:
        with pytest.raises(CheckpointError, match="have attributes"):
            read_checkpoint(path)
    finally:
        path.write_bytes(before)


@pytest.mark.fault("corruption", "bundle")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.tiktoken"])
def test_a_damaged_bundle_is_refused(tmp_path: Path, record_property: Record, name: str) -> None:
    folder = random_bundle(tmp_path / "bundle", "llama", trainable="last_block")
    wanted = Predictor.load(folder).classify(TEXTS)

    def check(seed: int) -> None:
        with damaged(folder / name, seed):
            try:
                found = Predictor.load(folder).classify(TEXTS)
            except BundleError as error:
                if str(folder) not in str(error):
                    raise Wrong("which file?") from error
                return
            if found != wanted or name != "config.json":  # white space of config.json may be other
                raise Wrong("damage was not noticed")

    each(cases(40, 2500), check, record_property)


@pytest.mark.fault("corruption", "splits of a run")
def test_a_damaged_split_is_refused_or_harmless(finished: Path, record_property: Record) -> None:
    """They have no checksum (people may edit them): what they must not do is crash."""

    def check(seed: int) -> None:
        with damaged(finished / "train.csv", seed):
            try:
                read_split(finished / "train.csv")
            except ValueError as error:
                if "train.csv" not in str(error):
                    raise Wrong("which file?") from error

    each(cases(30, 2000), check, record_property)


# The commands themselves


def flip_bits(path: Path, at: int, bits: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)


def flip_in_a_tensor(checkpoint: Path) -> None:
    """Not between two of them: what fills a checkpoint up to the next multiple of 64 bytes has no checksum."""
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    flip_bits(checkpoint, checkpoint.read_bytes().index(largest.filename.encode()) + 200)


@pytest.mark.fault("corruption", "commands")
def test_predict_refuses_a_damaged_bundle(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished / "classifier", tmp_path / "classifier")
    flip_bits(copy / "model.safetensors", (copy / "model.safetensors").stat().st_size // 2)
    result = CliRunner().invoke(main, ["predict", "--run", str(copy), "hello"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+model\.safetensors is damaged: its SHA-256 .*\n", result.stderr)


@pytest.mark.assets
@pytest.mark.fault("corruption", "commands")
def test_going_on_from_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """And what was there stays as it is."""
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    first = started("hydra.run.dir=run", "data.reserve=false", cwd=tmp_path)
    said = first.communicate(timeout=300)
    assert first.returncode == 0, said
    before = json.loads((tmp_path / "run/metrics.json").read_text())
    for name in ("best.ckpt", "last.ckpt") if FULL else ("last.ckpt",):
        flip_in_a_tensor(tmp_path / "run/checkpoints" / name)
        again = started("ckpt=run", cwd=tmp_path)
        _, errors = again.communicate(timeout=300)
        assert again.returncode == 2, errors
        assert re.search(rf"^error: \S+{name} is damaged, or no checkpoint: .*\n\Z", errors, re.M), errors
        assert json.loads((tmp_path / "run/metrics.json").read_text()) == before
