"""Composition, change of grid and inversion of displacement fields.

    u = compose(outer, inner)   # u(x) = inner(x) + outer(x + inner(x))

Applying `u` once equals warping with `outer` first and the result with `inner`:
warp(warp(moving, outer), inner) = warp(moving, compose(outer, inner)), up to interpolation.
LGANet++ equation (9) is compose(upsampled coarse field, new field).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from regnet_lib.spatial.checks import require_displacement, require_same_grid
from regnet_lib.spatial.grid import Padding, resample
from regnet_lib.spatial.warp import warp
from regnet_lib.types import Displacement


def compose(
    outer: Displacement, inner: Displacement, *, padding: Padding = "border"
) -> Displacement:
    """`inner(x) + outer(x + inner(x))`, both `(B, n, *shape)` in voxels of one grid.

    Args:
        padding: `border` continues the field outside the grid; `zeros` is what VoxelMorph, LGANet
            and most published networks do.
    """
    require_displacement("compose", outer, "outer")
    require_displacement("compose", inner, "inner")
    require_same_grid("compose", outer, inner, "outer")
    return inner + warp(outer, inner, padding=padding)


def resize(
    displacement: Displacement,
    shape: Sequence[int],
    *,
    ratio: Literal["size", "corner"] = "size",
) -> Float[Tensor, "#batch axes *resized"]:
    """Resample a field to another grid and rescale its vectors to voxels of that grid.

    Args:
        shape: new spatial shape.
        ratio: factor for component i. `size` is new size / old size, the factor 2 of LGANet++
            equation (9) and of every published pyramid. `corner` is (new - 1) / (old - 1), the
            exact factor of a resampling that keeps the outermost voxel centres in place: `size`
            falls short of it by 1 / (2 old - 1) for a doubling, 2.9 % at 18 voxels.
    """
    axes = require_displacement("resize", displacement)
    if len(shape) != axes or min(shape) < 2:
        raise ValueError(
            f"resize: expected {axes} sizes of at least 2, got {tuple(shape)} for a displacement "
            f"of shape {tuple(displacement.shape)}."
        )
    less = 1 if ratio == "corner" else 0
    factors = [
        (new - less) / (old - less) for new, old in zip(shape, displacement.shape[2:], strict=True)
    ]
    scale = torch.tensor(factors, dtype=displacement.dtype, device=displacement.device)
    return resample(displacement, shape) * scale.view(1, -1, *[1] * axes)


def invert(
    displacement: Displacement, *, iterations: int = 50, tolerance_voxels: float = 1e-3
) -> Displacement:
    """The field v with compose(u, v) = 0, by the fixed point v <- -u(x + v(x)).

    Converges where u is a contraction (its Jacobian's deviation from 1 stays below 1); elsewhere
    the residual stays large, so check `compose(u, v)` before trusting an inverse of a folding
    field.
    """
    require_displacement("invert", displacement)
    inverse = -displacement
    for _ in range(iterations):
        update = -warp(displacement, inverse, padding="border")
        change = (update - inverse).abs().max()
        inverse = update
        if change <= tolerance_voxels:
            break
    return inverse
