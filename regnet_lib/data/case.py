"""One pair to register, with everything that may be known about it. What every adapter returns.

case = LPBA40().case("S02")
registration = model(case.moving, case.fixed)   # (1, 1, D, H, W) each
"""

from dataclasses import dataclass

import numpy as np

from regnet_lib.types import Displacement, Image, Labels, Points


@dataclass(frozen=True)
class Case:
    """A moving and a fixed image on one grid.

    Attributes:
        id: name of the case within its dataset, unique there.
        moving, fixed: `(1, 1, *shape)` float32, array axes as on disk, never transposed; an
            adapter that turns volumes to a common orientation says so.
        affine: `(n + 1, n + 1)` voxel -> RAS+ millimetres of the (fixed) grid.
        moving_labels, fixed_labels: `(1, 1, *shape)` int64.
        label_ids: the labels to evaluate, in the order of every table.
        moving_landmarks, fixed_landmarks: `(N, n)` corresponding voxel coordinates, 0-based.
        displacement: the true displacement `(1, n, *shape)` where it is known (phantoms).
        moving_affine: `(n + 1, n + 1)` voxel -> millimetres of the moving scan as it was taken,
            where an affine alignment before the case changed lengths: errors are given there too.
        region: part of the grid on which metrics are computed; None means all of it.
    """

    id: str
    moving: Image
    fixed: Image
    affine: np.ndarray
    moving_labels: Labels | None = None
    fixed_labels: Labels | None = None
    label_ids: tuple[int, ...] = ()
    moving_landmarks: Points | None = None
    fixed_landmarks: Points | None = None
    displacement: Displacement | None = None
    moving_affine: np.ndarray | None = None
    region: tuple[slice, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape of the grid."""
        return tuple(self.fixed.shape[2:])

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along the array axes."""
        axes = len(self.shape)
        return tuple(float(size) for size in np.linalg.norm(self.affine[:axes, :axes], axis=0))
