"""Target registration error of landmarks, in millimetres.

A displacement on the fixed grid moves fixed landmarks into the moving image, so the error is
|x_fixed + u(x_fixed) - x_moving|; AD-RegNet equations (19) and (23) print the other direction.

    errors = tre_mm(moving_points, fixed_points, displacement, spacing_mm=(1.0, 1.0, 2.5))   # (N,)
"""

from collections.abc import Sequence

import numpy as np
import torch

from regnet_lib.spatial import warp_points
from regnet_lib.types import Displacement, Points


def tre_mm(
    moving_points: Points,
    fixed_points: Points,
    displacement: Displacement,
    spacing_mm: Sequence[float],
    snap: bool = False,
) -> np.ndarray:
    """Distance in mm per landmark.

    Args:
        moving_points, fixed_points: `(N, 3)` 0-based voxel coordinates, array axis order.
        displacement: `(1, 3, D, H, W)` voxels on the fixed grid.
        spacing_mm: voxel size of the moving image along the array axes.
        snap: round the moved point to the nearest voxel first, as DIR-Lab's own tool does.
    """
    if moving_points.shape != fixed_points.shape:
        raise ValueError(
            "tre_mm: expected as many moving as fixed points, got shapes "
            f"{tuple(moving_points.shape)} and {tuple(fixed_points.shape)}."
        )
    axes = fixed_points.shape[1]
    if len(spacing_mm) != axes or min(spacing_mm) <= 0:
        raise ValueError(
            f"tre_mm: expected {axes} positive spacings in mm, got {tuple(spacing_mm)}. Give the "
            "voxel size of the moving image along its array axes."
        )
    moved = warp_points(fixed_points, displacement)
    if snap:
        moved = moved.round()
    spacing = torch.as_tensor(spacing_mm, dtype=moved.dtype, device=moved.device)
    difference = (moved - moving_points) * spacing
    return difference.norm(dim=1).double().cpu().numpy()
