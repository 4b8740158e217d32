"""The one reader and the one writer of NIfTI volumes.

Reading goes through nibabel, which refuses truncated files that other readers fill with zeros, plus
the checks below; every failure names the file. Writing goes to a temporary name first, so that a
full disk or a killed process leaves either the old file or the new one.

    volume = read_volume("brain.nii.gz")          # array (D, H, W) as on disk, affine to RAS+ mm
    write_volume("warped.nii.gz", array, volume.affine)
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = (".nii", ".nii.gz")


class BadInputError(ValueError):
    """Input that cannot be used: says what, which file, what was expected and found, what to do."""


@dataclass(frozen=True)
class Volume:
    """A scalar volume: `array` `(D, H, W)` in file order, `affine` `(4, 4)` voxel -> RAS+ mm."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        return tuple(float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))


def read_volume(path: str | os.PathLike, *, labels: bool = False) -> Volume:
    """Read a 3-D NIfTI file as float32, or as int64 with `labels=True`.

    Raises:
        BadInputError: missing, empty, truncated or foreign file, more than one volume, unusable
            affine, voxels that are not finite, or label values that are not whole numbers.
    """
    path = Path(path)
    image = _open(path)
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 2:
        raise BadInputError(
            f"{path}: expected one 3-D volume, found an array of shape {tuple(image.shape)}. "
            "Extract the volume you want to register first."
        )
    affine = _invertible_affine(path, image)
    _require_memory(path, shape)
    array = _voxels(path, image).reshape(shape)
    if labels:
        return Volume(_whole_numbers(path, array), affine)
    array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise BadInputError(
            f"{path}: expected finite voxels, found {int((~finite).sum())} that are NaN or "
            f"infinite, the first at voxel {first}. Replace them, for example by the "
            "background value."
        )
    return Volume(array, affine)


def read_masks(path: str | os.PathLike) -> tuple[Volume, ...]:
    """Read a 3-D or 4-D NIfTI file of masks, one per volume, as int64 of 0 and 1.

    Raises:
        BadInputError: as `read_volume`, or values other than 0 and 1.
    """
    path = Path(path)
    image = _open(path)
    shape = (*image.shape, 1) if len(image.shape) == 3 else tuple(image.shape)
    if len(shape) != 4 or min(shape[:3]) < 2 or shape[3] < 1:
        raise BadInputError(
            f"{path}: expected masks in a 3-D or 4-D file, found an array of shape "
            f"{tuple(image.shape)}. Fetch it again."
        )
    affine = _invertible_affine(path, image)
    _require_memory(path, shape)
    array = _whole_numbers(path, _voxels(path, image).reshape(shape))
    if array.max() > 1:
        raise BadInputError(f"{path}: expected masks of 0 and 1, found the value {array.max()}.")
    return tuple(Volume(array[..., index], affine) for index in range(shape[3]))


def require_same_grid(
    moving: Volume, fixed: Volume, moving_path: object, fixed_path: object
) -> None:
    """Two volumes must share shape and affine (1e-3 mm) before their voxels may be compared."""
    if moving.array.shape != fixed.array.shape:
        raise BadInputError(
            f"{moving_path}: expected the shape of {fixed_path}, {fixed.array.shape}, found "
            f"{moving.array.shape}. Resample the moving image to the grid of the fixed one first."
        )
    if not np.allclose(moving.affine, fixed.affine, atol=1e-3):
        raise BadInputError(
            f"{moving_path}: expected the voxel-to-world matrix of {fixed_path}, "
            f"{fixed.affine.round(4).tolist()}, found {moving.affine.round(4).tolist()}. Resample "
            "the moving image to the grid of the fixed one first."
        )


def write_volume(
    path: str | os.PathLike,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    intent: str = "none",
    overwrite: bool = False,
) -> Path:
    """Write an array as NIfTI in millimetres, atomically.

    Args:
        intent: NIfTI intent name; `vector` for displacement files.
        overwrite: replace an existing file; without it an existing file is an error.
    """
    import nibabel

    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise BadInputError(f"{path}: expected a name ending in .nii or .nii.gz.")
    array = _storable(path, array)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    write_atomically(path, lambda temporary: nibabel.save(image, temporary), overwrite=overwrite)
    return path


def write_atomically(
    path: Path, write: Callable[[Path], object], *, overwrite: bool = False
) -> None:
    """Call `write(temporary)` and rename the result to `path` once it is complete on disk."""
    if path.exists() and not overwrite:
        raise BadInputError(f"{path}: the file exists. Choose another name or allow overwriting.")
    if not path.parent.is_dir():
        raise BadInputError(f"{path}: the folder {path.parent} does not exist. Create it first.")
    # The suffix stays at the end: nibabel chooses the format and the compression by it.
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp is private by default; the final file gets the usual permissions.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


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


def _open(path: Path):
    import nibabel

    if not path.exists():
        raise BadInputError(f"{path}: the file does not exist. Check the path.")
    if not path.is_file() or path.stat().st_size == 0:
        raise BadInputError(f"{path}: expected a NIfTI file, found a folder or an empty file.")
    if not path.name.endswith(SUFFIXES):
        raise BadInputError(
            f"{path}: expected a NIfTI file (.nii or .nii.gz). Convert other formats first."
        )
    try:
        return nibabel.Nifti1Image.from_filename(path)
    except Exception as error:
        with suppress(Exception):
            return nibabel.Nifti2Image.from_filename(path)
        raise BadInputError(
            f"{path}: the header is not that of a NIfTI file ({error}). Fetch or export it again."
        ) from error


def _invertible_affine(path: Path, image) -> np.ndarray:
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise BadInputError(
            f"{path}: expected an invertible voxel-to-world matrix, found {affine.tolist()}. "
            "Repair the qform or sform of the header."
        )
    return affine


def _voxels(path: Path, image) -> np.ndarray:
    try:
        array = _decompressed(path, image) if path.suffix == ".gz" else np.asanyarray(image.dataobj)
    except Exception as error:
        raise BadInputError(
            f"{path}: the header promises {' x '.join(map(str, image.shape))} voxels, but the "
            f"file ends early or is damaged ({error or type(error).__name__}). Fetch or "
            "copy it again."
        ) from error
    if array.dtype.kind not in "biuf":
        raise BadInputError(
            f"{path}: expected real numbers per voxel, found {array.dtype}. Convert to a scalar "
            "image."
        )
    return array


def _decompressed(path: Path, image) -> np.ndarray:
    """Read to the very end of the stream: the checksum stands there, past the last voxel."""
    import gzip

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
        raise BadInputError(f"{path}: expected labels >= 0, found {rounded.min()}.")
    return rounded.astype(np.int64)


def _require_memory(path: Path, shape: tuple[int, ...]) -> None:
    """A header can claim any size; ask for the memory before NumPy does."""
    import math

    needed = math.prod(shape) * 8
    try:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return
    if needed > available:
        raise BadInputError(
            f"{path}: the header claims {' x '.join(map(str, shape))} voxels, "
            f"{needed / 2**30:.0f} GiB in memory, more than this machine's "
            f"{available / 2**30:.0f} GiB. Check the header."
        )
