"""A working folder with a small collection, and processes that do not outlive their test."""

import pytest
from tests.cli.command import started
from tests.synthetic import byte_tokenizer, write_collection


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with a collection of ninety messages, and nothing to fetch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spamlit.data.datamodule.load_tokenizer", lambda name: byte_tokenizer())
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    return tmp_path


@pytest.fixture
def start():
    """start(*overrides, cwd=…, launcher=()): the command as a process, which does not outlive the test."""
    processes = []
    yield lambda *overrides, **how: processes.append(started(*overrides, **how)) or processes[-1]
    for process in processes:
        process.kill()
        process.communicate()
