"""Smoothness of a displacement, as scalars to minimise.

penalty = diffusion(displacement)   # (B, 3, D, H, W) -> scalar
"""

import torch
from jaxtyping import Float
from torch import Tensor

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
