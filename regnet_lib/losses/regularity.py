"""Regularity of a displacement, as scalars to minimise: smooth, and without folds.

penalty = diffusion(displacement)           # (B, 3, D, H, W) -> scalar; first derivatives
penalty = bending(displacement)             # second derivatives: affine maps are free
penalty = negative_jacobian(displacement)   # 0 where nothing folds
"""

from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from regnet_lib.spatial import jacobian_determinant
from regnet_lib.spatial.checks import require_displacement
from regnet_lib.types import Displacement


def diffusion(displacement: Displacement) -> Float[Tensor, ""]:
    """Mean squared forward difference, averaged over the axes (LGANet++ eq. 12, VoxelMorph's Grad).

    Vectors in voxels of their grid. MONAI's DiffusionLoss sums over the axes and uses central
    differences, so its weights do not carry over.
    """
    axes = require_displacement("diffusion", displacement)
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    squares = [displacement.diff(dim=dim).square().mean() for dim in range(2, 2 + axes)]
    return torch.stack(squares).mean()


def bending(displacement: Displacement) -> Float[Tensor, ""]:
    """Bending energy: the mean of all squared second derivatives, mixed ones twice (Rueckert 1999).

    The sum over all pairs of axes, averaged over components and over the voxels inside, where
    central differences exist. Rueckert et al., IEEE TMI 1999, in voxels.
    """
    axes = require_displacement("bending", displacement)
    if min(displacement.shape[2:]) < 3:
        raise ValueError(
            "bending: expected at least 3 voxels along every axis, got a displacement of shape "
            f"{tuple(displacement.shape)}."
        )
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))

    def moved(steps: dict[int, int]) -> Tensor:
        """The voxels inside, each replaced by its neighbour this many steps along these axes."""
        field = displacement
        for axis, size in enumerate(displacement.shape[2:]):
            field = field.narrow(2 + axis, 1 + steps.get(axis, 0), size - 2)
        return field

    energy = displacement.new_zeros(())
    for axis in range(axes):
        second = moved({axis: 1}) - 2 * moved({}) + moved({axis: -1})
        energy = energy + second.square().mean()
    for one, other in combinations(range(axes), 2):
        along = moved({one: 1, other: 1}) + moved({one: -1, other: -1})
        across = moved({one: 1, other: -1}) + moved({one: -1, other: 1})
        energy = energy + 2 * ((along - across) / 4).square().mean()
    return energy


def negative_jacobian(
    displacement: Displacement, difference: Literal["central", "forward"] = "central"
) -> Float[Tensor, ""]:
    """Mean negative part of the Jacobian determinant, max(0, -det): only folds cost (AD-RegNet
    eq. 18, which names the term and leaves its form open).

    Args:
        difference: see `jacobian_determinant`.
    """
    return -jacobian_determinant(displacement, difference).clamp(max=0).mean()
