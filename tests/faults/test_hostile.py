"""Files from strangers: nothing in them is executed, no path leads out, memory stays bounded, one line says why."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from tests.cli.command import SMALL, run
from tests.faults.outcome import Wrong
from tests.inference.bundles import random_bundle
from tests.model.test_bundle import rewritten
from tests.runs import tiny_run
from tests.synthetic import byte_tokenizer, write_collection

from spamlit.cli.train import resumed
from spamlit.inference.predictor import Predictor
from spamlit.model.bundle import BundleError, sha256_file
from spamlit.model.config import CONFIGS
from spamlit.model.formats import read_gpt2, read_llama_gguf
from spamlit.training.checkpoint import CheckpointError, read_checkpoint
from spamlit.training.run_folder import is_finished, read_yaml, stored_overrides

ROOT = Path(__file__).parents[2]


class Payload:
    """Unpickled, it makes a file: somebody else's code has run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path: Path):
    """A path that nothing may make."""
    path = tmp_path / "somebody elses code ran"
    yield path
    if path.exists():
        raise Wrong("somebody else's code ran")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run", "data.reserve=false", "report=false").folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of one's own, in a working folder with its data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    return shutil.copytree(trained, tmp_path / "run")


# Pickles


def zipped(name: str, payload: bytes) -> bytes:
    """As torch.save writes, with another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}/data.pkl", payload)
        archive.writestr(f"{name}/byteorder", "little")
        archive.writestr(f"{name}/version", "3\n")
    return buffer.getvalue()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "in a checkpoint": lambda trap: saved({"state_dict": {"a": torch.ones(2)}, "rng": Payload(trap)}),
    "as torch once wrote": lambda trap: saved({"state_dict": Payload(trap)}, _use_new_zipfile_serialization=False),
    "alone": lambda trap: pickle.dumps(Payload(trap)),
    "in an archive": lambda trap: zipped("archive", pickle.dumps({"state_dict": Payload(trap)})),
    "in a script's archive": lambda trap: zipped("archive", pickle.dumps(Payload(trap))).replace(
        b"data.pkl", b"code.pkl"
    ),
}


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.fault("hostile", "pickle in a checkpoint")
@pytest.mark.parametrize("how", PICKLES)
def test_a_pickle_in_a_checkpoint_is_not_executed(tmp_path: Path, trap: Path, how: str) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(PICKLES[how](trap))
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        read_checkpoint(path)


@pytest.mark.fault("hostile", "pickle in a checkpoint")
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_going_on_from_a_stranger_s_checkpoint_is_refused(
    copied: Path, trap: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "checkpoints" / name
    path.write_bytes(saved(torch.load(path, weights_only=True) | {"rng": Payload(trap)}))
    assert run(f"ckpt={copied}") == 2
    assert re.search(rf"^error: \S+{name} is damaged, or no checkpoint: .*\n\Z", capsys.readouterr().err, re.M)


@pytest.mark.fault("hostile", "pickle in a checkpoint")
def test_a_checkpoint_of_something_else_is_refused(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, says in ((["no"], "no checkpoint of a run"), ({"state_dict": {}}, "has no callbacks, epoch")):
        torch.save(content, copied / "checkpoints/last.ckpt")
        assert run(f"ckpt={copied}") == 2
        assert says in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "bomb")


@pytest.mark.fault("hostile", "pickle in a bundle")
@pytest.mark.parametrize("how", PICKLES)
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.tiktoken", "tokenizer.json", "config.json"])
def test_a_pickle_in_a_bundle_is_not_executed(tmp_path: Path, trap: Path, how: str, name: str) -> None:
    folder = random_bundle(tmp_path / "bundle", "gpt2")
    (folder / name).write_bytes(PICKLES[how](trap))
    if name != "config.json":
        hashed(folder)
    with pytest.raises(ValueError, match=str(folder)):  # BundleError; the tokenizer's are ValueErrors
        Predictor.load(folder)


def hashed(folder: Path, **changes: Any) -> Path:
    """Its digests hold again: what a stranger would hand over."""
    files = json.loads((folder / "config.json").read_text())["files"]
    return rewritten(folder, **{"files": {name: sha256_file(folder / name) for name in files}, **changes})


# Headers


SAFE = save({"head.weight": torch.ones(2, 2)})
HEADERS = {
    "longest": (2**64 - 1).to_bytes(8, "little") + SAFE[8:],
    "negative": (2**63).to_bytes(8, "little") + SAFE[8:],
    "longer than the file": (10**9).to_bytes(8, "little") + SAFE[8:],
    "a megabyte of spaces": (999_999).to_bytes(8, "little") + b"{" + b" " * 999_997 + b"}",
    "no JSON": (8).to_bytes(8, "little") + b"\xff" * 100,
    "beyond the file": SAFE.replace(b"[0,16]", b"[0,99]"),
    "nothing": b"",
}


@pytest.mark.fault("hostile", "safetensors header")
@pytest.mark.parametrize("how", HEADERS)
def test_headers_that_lie_are_refused(tmp_path: Path, how: str) -> None:
    assert HEADERS[how] != SAFE
    folder = random_bundle(tmp_path / "bundle", "gpt2")
    (folder / "model.safetensors").write_bytes(HEADERS[how])
    with pytest.raises(BundleError, match=str(folder)):
        Predictor.load(hashed(folder))
    for read, name in ((read_gpt2, "gpt2"), (read_llama_gguf, "smollm2-135m")):
        with pytest.raises(ValueError, match=r"model\.safetensors"):  # as backbone.source
            list(read(folder / "model.safetensors", CONFIGS[name]))


# Settings that name code


@pytest.mark.fault("hostile", "_target_ in a bundle")
@pytest.mark.parametrize("key", ["backbone", "lora", "labels", "unsure", "threshold", "normalise", "files", "pooling"])
def test_a_target_in_a_bundle_is_not_called(tmp_path: Path, trap: Path, key: str) -> None:
    folder = random_bundle(tmp_path / "bundle", "gpt2")
    before = json.loads((folder / "config.json").read_text())[key]
    target = {"_target_": "os.mkdir", "_args_": [str(trap)], "path": str(trap)}
    with pytest.raises(BundleError):
        Predictor.load(hashed(folder, **{key: {**before, **target} if isinstance(before, dict) else target}))


TARGETS = [
    "+callbacks.x={_target_:os.mkdir,path:TRAP}",
    "+callbacks.x={inner:{_target_:os.mkdir,path:TRAP}}",
    "+callbacks.x={'_target_':os.mkdir,path:TRAP}",
    "callbacks.last._target_=os.mkdir",
    "+callbacks.x=[{_target_:os.mkdir,path:TRAP}]",
    "data.extra=[{_target_:os.mkdir,path:TRAP}]",
    "data._target_=os.mkdir",
    "data.source={_target_:os.mkdir,path:TRAP}",
    "+data.x={_target_:os.mkdir,path:TRAP},{_target_:os.mkdir,path:TRAP}",
    "optimizer._target_=os.mkdir",
    "+callbacks.x='${oc.decode:\"{_tar${y}: os.mkdir, path: TRAP}\"}'",
    "+callbacks.x=${oc.create:{a:1}}",
    "+hydra.callbacks.x={_target_:os.mkdir,path:TRAP}",
    "hydra.searchpath=[file:///tmp]",
    "hydra.job_logging.formatters.simple.()=os.mkdir",
    "+hydra.job_logging.filters.x={'()':os.mkdir,path:TRAP}",
    "hydra.launcher._target_=os.mkdir",
    "+hydra.launcher.setup=['mkdir TRAP']",
    "+hydra.job.env_set.PIP_INDEX_URL='https://example.org'",
    "hydra.output_subdir=/tmp/x",
    "--config-dir=TRAP",
    "-cd=TRAP",
    "--config-name=x",
    "experiment=../../x",
    "+experiment=[lesson,../../x]",
    "callbacks=/tmp/x",
    "run_dir=/tmp/x",
    "callbacks.last.dirpath=/tmp/x",
    "callbacks.best.filename=../../x",
    "logger.tensorboard.save_dir=/tmp/x",
    "trainer.default_root_dir=/tmp/x",
    "callbacks.last={dirpath:/tmp/x}",
    "callbacks.last={every_seconds:5}",
    "logger.tensorboard={save_dir:/tmp/x}",
    "+logger.tensorboard.version=/tmp/x",
    "logger.tensorboard.name=../../x",
    "+logger.wandb.settings={base_url:'https://example.org'}",
    "logger.mlflow.tracking_uri='https://example.org'",
    "+trainer.profiler={dirpath:/tmp/x}",
    "+trainer.logger=true",
    "+trainer={default_root_dir:x}",
    "hydra.sweep.subdir=../../x",
    "hydra.launcher.partition='a\ntouch TRAP\n'",
    "hydra/launcher=joblib",
    "hydra.job.chdir=true",
    "hydra.verbose=true",
    "+hydra.launcher.a.b=1",
    "~hydra.launcher.n_jobs",
    "data.source='${x}/y'",
    "experiment@hydra=lesson",
    "data.source=glob(*)",
    "no override at all",
    "",
]
FINE = [
    *(
        "seed=3",
        "model.trainable=last_k",
        "model.last_k=2",
        "data.source=../mine.csv",
        "~logger",
        "~callbacks.progress",
    ),
    *(
        "experiment=ablation/row01",
        "sweep=[lr,seeds]",
        "+trainer.enable_progress_bar=false",
        "data.extra=[modern,a.db]",
    ),
    *("threshold={fpr:0.005}", "model.layers=[2,4]", "unsure=[0.3,0.7]", "seed=1,2,3", "optimizer.lr=1e-4"),
    *("optimizer.lr='tag(log,interval(1e-5,1e-3))'", "seed=range(1,5)", "launcher=parallel", "data.text_column='a b'"),
    *("hydra.launcher.n_jobs=4", "model.lora.targets=[query,value]", "callbacks.best.monitor=val/f1"),
    *(
        "hydra.mode=MULTIRUN",
        "hydra.sweeper.trials=50",
        "logger=mlflow",
        "+trainer.fast_dev_run=true",
        "backbone.source={file: a, sha256: b}",
        "trainer=ddp-cpu",
    ),
]


@pytest.mark.fault("hostile", "_target_ in a run")
@pytest.mark.parametrize("override", TARGETS)
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_stranger_s_folder_runs_nothing(tmp_path: Path, trap: Path, override: str, kind: str) -> None:
    folder = stranger(tmp_path / "folder", kind, ["seed=1", override.replace("TRAP", str(trap))])
    with pytest.raises(ValueError, match=r"of its stored overrides .* is not taken from a folder"):
        resumed([f"ckpt={folder}"])
    key = override.split("=")[0].lstrip("+~")
    if "=" in override and override[0] != "-":  # what is given now is the user's own
        assert f"{key}=mine" in resumed([f"ckpt={folder}", f"{key}=mine"])


@pytest.mark.fault("hostile", "_target_ in a run")
def test_a_stranger_s_sweep_is_not_given_to_slurm(tmp_path: Path) -> None:
    """Submitit would unpickle the results in its folder."""
    folder = stranger(tmp_path / "folder", "sweep", ["seed=1,2", "launcher=slurm"])
    with pytest.raises(ValueError, match="'launcher=slurm' has results read"):
        resumed([f"ckpt={folder}"])
    assert "launcher=slurm" in resumed([f"ckpt={folder}", "launcher=slurm"])


@pytest.mark.fault("hostile", "links in a run")
def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder = stranger(tmp_path / "folder", "run", ["seed=1"])
    (folder / "inside").symlink_to(".hydra")
    assert "seed=1" in resumed([f"ckpt={folder}"])
    (folder / "train.log").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=r"train\.log is a link out of the folder"):
        resumed([f"ckpt={folder}"])


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_choices_are_taken_from_a_folder(tmp_path: Path, kind: str) -> None:
    folder = stranger(tmp_path / "folder", kind, FINE)
    assert set(FINE) - {"hydra.mode=MULTIRUN", "launcher=parallel", "sweep=[lr,seeds]"} <= set(
        resumed([f"ckpt={folder}"])
    )


def stranger(folder: Path, kind: str, overrides: list[str]) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    if kind == "sweep":
        (folder / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": overrides, "hydra": []}}}))
    return folder


@pytest.mark.fault("hostile", "_target_ in a run")
def test_the_command_says_so_and_ends(copied: Path, trap: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """.hydra/config.yaml is not read at all; the overrides are, and refused."""
    target = f"+callbacks.x={{_target_:os.mkdir,path:'{trap}'}}"
    (copied / ".hydra/config.yaml").write_text(f"callbacks:\n  x:\n    _target_: os.mkdir\n    path: {trap}\n")
    (copied / ".hydra/overrides.yaml").write_text(json.dumps([*SMALL, target]))
    assert run(f"ckpt={copied}") == 2
    assert re.fullmatch(
        r"error: \S+: of its stored overrides .*_target_.* names code to run.*\n", capsys.readouterr().err
    )
    (copied / ".hydra/overrides.yaml").write_text(json.dumps(SMALL))
    assert run(f"ckpt={copied}") == 0


@pytest.mark.fault("hostile", "_target_ in a run")
def test_a_target_on_one_s_own_command_line_in_a_list_of_files_is_refused(
    copied: Path, trap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"data.extra=[{{_target_:os.mkdir,path:'{trap}'}}]", "hydra.run.dir=other") == 2
    assert "is not a file" in capsys.readouterr().err


TAGGED = '!!python/object/apply:os.mkdir ["TRAP"]'
BOMB = "\n".join([f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(40)])


@pytest.mark.fault("hostile", "YAML")
@pytest.mark.parametrize(
    "content", [TAGGED, f"report: {TAGGED}", BOMB, "[" * 1000, "\xff", "a: *b", "- {seed: 1}", "7"]
)
def test_yaml_is_plain(copied: Path, trap: Path, content: str) -> None:
    text = content.replace("TRAP", str(trap))
    for path in (copied / ".hydra/overrides.yaml", copied / ".hydra/config.yaml", copied / "multirun.yaml"):
        path.write_bytes(text.encode("latin-1"))
        with suppress(ValueError):
            read_yaml(path)
    with suppress(ValueError):
        is_finished(copied)
    assert stored_overrides(copied) is None
    for arguments in ([f"ckpt={copied}"], [f"ckpt={copied}", "-m"]):
        with pytest.raises(ValueError):
            resumed(arguments)
