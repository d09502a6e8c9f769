"""The model hub, by its own library: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and the hub's cache are honoured there.

The environment is read at each call, too, because the library reads it only once, when it is imported.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from spamlit.assets.progress import Report
from spamlit.assets.registry import HubSource, SourceError

log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)  # seconds between questions to the hub
_SHA256 = re.compile(r"[0-9a-f]{64}")


def stored(source: HubSource) -> Path | None:
    """The file in the hub's own cache, or None. Touches no network; does not verify."""
    found = huggingface_hub.try_to_load_from_cache(
        source.repo, source.filename, revision=source.revision, cache_dir=_cache()
    )
    return Path(found) if isinstance(found, str) else None


def stated_sha256(source: HubSource) -> str | None:
    """What the hub says the file's SHA-256 is: the ETag of a large file.

    Asked before downloading, this also tells soon that there is no hub; the library's download waits for minutes.

    Raises:
        SourceError: The hub cannot be reached or does not have the file.
    """
    url = huggingface_hub.hf_hub_url(
        source.repo, source.filename, revision=source.revision, endpoint=os.environ.get("HF_ENDPOINT") or None
    )
    with _reasons():
        etag = _metadata(url).etag
    return etag if etag and _SHA256.fullmatch(etag) else None


def _metadata(url: str) -> huggingface_hub.HfFileMetadata:
    for pause in _PAUSES:
        try:
            return huggingface_hub.get_hf_file_metadata(url, timeout=10)
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
            raise
        except Exception as error:  # of the library's HTTP client, whose classes change with it
            log.info("%s: %s; trying again", url, error)
            time.sleep(pause)
    return huggingface_hub.get_hf_file_metadata(url, timeout=10)


def blob_sha256(path: Path) -> str | None:
    """The SHA-256 by which the hub's cache stored a large file: the name of the blob that its snapshot links to."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else None


def download(source: HubSource, report: Report, *, afresh: bool) -> Path:
    """Fetch into the hub's cache; `afresh` even if it is there.

    Raises:
        SourceError: The hub did not deliver.
        OSError: The disk is full.
    """
    with _reasons():
        path = huggingface_hub.hf_hub_download(
            source.repo,
            source.filename,
            revision=source.revision,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            cache_dir=_cache(),
            force_download=afresh,
            tqdm_class=_bar(report),
        )
    return Path(path)


def _cache() -> str | None:
    return os.environ.get("HF_HUB_CACHE") or None


def _bar(report: Report) -> type[Any]:
    """A tqdm that draws nothing and tells `report` how far it is."""

    class Reporting(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.arrived = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.arrived += int(n or 0)
            report(self.arrived)

    return Reporting


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what the library raises (its own errors, its HTTP client's, those of its Rust part) into a SourceError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, _cache() or huggingface_hub.constants.HF_HUB_CACHE) from error
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise SourceError(reason) from error
