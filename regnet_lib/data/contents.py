"""What a file really is, and whether it fits into memory: asked before anything parses it.

require_regular_file(path)
require_memory(path, (30000, 30000, 30000))     # raises: the header claims 201166 GiB
"""

import math
import os
from pathlib import Path

from regnet_lib.data.volume import BadInputError

_PICKLE = "Convert it to NIfTI; pickles are not read, because they can run code."
# First bytes (lower case), what the file is, and what to do about it.
SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype", "a web page", "The download failed; fetch the file again."),
    (b"<html", "a web page", "The download failed; fetch the file again."),
    (b"<?xml", "an XML document", "The download failed; fetch the file again."),
    (b"{", "a JSON text", "Give the image, not its description."),
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the content with `git lfs pull`."),
    (b"/annex/objects/", "a git-annex pointer", "Fetch the content with `git annex get`."),
    (b"pk\x03\x04", "a zip archive", "Unpack it and give the image in it."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and give the image in it."),
    (b"rar!", "a RAR archive", "Unpack it and give the image in it."),
    (b"bzh", "a bzip2 file", "Decompress it with `bunzip2`."),
    (b"\xfd7zxz", "an xz file", "Decompress it with `unxz`."),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "Decompress it with `unzstd`."),
    (b"\x89png", "a PNG picture", "Give it its own suffix, .png."),
    (b"\xff\xd8\xff", "a JPEG picture", "Give it its own suffix, .jpg."),
    (b"\x89hdf", "an HDF5 or MINC 2 file", "Convert it to NIfTI."),
    (b"cdf\x01", "a MINC file", "Convert it to NIfTI, for example with `mnc2nii`."),
    (b"nrrd0", "an NRRD image", "Give it its own suffix, .nrrd."),
    (b"objecttype", "a MetaImage", "Give it its own suffix, .mha."),
    (b"%pdf", "a PDF document", "Give the image file."),
    (
        b"\x80\x02",
        "a Python pickle",
        "Convert it to NIfTI; pickles are not read, they can run code.",
    ),
    (
        b"\x80\x04",
        "a Python pickle",
        "Convert it to NIfTI; pickles are not read, they can run code.",
    ),
    (
        b"\x80\x05",
        "a Python pickle",
        "Convert it to NIfTI; pickles are not read, they can run code.",
    ),
    (b"\x93numpy", "a NumPy array", "Save it as NIfTI with its voxel-to-world matrix."),
)
GZIP = b"\x1f\x8b"


def describe(head: bytes) -> tuple[str, str] | None:
    """What the first bytes of a file say it is, and the remedy; None if they are unknown."""
    lowered = head[:64].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for signature, what, remedy in SIGNATURES:
        if lowered.startswith(signature):
            return what, remedy
    if head[128:132] == b"DICM":
        return "a DICOM file", "Convert the series to NIfTI, for example with `dcm2niix`."
    if head[257:262] == b"ustar":
        return "a tar archive", "Unpack it and give the image in it."
    return None


def require_regular_file(path: Path, what: str = "an image file") -> None:
    """There must be a file with content that can be read.

    Raises:
        BadInputError: nothing there, a folder, a pipe or a device, nothing in it, no permission.
    """
    if not path.exists():
        if path.is_symlink():
            raise BadInputError(
                f"{path}: the link points to {os.readlink(path)}, which does not exist. Fetch the "
                "content (`git annex get` or `datalad get` in an annex), or check the path."
            )
        raise BadInputError(f"{path}: the file does not exist. Check the path.")
    if not path.is_file() or path.stat().st_size == 0:
        raise BadInputError(
            f"{path}: expected {what}, found a folder or an empty file. Check the path."
            if path.is_dir() or path.is_file()
            else f"{path}: expected {what}, found a pipe or a device. Save it to a file first."
        )


def first_bytes(path: Path, count: int = 512) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise BadInputError(
            f"{path}: the file cannot be read ({error.strerror}). Check its permissions."
        ) from error


def require_memory(path: Path, shape: tuple[int, ...], bytes_per_voxel: int = 8) -> None:
    """A header can claim any size; ask for the memory before NumPy does."""
    needed, available = math.prod(shape) * bytes_per_voxel, available_bytes()
    if available is not None and needed > available:
        raise BadInputError(
            f"{path}: the header claims {' x '.join(map(str, shape))} voxels, "
            f"{needed / 2**30:.1f} GiB in memory, more than the {available / 2**30:.1f} GiB that "
            "are free. Check the header, or use a machine with more memory."
        )


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
