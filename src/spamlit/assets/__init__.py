"""Pinned files: a name, a SHA-256, sources in order, and a cache. `fetch` gives a path whose bytes were verified.

registry.py   what there is: assets and kinds of source
store.py      the cache: verify, lock, write atomically, try each source
sources.py    how each kind of source delivers a file
download.py   HTTP with time-outs, retries and resumption
archive.py    one member out of a zip archive, bounded
restore.py    the SMS collection, byte for byte, from a careless copy of it
progress.py   what the person sees meanwhile
"""

from spamlit.assets.files import atomic_folder, atomic_write, sha256_file, sha256_settings
from spamlit.assets.registry import (
    ASSETS,
    DEFAULT_ASSETS,
    Asset,
    AssetError,
    FileSource,
    HubSource,
    Member,
    Source,
    UrlSource,
    WheelSource,
)
from spamlit.assets.store import cache_dir, cached, fetch, path_of

__all__ = [
    "ASSETS",
    "DEFAULT_ASSETS",
    "Asset",
    "AssetError",
    "FileSource",
    "HubSource",
    "Member",
    "Source",
    "UrlSource",
    "WheelSource",
    "atomic_folder",
    "atomic_write",
    "cache_dir",
    "cached",
    "fetch",
    "path_of",
    "sha256_file",
    "sha256_settings",
]
