"""`spamlit cache`: what the frozen prefix keeps, shown and removed."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock

from spamlit.cli import main
from spamlit.training.prefix_cache import PrefixCache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path))
    return tmp_path / "prefix"


def fill(boundary: int) -> Path:
    def compute(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.ones(*tokens.shape, 4)

    cache = PrefixCache({"boundary": boundary}, compute, pooled=False)
    cache.fill([[1, 2], [3]], progress=False)
    return cache.folder


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["cache", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_empty_cache() -> None:
    assert run("list").strip() == "0.0 MiB in 0 stores"
    assert run("clear") == "removed 0 stores\n"


def test_each_store_is_listed_with_what_it_holds() -> None:
    folders = [fill(1), fill(2)]
    lines = run("list").splitlines()
    assert len(lines) == 3
    assert all(any(str(folder) in line for line in lines) for folder in folders)
    assert sum("boundary=1" in line and "pooled=False" in line for line in lines) == 1
    assert "in 2 stores" in lines[-1]


def test_clearing_leaves_alone_what_is_being_filled() -> None:
    busy, idle = fill(1), fill(2)
    with FileLock(f"{busy}.lock"):
        assert run("clear") == "removed 1 stores\n"
    assert busy.exists()
    assert not idle.exists()
    assert run("clear") == "removed 1 stores\n"
    assert fill(1).exists()  # computed again when needed
