"""Control points: one displacement per cell of `spacing` voxels along each axis.

Discrete methods (deeds, ConvexAdam) cannot try displacements for every voxel, so they cut the
volume into cubic cells and search one displacement for each. Cell c covers the voxels
c * spacing to (c + 1) * spacing - 1; its control point is the centre of the cell. Voxels beyond the
last whole cell belong to none.

    of_cells = F.avg_pool3d(displacement, spacing)                # (B, 3, D, H, W) -> (B, 3, cells)
    displacement = interpolate(of_cells, shape, spacing)          # and back, smooth
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from regnet_lib.spatial import identity_grid, sample, warp
from regnet_lib.types import Displacement


def interpolate(
    of_cells: Displacement, shape: Sequence[int], spacing: int
) -> Float[Tensor, "#batch axes *voxels"]:
    """Linear interpolation between control points, constant beyond the outermost ones.

    Args:
        of_cells: `(B, 3, *cells)`, at least two cells along each axis. Units are kept.
        shape: voxels of the result.
        spacing: side of a cell in voxels.
    """
    voxels = identity_grid(shape, dtype=of_cells.dtype, device=of_cells.device)
    return sample(of_cells, (voxels - (spacing - 1) / 2) / spacing, padding="border")


def make_consistent(
    forward: Displacement, backward: Displacement, iterations: int
) -> tuple[Displacement, Displacement]:
    """Pull two displacements of opposite directions towards being each other's inverse.

    Each iteration replaces u by the mean of u and the inverse that v implies,
    u <- (u - v(x + u)) / 2, and v likewise (Heinrich et al., IEEE TMI 2013, symmetric deeds).

    Args:
        forward, backward: `(B, 3, *shape)` in voxels of their own grid.
    """
    for _ in range(iterations):
        forward, backward = (
            (forward - warp(backward, forward, padding="border")) / 2,
            (backward - warp(forward, backward, padding="border")) / 2,
        )
    return forward, backward
