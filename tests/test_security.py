"""SECURITY.md names tests that exist, and the locks what it says of them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST = re.compile(r"`((?:tests/\S+?\.py)?)::(test_\w+)`")


def test_each_promise_names_tests_that_are_there() -> None:
    path, named = "", 0
    for file, test in TEST.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8")):
        path = file or path
        assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test
        named += 1
    assert named > 20


def test_all_that_is_installed_has_a_hash() -> None:
    """All but torch and its GPU libraries, which pip takes from the machine's own index."""
    pinned: dict[str, str] = {}
    for name in ("requirements.lock", "requirements-dev.lock"):
        lock = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        entries = [line for line in lock.splitlines() if line.strip() and not line.startswith("#")]
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
        pinned |= dict(re.findall(r"^([\w.-]+)==(\S+)", "\n".join(entries), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    installed = re.findall(r"pip install (.*)", makefile)
    assert len(installed) == 3
    hashed, torch, own = (set(options.split()) for options in installed)
    assert {"--require-hashes", "--no-deps", "requirements-dev.lock"} <= hashed
    assert {"-c", "requirements-torch.lock", "torch"} <= torch
    assert {"--no-deps", "--no-build-isolation", "-e", "."} <= own
    torch_lock = (ROOT / "requirements-torch.lock").read_text(encoding="utf-8")
    unhashed = dict(re.findall(r"^([\w.-]+)==(\S+)", torch_lock, re.MULTILINE)).keys() - pinned.keys()
    assert [name for name in unhashed if not name.startswith(("torch", "triton", "nvidia-", "cuda-"))] == []
