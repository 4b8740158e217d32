"""From voxels to the world: millimetre frames, other grids, and displacements between them.

nibabel's affines map voxels to RAS+ millimetres; ITK, ANTs and Slicer think in LPS, so the first
two components change sign. The files of other tools are read and written in `displacement_files`.

    points_mm = voxel_to_world(points, affine)                       # (N, 3), RAS+
    warped = warp_from(moving, displacement, between_grids(moving_affine, fixed_affine))
    save_displacement("displacement.nii.gz", displacement, affine, convention="itk")
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from regnet_lib.data.volume import Volume
from regnet_lib.spatial.checks import require_displacement
from regnet_lib.spatial.displacement_files import (
    RAS_TO_LPS,
    Convention,
    load_displacement,
    save_displacement,
)
from regnet_lib.spatial.grid import Interpolation, identity_grid, sample
from regnet_lib.types import AnyImage, Displacement

__all__ = [
    "RAS_TO_LPS",
    "Convention",
    "after_world_map",
    "between_grids",
    "displacement_to_grid",
    "load_displacement",
    "ras_to_lps",
    "resample_to_grid",
    "save_displacement",
    "voxel_to_world",
    "warp_from",
    "world_to_voxel",
]


def ras_to_lps(points_mm: np.ndarray) -> np.ndarray:
    """Flip the first two of three world coordinates, `(..., 3)`; its own inverse."""
    return np.asarray(points_mm, dtype=float) @ RAS_TO_LPS


def voxel_to_world(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Voxel coordinates `(N, 3)` to RAS+ millimetres; `(N, 2)` of a slice to its `(N, 2)`."""
    points = np.asarray(points, dtype=float)
    axes = points.shape[-1]
    return points @ affine[:axes, :axes].T + affine[:axes, 3]


def world_to_voxel(points_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """RAS+ millimetres `(N, 3)` to voxel coordinates; `(N, 2)` for a slice."""
    points_mm = np.asarray(points_mm, dtype=float)
    axes = points_mm.shape[-1]
    return (points_mm - affine[:axes, 3]) @ np.linalg.inv(affine[:axes, :axes]).T


def between_grids(
    moving_affine: np.ndarray, fixed_affine: np.ndarray, world: np.ndarray | None = None
) -> np.ndarray:
    """The `(4, 4)` matrix from voxels of the fixed grid to voxels of the moving grid.

    Args:
        moving_affine, fixed_affine: voxel -> RAS+ mm.
        world: `(4, 4)` from a place in the fixed to the corresponding one in the moving image, RAS+
            mm, such as an affine pre-alignment; the identity by default.
    """
    there = fixed_affine if world is None else world @ fixed_affine
    return np.linalg.inv(moving_affine) @ there


def warp_from(
    image: Shaped[Tensor, "#batch channel *grid"],
    displacement: Displacement,
    to_moving: np.ndarray,
    *,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> AnyImage:
    """`warp` of an image that lies on a grid of its own, in one interpolation.

    Args:
        image: `(1, C, *moving shape)`.
        displacement: `(1, n, *fixed shape)`, voxels of the fixed grid.
        to_moving: `(4, 4)` of `between_grids`.
        fill: value outside the moving image.
    """
    require_displacement("warp_from", displacement)
    coordinates = _mapped(identity_grid(displacement.shape[2:]) + displacement, to_moving)
    if fill != 0:
        image = image - fill
    warped = sample(image, coordinates, interpolation=interpolation)
    return warped + fill if fill != 0 else warped


def after_world_map(
    displacement: Displacement, affine: np.ndarray, world: np.ndarray
) -> Displacement:
    """One displacement for "first x + u(x), then the world matrix", in voxels of the same grid.

    Args:
        displacement: `(1, n, *shape)`, voxels.
        affine: voxel -> RAS+ mm of its grid.
        world: `(4, 4)` RAS+ mm, such as an affine pre-alignment.
    """
    require_displacement("after_world_map", displacement)
    matrix = between_grids(affine, affine, world)
    grid = identity_grid(displacement.shape[2:], dtype=torch.float64)
    moved = _mapped(grid + displacement.double(), matrix)
    return (moved - grid).to(displacement.dtype)


def displacement_to_grid(
    displacement: Displacement,
    affine: np.ndarray,
    shape: Sequence[int],
    new_affine: np.ndarray,
) -> Float[Tensor, "#batch axes *moved"]:
    """The same transformation on another grid of the world: undoes a crop, a pad or a resampling.

    Args:
        displacement: `(B, n, *old shape)`, voxels of the grid with `affine`.
        shape, new_affine: of the grid to go to. Outside the old grid the nearest vector continues.

    Returns:
        `(B, n, *shape)`, voxels of the new grid. A network's answer on a crop of the fixed image
        comes back onto the whole of it.
    """
    axes = require_displacement("displacement_to_grid", displacement)
    if len(shape) != axes or min(shape) < 2:
        raise ValueError(
            f"displacement_to_grid: expected {axes} sides of at least 2 voxels, got {tuple(shape)}."
        )
    to_old = between_grids(affine, new_affine)
    places = _mapped(identity_grid(shape, dtype=torch.float64), to_old)
    vectors = sample(displacement.double(), places, padding="border")
    turn = torch.from_numpy(np.linalg.inv(to_old[:axes, :axes]))
    return torch.einsum("ij,bj...->bi...", turn, vectors).to(displacement.dtype)


def _mapped(coordinates: Tensor, matrix: np.ndarray) -> Tensor:
    """Coordinates `(B, n, ...)` through a `(4, 4)` matrix."""
    axes = coordinates.shape[1]
    linear = torch.from_numpy(matrix[:axes, :axes].copy()).to(coordinates)
    offset = torch.from_numpy(matrix[:axes, 3].copy()).to(coordinates)
    moved = torch.einsum("ij,bj...->bi...", linear, coordinates)
    return moved + offset.view(1, axes, *[1] * (coordinates.ndim - 2))


def resample_to_grid(volume: Volume, fixed: Volume, *, labels: bool = False) -> Volume:
    """A volume on the grid of another one, in the same world; its darkest value outside."""
    axes = fixed.array.ndim
    still = torch.zeros(1, axes, *fixed.array.shape)
    image = torch.from_numpy(np.ascontiguousarray(volume.array))[None, None]
    moved = warp_from(
        image,
        still,
        between_grids(volume.affine, fixed.affine),
        interpolation="nearest" if labels else "linear",
        fill=0.0 if labels else float(volume.array.min()),
    )
    return Volume(moved[0, 0].numpy(), fixed.affine, volume.notes)
