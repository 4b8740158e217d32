"""Unpack an archive without trusting it.

    unpack(Path("Task04_Hippocampus.tar"), Path("new-folder"))

All members are listed and judged before anything is written: names that would leave the folder,
links, devices, names that occur twice, and many times more bytes than the archive has are refused.
Files are then written one by one into a temporary folder, which is renamed at the end, so that the
final folder is complete or absent. Neither `tarfile` nor `zipfile` does all of this: older Pythons
let tar members escape, and zipfile renames such members silently.
"""

import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from regnet_lib.data.nifti import BadInputError

CHUNK = 2**20
# An archive of scans hardly shrinks: one that unpacks to much more than this is a trap.
LARGEST_RATIO, ALWAYS_ALLOWED = 50, 2**30
# RuntimeError and NotImplementedError: encrypted members, unknown compression.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
)


@dataclass(frozen=True)
class _Member:
    """A regular file of an archive: where it goes, how long it is, how to read it."""

    path: PurePosixPath
    size: int
    open: Callable[[], BufferedIOBase]


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file into the new folder `target`, all or nothing.

    Raises:
        BadInputError: no such archive, a damaged one, or a member that no honest archive has.
    """
    if target.exists():
        raise BadInputError(f"{target}: expected no such folder, found one.")
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        for member in _members(archive):
            place = temporary.joinpath(*member.path.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, place.open("xb") as file:
                shutil.copyfileobj(_limited(source, member, archive), file, CHUNK)
            if place.stat().st_size != member.size:
                raise BadInputError(f"{archive}: {member.path} ends early. Fetch it again.")
        temporary.chmod(0o755)
        os.replace(temporary, target)
    except _DAMAGED as error:
        raise BadInputError(f"{archive}: cannot be unpacked ({error}). Fetch it again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _members(archive: Path) -> Iterator[_Member]:
    """All files of an archive, after all names and sizes have been judged."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            infos = [info for info in opened.getmembers() if not info.isdir()]
            for info in infos:
                if not info.isreg():
                    raise _dishonest(archive, info.name, "a link or a device")
            yield from _judged(
                archive,
                [
                    (info.name, info.size, lambda info=info: opened.extractfile(info))
                    for info in infos
                ],
            )
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            for info in infos:
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG):
                    raise _dishonest(archive, info.filename, "a link or a device")
            yield from _judged(
                archive,
                [
                    # orig_filename: ZipFile has already rewritten the other one to look harmless
                    (info.orig_filename, info.file_size, lambda info=info: opened.open(info))
                    for info in infos
                ],
            )
    else:
        raise BadInputError(f"{archive}: expected a tar or zip archive, found something else.")


def _judged(
    archive: Path, listed: list[tuple[str, int, Callable[[], BufferedIOBase]]]
) -> Iterator[_Member]:
    members, seen = [], set()
    for name, size, opener in listed:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
            raise _dishonest(archive, name, "a path out of the folder")
        if str(path).lower() in seen:
            raise _dishonest(archive, name, "a name that occurs twice")
        seen.add(str(path).lower())
        if not path.name.startswith("._"):  # what macOS leaves beside every file
            members.append(_Member(path, size, opener))
    total, packed = sum(size for _, size, _ in listed), archive.stat().st_size
    if total > max(ALWAYS_ALLOWED, LARGEST_RATIO * packed):
        raise _dishonest(archive, f"{mib(total)} in {mib(packed)}", "more than scans can hold")
    require_space(archive.parent, total)
    return iter(members)


class _limited:
    """A stream that ends with an error when it gives more than the archive announced."""

    def __init__(self, source: BufferedIOBase, member: _Member, archive: Path) -> None:
        self._source, self._left = source, member.size
        self._member, self._archive = member, archive

    def read(self, count: int) -> bytes:
        block = self._source.read(min(count, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise _dishonest(self._archive, str(self._member.path), "more bytes than announced")
        return block


def require_space(folder: Path, count: int) -> None:
    """So many bytes must be free where the folder lies."""
    free = shutil.disk_usage(folder).free
    if count > free:
        raise BadInputError(
            f"{folder}: expected {mib(count)} of free space, found {mib(free)}. Make room."
        )


def _dishonest(archive: Path, name: str, what: str) -> BadInputError:
    return BadInputError(
        f"{archive}: refused, nothing was unpacked: {name!r} is {what}. Fetch the archive from its "
        "owner."
    )


def mib(count: int | None) -> str:
    """A number of bytes in words."""
    return "unknown size" if count is None else f"{count / 2**20:.0f} MiB"
