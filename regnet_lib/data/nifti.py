"""The one reader and the one writer of image files.

NIfTI goes through nibabel, which refuses truncated files that other readers fill with zeros;
MetaImage, NRRD and flat pictures go through SimpleITK (`itk_files`). The checks below are the same
for both, and every failure names the file. Writing goes to a temporary name first, so that a full
disk or a killed process leaves either the old file or the new one.

    volume = read_volume("brain.nii.gz")          # array (D, H, W) as on disk, affine to RAS+ mm
    write_volume("warped.nii.gz", array, volume.affine)
"""

import gzip
import math
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from regnet_lib.data.atomic import write_atomically
from regnet_lib.data.contents import (
    GZIP,
    describe,
    first_bytes,
    require_memory,
    require_regular_file,
)
from regnet_lib.data.geometry import header_affine, planar_affine, spatial_shape
from regnet_lib.data.volume import BadInputError, Volume, require_same_grid, same_grid

__all__ = [
    "BadInputError",
    "Volume",
    "read_masks",
    "read_volume",
    "require_same_grid",
    "same_grid",
    "write_volume",
]

SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

# deflate cannot shrink by more than this factor
LARGEST_COMPRESSION = 1032


def read_volume(path: str | os.PathLike, *, labels: bool = False, planar: bool = False) -> Volume:
    """Read one 3-D image as float32, or as int64 with `labels=True`.

    Args:
        path: .nii or .nii.gz; .mha, .mhd, .nrrd or .nhdr with the extra `io`.
        labels: whole numbers from 0 on are expected.
        planar: accept a 2-D image too, `(X, Y)` or `(X, Y, 1)`, and pictures (.png, .jpg, .tif).

    Raises:
        BadInputError: missing, empty, truncated or foreign file, more than one volume, unusable
            affine, voxels that are not finite, or label values that are not whole numbers.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(ITK_SUFFIXES) or (planar and name.endswith(PICTURE_SUFFIXES)):
        from regnet_lib.data.itk_files import read_image

        stored = read_image(path, planar=planar)
    else:
        stored = _read_nifti(path, planar=planar)
    if labels:
        return Volume(_whole_numbers(path, stored.array), stored.affine, stored.notes)
    with np.errstate(over="ignore"):
        array = stored.array.astype(np.float32)
    # Integers are finite; minimum and maximum pass on NaN and infinities, at a tenth of the cost of
    # a mask.
    if stored.array.dtype.kind == "f" and not np.isfinite([array.min(), array.max()]).all():
        finite = np.isfinite(array)
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise BadInputError(
            f"{path}: expected finite voxels, found {int((~finite).sum())} that are NaN or "
            f"infinite, the first at voxel {first}. Replace them, for example by the "
            "background value."
        )
    return Volume(array, stored.affine, stored.notes)


def read_masks(path: str | os.PathLike) -> tuple[Volume, ...]:
    """Read a 3-D or 4-D NIfTI file of masks, one per volume, as int64 of 0 and 1.

    Raises:
        BadInputError: as `read_volume`, or values other than 0 and 1.
    """
    path = Path(path)
    image = open_nifti(path)
    shape = (*image.shape, 1) if len(image.shape) == 3 else tuple(image.shape)
    if len(shape) != 4 or min(shape[:3]) < 2 or shape[3] < 1:
        raise BadInputError(
            f"{path}: expected masks in a 3-D or 4-D file, found an array of shape "
            f"{tuple(image.shape)}. Fetch it again."
        )
    affine, _ = header_affine(path, image)
    require_memory(path, shape)
    array = _whole_numbers(path, stored_voxels(path, image).reshape(shape))
    if array.max() > 1:
        raise BadInputError(f"{path}: expected masks of 0 and 1, found the value {array.max()}.")
    return tuple(Volume(array[..., index], affine) for index in range(shape[3]))


def write_volume(
    path: str | os.PathLike,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    intent: str | int = "none",
    overwrite: bool = False,
) -> Path:
    """Write an array in millimetres, atomically.

    Args:
        path: .nii or .nii.gz; .mha or .nrrd with the extra `io`.
        intent: NIfTI intent, name or number; `vector` for displacement files.
        overwrite: replace an existing file; without it an existing file is an error.

    Raises:
        BadInputError: an existing file, a missing folder, another suffix, or integers that do not
            fit.
        OSError: the disk is full; what was there before is unchanged.
    """
    path = Path(path)
    if path.name.endswith((".mha", ".nrrd")) and intent == "none":
        from regnet_lib.data.itk_files import itk_image, write_itk

        image = itk_image(_storable(path, np.asarray(array)), affine)
        return write_itk(path, image, overwrite=overwrite)
    if not path.name.endswith(SUFFIXES):
        raise BadInputError(f"{path}: expected a name ending in .nii, .nii.gz, .mha or .nrrd.")
    import nibabel

    array = _storable(path, np.asarray(array))
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)

    def write(temporary: Path) -> None:
        nibabel.save(image, temporary)
        _require_complete(temporary, image.header.single_vox_offset + array.nbytes)

    write_atomically(path, write, overwrite=overwrite)
    return path


def _require_complete(path: Path, expected_bytes: int) -> None:
    """Some file systems report a full disk only when the file is looked at again."""
    with open(path, "rb") as file:
        if path.suffix == ".gz":
            file.seek(-4, os.SEEK_END)
            found = struct.unpack("<I", file.read(4))[0]  # length modulo 2**32
        else:
            found = file.seek(0, os.SEEK_END)
    if found != expected_bytes % 2**32 and found != expected_bytes:
        raise OSError(28, f"only {found} of {expected_bytes} bytes were stored")


def _storable(path: Path, array: np.ndarray) -> np.ndarray:
    """NIfTI has no booleans and no half floats, and few programs read its 64-bit integers."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype not in (np.int64, np.bool_):
        return array
    lowest, highest = int(array.min(initial=0)), int(array.max(initial=0))
    for dtype in (np.uint8, np.int32):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return array.astype(dtype)
    raise BadInputError(
        f"{path}: expected integers of at most 32 bits, found values from {lowest} to {highest}. "
        "Convert to float64 or renumber the labels."
    )


def _read_nifti(path: Path, *, planar: bool) -> Volume:
    """The voxels as stored, with slope and intercept applied."""
    image = open_nifti(path)
    shape = spatial_shape(path, tuple(image.shape), planar=planar)
    affine, notes = header_affine(path, image)
    if len(shape) == 2:
        affine, more = planar_affine(affine)
        notes += more
    elif len(image.shape) > 3:
        notes += (f"an array of shape {tuple(image.shape)} holds one volume, which is used",)
    require_memory(path, shape)
    return Volume(stored_voxels(path, image).reshape(shape), affine, notes)


def open_nifti(path: Path):
    """The header of a NIfTI file, after a look at what the file really is."""
    import nibabel

    if not path.name.lower().endswith(SUFFIXES):
        require_regular_file(path)
        head = first_bytes(path)
        what, remedy = describe(head) or (
            f"the suffix {path.suffix!r}" if path.suffix else "no suffix",
            "Convert other formats first.",
        )
        raise BadInputError(
            f"{path}: expected a NIfTI file (.nii or .nii.gz), or .mha, .mhd, .nrrd, .nhdr, found "
            f"{what}. {remedy}"
        )
    require_regular_file(path, "a NIfTI file")
    head = first_bytes(path)
    _require_nifti_content(path, head)
    failures = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        try:
            return kind.from_filename(path)
        except Exception as error:
            failures.append(str(error) or type(error).__name__)
    second = head[:4] in (struct.pack("<i", 540), struct.pack(">i", 540))
    raise BadInputError(
        f"{path}: the header is not that of a NIfTI file ({failures[second]}). Fetch or export it "
        "again."
    )


def _require_nifti_content(path: Path, head: bytes) -> None:
    """Name the web pages, pointers and archives that carry the suffix of an image."""
    compressed = path.name.lower().endswith(".gz")
    known = describe(head)
    if known is None and compressed and head.startswith(GZIP):
        with suppress(OSError, EOFError, zlib.error), gzip.open(path) as stream:
            known = describe(stream.read(512))
            if known is not None:
                known = (f"{known[0]} inside a gzip file", known[1])
    if known is not None:
        raise BadInputError(
            f"{path}: the header is not that of a NIfTI file: the content is {known[0]}. {known[1]}"
        )
    if compressed and not head.startswith(GZIP):
        plain = head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0"
        found = "an uncompressed NIfTI file" if plain else "a file that is not compressed"
        remedy = "Rename it to .nii." if plain else "Fetch or export it again."
        raise BadInputError(
            f"{path}: the header is not that of a NIfTI file in gzip form: expected a gzip file, "
            f"found {found}. {remedy}"
        )
    if not compressed and head.startswith(GZIP):
        raise BadInputError(
            f"{path}: the header is not that of a NIfTI file: the file is gzip-compressed. Rename "
            "it to .nii.gz."
        )


def stored_voxels(path: Path, image) -> np.ndarray:
    """All voxels of an opened file, with slope and intercept, checked to the last byte."""
    promised = math.prod(image.shape) * image.header.get_data_dtype().itemsize
    compressed = path.name.lower().endswith(".gz")
    try:
        if compressed and promised > path.stat().st_size * LARGEST_COMPRESSION:
            raise EOFError(f"{path.stat().st_size} bytes cannot unpack to {promised}")
        array = _decompressed(path, image) if compressed else np.asanyarray(image.dataobj)
    except Exception as error:
        raise BadInputError(
            f"{path}: the header promises {' x '.join(map(str, image.shape))} voxels, but the "
            f"file ends early or is damaged ({error or type(error).__name__}). Fetch or "
            "copy it again."
        ) from error
    return real_voxels(path, array)


def real_voxels(path: object, array: np.ndarray) -> np.ndarray:
    """One real number per voxel, nothing else."""
    if array.dtype.kind in "biuf":
        return array
    kinds = {"c": "complex numbers", "V": "colours (RGB)"}
    raise BadInputError(
        f"{path}: expected real numbers per voxel, found {kinds.get(array.dtype.kind, 'records')} "
        f"({array.dtype}). Convert to a scalar image."
    )


def _decompressed(path: Path, image) -> np.ndarray:
    """Read to the very end of the stream: the checksum stands there, past the last voxel."""
    from nibabel.fileholders import FileHolder

    with gzip.open(path) as stream:
        opened = type(image).from_file_map({"image": FileHolder(fileobj=stream)})
        array = np.asanyarray(opened.dataobj)
        while stream.read(2**20):
            pass
    return array


def _whole_numbers(path: Path, array: np.ndarray) -> np.ndarray:
    rounded = array.round() if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (rounded == array).all()):
        raise BadInputError(
            f"{path}: expected whole numbers in a label map, found fractions or NaN. A label map "
            "must be resampled with nearest-neighbour interpolation."
        )
    if rounded.min() < 0:
        raise BadInputError(
            f"{path}: expected labels >= 0, found {rounded.min()}. Renumber them; 0 is background."
        )
    if rounded.max() > np.iinfo(np.int32).max:
        raise BadInputError(
            f"{path}: expected labels of at most 32 bits, found {rounded.max()}. Renumber them."
        )
    return rounded.astype(np.int64)
