"""A volume in memory, and the error that says why a file cannot become one.

volume = Volume(array, affine)      # array (D, H, W) in file order, affine voxel -> RAS+ mm
volume.spacing_mm, volume.notes
"""

from dataclasses import dataclass

import numpy as np


class BadInputError(ValueError):
    """Input that cannot be used: says what, which file, what was expected and found, what to do."""


@dataclass(frozen=True)
class Volume:
    """A scalar image on its grid.

    Attributes:
        array: `(D, H, W)` in file order; `(H, W)` for a slice that was asked for.
        affine: `(4, 4)` voxel -> RAS+ mm; for a slice the third column is its normal.
        notes: what a reader decided that the user may want to know, one sentence each.
    """

    array: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(length) for length in lengths[: self.array.ndim])


def same_grid(first: Volume, second: Volume) -> bool:
    """Whether shape and affine (1e-3 mm) agree."""
    return first.array.shape == second.array.shape and np.allclose(
        first.affine, second.affine, rtol=1e-5, atol=1e-3
    )


def require_same_grid(
    moving: Volume, fixed: Volume, moving_path: object, fixed_path: object
) -> None:
    """Two volumes must share shape and affine (1e-3 mm) before their voxels may be compared."""
    remedy = (
        "Resample the moving image to the grid of the fixed one first (`register` does it with "
        "--resample-to fixed)."
    )
    if moving.array.shape != fixed.array.shape:
        raise BadInputError(
            f"{moving_path}: expected the shape of {fixed_path}, {fixed.array.shape}, found "
            f"{moving.array.shape}. {remedy}"
        )
    if not same_grid(moving, fixed):
        raise BadInputError(
            f"{moving_path}: expected the voxel-to-world matrix of {fixed_path}, "
            f"{fixed.affine.round(4).tolist()}, found {moving.affine.round(4).tolist()}. {remedy}"
        )
