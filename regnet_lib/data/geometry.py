"""Where the voxels of a file lie in the world, and whether that can be said at all.

affine, notes = header_affine(path, nibabel_image)
require_usable_affine(path, affine)
"""

import math
from pathlib import Path

import numpy as np

from regnet_lib.data.volume import BadInputError

MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "micron": 1e-3, "meter": 1e3}
# cosine between two array axes that still counts as perpendicular
LARGEST_COSINE = 1e-3


def require_usable_affine(path: object, affine: np.ndarray) -> None:
    """Finite, invertible, and with perpendicular axes (cosines up to 1e-3).

    Sheared grids cannot be said in ITK's origin, spacing and direction, so no result on them would
    open elsewhere.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0 or _volume_of(affine, lengths) < 1e-6:
        raise BadInputError(
            f"{path}: expected an invertible voxel-to-world matrix, found {affine.tolist()}. "
            "Repair the qform or sform of the header."
        )
    directions = affine[:3, :3] / lengths
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if cosines.max() > LARGEST_COSINE:
        angle = math.degrees(math.acos(min(float(cosines.max()), 1.0)))
        raise BadInputError(
            f"{path}: expected perpendicular array axes, found two at {angle:.1f} degrees: the "
            "sform contains a shear. Resample the image to a grid without it, or set the sform "
            "to the qform."
        )


def planar_affine(affine: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The matrix of a 2-D image: its own in the axial plane, else the voxel sizes alone."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(affine[2, :2] / lengths[:2]).max() <= LARGEST_COSINE:
        return affine, ()
    note = (
        "the slice does not lie in the axial plane; only its voxel sizes are kept, because files "
        "of 2-D displacements cannot say where such a plane lies"
    )
    return np.diag([*lengths, 1.0]), (note,)


def header_affine(path: Path, image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Voxel -> RAS+ mm, and what had to be decided to get there."""
    header = image.header
    affine = np.array(image.affine, dtype=float)
    notes: tuple[str, ...] = ()
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
        notes += ("the header names no known unit of length; millimetres are assumed",)
    if MM_PER_UNIT.get(unit, 1.0) != 1.0:
        affine[:3] *= MM_PER_UNIT[unit]
        notes += (f"the header is in {unit}s; converted to millimetres",)
    require_usable_affine(path, affine)
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if qform_code == 0 and sform_code == 0:
        notes += (
            "the header has neither qform nor sform: only the voxel sizes are known, and other "
            "programs may place the image elsewhere",
        )
    elif qform_code > 0 and sform_code > 0:
        notes += _disagreement(header, tuple(image.shape[:3]))
    return affine, notes


def spatial_shape(path: object, shape: tuple[int, ...], *, planar: bool) -> tuple[int, ...]:
    """The shape without trailing ones: three sides of at least 2, or two where that is allowed."""
    found = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if planar and len(shape) == 3 and shape[-1] == 1:
        shape = shape[:-1]
    axes = (2, 3) if planar else (3,)
    if len(shape) in axes and min(shape) >= 2:
        return shape
    wanted = "one 2-D or 3-D image" if planar else "one 3-D volume"
    if len(shape) == 5 and shape[3] == 1 and shape[4] in (2, 3):
        remedy = "It looks like a displacement field; give the image itself."
    elif len(shape) == 4:
        remedy = "Extract the volume you want to register first."
    else:
        remedy = "Extract the volume you want to register first; every side needs 2 voxels."
    raise BadInputError(f"{path}: expected {wanted}, found an array of shape {found}. {remedy}")


def _disagreement(header, shape: tuple[int, ...]) -> tuple[str, ...]:
    """How far apart qform and sform put the corner that is farthest from the first voxel."""
    corner = np.array([*(side - 1 for side in shape), *[0] * (3 - len(shape)), 1.0])
    try:
        difference = (header.get_sform() - header.get_qform()) @ corner
    except Exception:  # a quaternion that is none; the sform is what counts
        return ()
    apart_mm = float(np.linalg.norm(difference[:3]))
    if apart_mm <= 0.1:
        return ()
    return (
        f"qform and sform disagree by up to {apart_mm:.1f} mm; the sform is used, other programs "
        "may take the qform",
    )


def _volume_of(affine: np.ndarray, lengths: np.ndarray) -> float:
    """Volume of the parallelepiped of the three unit axes: 1 if perpendicular, 0 if flat."""
    return float(abs(np.linalg.det(affine[:3, :3] / lengths)))
