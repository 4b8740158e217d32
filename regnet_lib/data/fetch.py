"""Download a dataset once, verified, and unpack it without trusting the archive.

    fetch("msd_hippocampus", "~/registration-data")

A download goes to `<name>.partial`, goes on where it stopped after an interruption, tries the next
mirror when one fails, and gets its name only when its digest is right; `archives` unpacks it. Of
the known packages, pooch verifies but cannot resume, and its unpacking lets members escape on
Python 3.11 (fatiando/pooch#543), hence this file.
"""

import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from regnet_lib.data.archives import mib, require_space, unpack
from regnet_lib.data.catalogue import Archive, Entry, find_entry
from regnet_lib.data.nifti import BadInputError

CHUNK = 2**20
TRIES = 3  # per mirror, each going on where the last one stopped
LOOPBACK = ("127.0.0.1", "localhost")

Report = Callable[[str], object]


def fetch(
    name: str,
    root: str | os.PathLike,
    *,
    archives: str | os.PathLike | None = None,
    accept_terms: bool = False,
    keep_archives: bool = False,
    report: Report = lambda line: None,
) -> Path:
    """Put a dataset into `root/<name>` and return that folder.

    Args:
        root: usually `$REGNET_DATA`.
        archives: folder with archives that you have already; they are verified, never downloaded.
        accept_terms: you have read and accept the owner's terms, where there are any.
        keep_archives: leave downloaded archives in `root/.archives`.
        report: is told what happens.

    Raises:
        BadInputError: a set that cannot be downloaded (the message says what to do), terms that
            are not accepted, results in the way, or a download or archive that is not what it
            should be. Nothing half-done is left under the final name.
    """
    entry = find_entry(name)
    root = Path(root).expanduser()
    target = root / name
    if not entry.archives or (archives is None and not entry.fetchable):
        raise BadInputError(
            f"{name}: cannot be downloaded by a program. For what to do instead, see regnet data "
            f"list {name}."
        )
    if entry.registration and archives is None and not accept_terms:
        raise BadInputError(
            f"{name}: its owner asks you to {entry.registration} ({entry.licence}). Read them, "
            "then repeat with accept_terms (--accept-terms)."
        )
    if target.exists() and any(target.iterdir()):
        raise BadInputError(
            f"{target}: expected no such folder, found one with files. Look with regnet data "
            "check; move it away to fetch the set again."
        )
    root.mkdir(parents=True, exist_ok=True)
    store = Path(archives) if archives is not None else root / ".archives"
    if archives is None:
        store.mkdir(exist_ok=True)
        files = [download(archive, store, report=report) for archive in entry.archives]
    else:
        files = [_verified(archive, store / archive.name) for archive in entry.archives]
    _unpack_all(entry, files, target, report)
    if archives is None and not keep_archives:
        for file in files:
            file.unlink()
        if not any(store.iterdir()):
            store.rmdir()
    return target


def download(
    archive: Archive, folder: Path, *, report: Report = lambda line: None, seconds: float = 60.0
) -> Path:
    """Download one file into a folder, verified.

    Args:
        seconds: without a byte, after which a connection counts as broken.

    Raises:
        BadInputError: no mirror gave the right file; the message lists what each of them did.
    """
    final, partial = folder / archive.name, folder / (archive.name + ".partial")
    if final.exists():
        return _verified(archive, final)
    complaints = []
    for url in archive.urls:
        for _ in range(TRIES):
            resumed = partial.exists()
            try:
                _receive(url, partial, report, seconds)
                _verified(archive, partial)
                os.replace(partial, final)
                return final
            except _WrongContentError as error:
                partial.unlink(missing_ok=True)
                complaints.append(f"{url}: {error}")
                if not resumed:  # else the two halves may be of two files: once more from the start
                    break
            except (OSError, http.client.HTTPException) as error:
                complaints.append(f"{url}: {error or type(error).__name__}")
                if _is_final(error):
                    break
    listed = "\n  ".join(dict.fromkeys(complaints))
    raise BadInputError(
        f"{archive.name}: no address gave the expected file. Try again later; what has arrived is "
        f"kept and continued.\n  {listed}"
    )


class _WrongContentError(BadInputError):
    """What arrived is complete and not the file."""


class _RefusedError(OSError):
    """An answer that is not worth asking for again."""


def _is_final(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (401, 403, 404, 410)
    return isinstance(error, _RefusedError)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, fp, code, msg, headers, newurl):
        _require_secure(newurl)
        return super().redirect_request(request, fp, code, msg, headers, newurl)


def _require_secure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise _RefusedError(f"expected an address with https, was sent to {url}")


def _receive(url: str, partial: Path, report: Report, seconds: float) -> None:
    """Append what is missing to `partial`; a server that cannot continue starts it anew."""
    _require_secure(url)
    have = partial.stat().st_size if partial.exists() else 0
    # Transparent compression would change both length and position.
    headers = {"User-Agent": "regnet_lib", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=seconds)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the file there is another one: verify
            return
        raise
    with closing(answer):
        continued = answer.status == 206 and _starts_at(answer, have)
        if have and not continued and answer.status == 206:
            raise OSError(f"asked for bytes from {have}, was sent others")
        if "text/html" in (answer.headers.get("Content-Type") or ""):
            raise _RefusedError(
                "expected an archive, found a web page; the file may have moved, or a login stands "
                "in between"
            )
        length = answer.headers.get("Content-Length")
        total = (have if continued else 0) + int(length) if length else None
        require_space(partial.parent, int(length or 0))
        report(f"{url}: {mib(total)}" + (f", going on at {mib(have)}" if continued else ""))
        with partial.open("ab" if continued else "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
    arrived = partial.stat().st_size
    if total is not None and arrived != total:
        raise OSError(f"expected {total} bytes, the connection ended after {arrived}")


def _starts_at(answer: http.client.HTTPResponse, position: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {position}-")


def _verified(archive: Archive, path: Path) -> Path:
    if not path.is_file():
        raise BadInputError(f"{path}: the file does not exist. Put the archive there.")
    algorithm, _, expected = archive.digest.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
        file.seek(0)
        start = file.read(512).lstrip().lower()
    if found != expected:
        what = "a web page" if start.startswith((b"<!doctype html", b"<html")) else "other content"
        raise _WrongContentError(
            f"{path.name}: expected {algorithm} {expected} (by {archive.digest_source}), found "
            f"{what} with {found}"
        )
    return path


def _unpack_all(entry: Entry, files: list[Path], target: Path, report: Report) -> None:
    """Each archive into a folder of its own; the one that bears the marks becomes the dataset."""
    work = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        for number, file in enumerate(files):
            report(f"unpacking {file.name}")
            unpack(file, work / str(number))
        merged = work / "all"
        merged.mkdir()
        for number in range(len(files)):
            inner = work / str(number)
            for path in sorted(inner.iterdir()):
                if (merged / path.name).exists():
                    raise BadInputError(f"{files[number]}: holds {path.name}, as another one does.")
                path.rename(merged / path.name)
        found = _marked_folder(entry, merged)
        if target.exists():
            target.rmdir()  # empty, or the call would have been refused
        found.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _marked_folder(entry: Entry, folder: Path) -> Path:
    from regnet_lib.data import MARKERS

    candidates = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    for candidate in candidates:
        if any((candidate / marker).exists() for marker in MARKERS[entry.name]):
            return candidate
    raise BadInputError(
        f"{entry.name}: expected one of {', '.join(MARKERS[entry.name])} in the archive, found "
        f"{', '.join(sorted(path.name for path in folder.iterdir())[:5])}."
    )
