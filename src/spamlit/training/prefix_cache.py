"""What lies below the lowest trained parameter, computed once per distinct message and kept on disk.

A store is a folder, named by a hash of everything that the values depend on except the messages. In it, a shard holds
the values of some messages: `values.npy` (N, C), row after row, and `index.npz`: which message (digest of its ids),
which rows, checksum. Shards are written beside and renamed, under a lock: a reader sees a whole shard or none.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from spamlit.assets import atomic_write, cache_dir
from spamlit.training.prefix_folders import ABOUT, evict, read_key
from spamlit.training.progress import track

SHARD_TOKENS = 16_384
BATCH_TOKENS = 1_024  # the larger, the more padding; the smaller, the less there is for two cores to share
HELD_BYTES = 32 * 2**20  # of mapped values that reading may leave in memory
VERSION = 1
_NUMPY = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.float16}
_UNSOUND = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy raises for bytes that are none of its files."""

Ids = Sequence[int]


class Entry(NamedTuple):
    """Where one message's values lie."""

    values: npt.NDArray[Any]
    start: int
    stop: int


class PrefixCache:
    """Looks up the frozen part's output; a drop-in for `Classifier.prefix`.

    Args:
        key: what the values depend on (weights, boundary, causal, …); with the rest it names the store.
        compute: (tokens (B, T), lengths (B,)) -> (B, T, C), or (B, C) once pooled.
        pooled: whether `compute` gives one vector a message.
        padded: whether padding takes part, so that a message's value depends on the padded row.
        dtype: of the stored values.
        device: where to keep all values in memory, for batches on that device; None reads them from the disk's map.
        root: folder of all stores; default `<cache>/prefix`.
        limit_bytes: the least recently used stores are removed beyond this.
    """

    def __init__(
        self,
        key: dict[str, Any],
        compute: Callable[[Tensor, Tensor], Tensor],
        *,
        pooled: bool,
        padded: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        root: Path | None = None,
        limit_bytes: int = 20 * 2**30,
    ) -> None:
        self.key = {**key, "pooled": pooled, "padded": padded, "dtype": str(dtype), "version": VERSION}
        self.compute = compute
        self.pooled, self.padded, self.dtype = pooled, padded, dtype
        self.device = device
        self.root = root or cache_dir() / "prefix"
        name = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = self.root / name
        self.limit_bytes = limit_bytes
        self.computed = 0
        self._entries: dict[bytes, Entry] = {}
        self._resident: dict[bytes, Tensor] = {}
        self._held = 0

    def fill(self, messages: Sequence[Ids], *, progress: bool = True) -> None:
        """Computes what is missing of `messages` (token ids; padded where padding counts), shard by shard.

        The partition into shards is a function of `messages` alone, so that a computation that was killed and started
        again computes each remaining value in the same company, and thus to the same last bit.

        Raises:
            OSError: the disk is full or read-only; finished shards stay.
        """
        distinct = sorted({_digest(ids): ids for ids in messages}.items(), key=lambda item: (len(item[1]), item[0]))
        with self._locked():
            self._open(set(dict(distinct)))
            todo = [[item for item in shard if item[0] not in self._entries] for shard in _shards(distinct)]
            with track("Frozen blocks", sum(len(ids) for shard in todo for _, ids in shard), progress) as advance:
                for shard in filter(None, todo):
                    self._write_shard(shard, advance)
        evict(self.root, self.limit_bytes, keep=self.folder)
        if self.device is not None:
            self._resident = {digest: self._values(entry).to(self.device) for digest, entry in self._entries.items()}

    def missing(self, messages: Sequence[Ids]) -> bool:
        """Whether `fill` would have to compute anything."""
        wanted = {_digest(ids) for ids in messages}
        with self._locked():
            self._open(wanted)
        return not wanted <= self._entries.keys()

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The values of a batch: (B, T, C), zero behind each message's end, or (B, C) where pooled.

        Raises:
            KeyError: a message was not given to `fill`.
        """
        rows = tokens.cpu()
        ends = [rows.shape[1]] * len(rows) if self.padded else lengths.tolist()
        digests = [_digest(row[:end].tolist()) for row, end in zip(rows, ends, strict=True)]
        found = [self._resident[d] if self._resident else self._values(self._entries[d]) for d in digests]
        if self.pooled:
            return torch.cat(found).to(tokens.device)  # (B, C)
        out = found[0].new_zeros(len(found), rows.shape[1], found[0].shape[1])  # (B, T, C)
        for row, values in zip(out, found, strict=True):
            row[: len(values)] = values
        return out.to(tokens.device)

    def _values(self, entry: Entry) -> Tensor:
        """A message's values (L, C), or (1, C) where pooled, copied out of the map."""
        copy = np.array(entry.values[entry.start : entry.stop])
        self._held += copy.nbytes
        if self._held > HELD_BYTES:
            self._held = 0
            for values in {id(e.values): e.values for e in self._entries.values()}.values():
                release(values)
        return torch.from_numpy(copy).view(self.dtype)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The store for this process alone; made where it is not, or was evicted before the lock was had."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.folder}.lock"):
            self.folder.mkdir(exist_ok=True)
            if read_key(self.folder) != json.loads(json.dumps(self.key)):
                with atomic_write(self.folder / ABOUT) as temporary:
                    temporary.write_text(json.dumps(self.key, indent=2, sort_keys=True), encoding="utf-8")
            os.utime(self.folder / ABOUT)
            yield

    def _open(self, wanted: set[bytes]) -> None:
        """Takes from disk what is there and sound; a shard with a wrong checksum is removed and so computed again."""
        for rubbish in self.folder.glob("*.part"):
            shutil.rmtree(rubbish, ignore_errors=True)
        self._entries = {}
        for shard in sorted(self.folder.glob("*.shard")):
            entries = _read_shard(shard, wanted, _NUMPY[self.dtype])
            if entries is None:
                shutil.rmtree(shard)
            else:
                self._entries.update(entries)

    def _write_shard(self, items: list[tuple[bytes, Ids]], advance: Callable[[int], None]) -> None:
        digests = [digest for digest, _ in items]
        name = hashlib.sha256(b"".join(digests)).hexdigest()[:24]
        part = self.folder / f"{name}.part"
        part.mkdir()
        sizes = [1 if self.pooled else len(ids) for _, ids in items]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        checksums, values, done = [], None, 0
        for batch in _batches(items):
            rows = self._compute([ids for _, ids in batch])
            for row in rows:
                if values is None:
                    shape = (int(offsets[-1]), row.shape[1])
                    values = _new_map(part / "values.npy", row.dtype, shape)
                values[offsets[done] : offsets[done + 1]] = row
                checksums.append(_checksum(row))
                done += 1
            advance(sum(len(ids) for _, ids in batch))
        assert values is not None
        values.flush()
        del values
        keys = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)  # (M, 16)
        np.savez(part / "index.npz", digests=keys, offsets=offsets, checksums=np.array(checksums, np.uint32))
        shard = part.rename(part.with_suffix(".shard"))
        self._entries.update(_read_shard(shard, set(digests), _NUMPY[self.dtype]) or {})
        self.computed += len(items)

    def _compute(self, messages: list[Ids]) -> list[npt.NDArray[Any]]:
        """The values of a few messages, (L, C) each, or (1, C) where pooled."""
        lengths = torch.tensor([len(ids) for ids in messages])
        tokens = torch.zeros(len(messages), int(lengths.max()), dtype=torch.long)
        for row, ids in zip(tokens, messages, strict=True):
            row[: len(ids)] = torch.as_tensor(ids)
        out = self.compute(tokens, lengths).to(self.dtype).cpu()
        ends = [1] * len(messages) if self.pooled else lengths.tolist()
        out = out[:, None] if self.pooled else out  # (B, 1, C) or (B, T, C)
        return [values[:end].view(_storage(self.dtype)).numpy() for values, end in zip(out, ends, strict=True)]


def _new_map(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A writable map whose bytes are reserved: on a full disk this fails, instead of the write that would kill us."""
    values = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
    return values


def _digest(ids: Ids) -> bytes:
    return hashlib.blake2b(np.asarray(ids, np.int32).tobytes(), digest_size=16).digest()


def _checksum(values: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)


def _storage(dtype: torch.dtype) -> torch.dtype:
    """Numpy has no bfloat16: its bits are stored as unsigned integers."""
    return torch.uint16 if dtype == torch.bfloat16 else dtype


def _shards(items: list[tuple[bytes, Ids]]) -> Iterator[list[tuple[bytes, Ids]]]:
    """Runs of messages with about SHARD_TOKENS tokens."""
    shard: list[tuple[bytes, Ids]] = []
    tokens = 0
    for item in items:
        if shard and tokens + len(item[1]) > SHARD_TOKENS:
            yield shard
            shard, tokens = [], 0
        shard.append(item)
        tokens += len(item[1])
    if shard:
        yield shard


def _batches(items: list[tuple[bytes, Ids]]) -> Iterator[list[tuple[bytes, Ids]]]:
    """Batches of at most BATCH_TOKENS tokens, padding counted; `items` come sorted by length."""
    batch: list[tuple[bytes, Ids]] = []
    for item in items:
        if batch and (len(batch) + 1) * len(item[1]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _read_shard(shard: Path, wanted: set[bytes], dtype: npt.DTypeLike) -> dict[bytes, Entry] | None:
    """The wanted messages of a shard; None where the files or a checksum are not sound, or the values of other type."""
    try:
        with np.load(shard / "index.npz", allow_pickle=False) as index:
            digests, offsets, checksums = index["digests"], index["offsets"], index["checksums"]
        values = np.load(shard / "values.npy", mmap_mode="r", allow_pickle=False)
    except _UNSOUND:
        return None
    if values.dtype != dtype or values.ndim != 2 or not len(digests) == len(checksums) == len(offsets) - 1:
        return None
    entries = {}
    for i, digest in enumerate(map(bytes, digests)):
        if digest in wanted:
            entry = Entry(values, int(offsets[i]), int(offsets[i + 1]))
            if _checksum(values[entry.start : entry.stop]) != int(checksums[i]):
                return None
            entries[digest] = entry
    release(values)
    return entries


def release(values: npt.NDArray[Any]) -> None:
    """Takes a map's pages out of this process's memory; they stay in the system's cache as long as there is room.

    So the resident size does not grow with the store, however large the collection is.
    """
    pages = getattr(values, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
