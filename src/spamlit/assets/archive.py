"""One member out of a zip archive. The archive may come from anywhere, so nothing in it names a path or sets a size."""

import errno
import stat
import zipfile
import zlib
from pathlib import Path

from spamlit.assets.registry import Member, SourceError

_CHUNK = 1 << 20


def extract(archive: Path, member: Member, target: Path) -> None:
    """Write `member` of `archive` to `target`.

    The member is found by its exact name, its output path is the caller's, and it is read up to the size that the
    registry states and not a byte further: `../` members, links and bombs have nothing to act on.

    Raises:
        SourceError: Not a zip archive, no such member, or a member of another size or kind.
        OSError: `target` cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = _find(opened, member)
            if member.restore is None:
                _copy(opened, info, member.size, target)
                return
            with opened.open(info) as stream:
                content = _exactly(stream.read(member.size + 1), member)
        target.write_bytes(member.restore(content))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise SourceError(f"cannot read {member.name} from the archive: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise SourceError(f"cannot read {member.name}: the archive names a place before its begin") from error


def _find(archive: zipfile.ZipFile, member: Member) -> zipfile.ZipInfo:
    found = [info for info in archive.infolist() if info.filename == member.name]
    if len(found) != 1:
        raise SourceError(f"the archive has {len(found)} members named {member.name}, expected one")
    info = found[0]
    encrypted = bool(info.flag_bits & 0x1)
    if encrypted or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise SourceError(f"member {member.name} is encrypted, a folder or a link, expected a plain file")
    # The other methods' decompressors return everything at once, however much that is.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(f"member {member.name} is compressed by method {info.compress_type}, expected deflate")
    if info.file_size != member.size:
        raise SourceError(f"member {member.name} has {info.file_size:,} bytes, expected {member.size:,}")
    return info


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int, target: Path) -> None:
    left = size
    with archive.open(info) as stream, target.open("wb") as file:
        while left and (chunk := stream.read(min(_CHUNK, left))):
            left -= file.write(chunk)


def _exactly(content: bytes, member: Member) -> bytes:
    if len(content) != member.size:
        raise SourceError(f"member {member.name} delivers {len(content):,} bytes, expected {member.size:,}")
    return content
