"""Several networks on an image pyramid: each adds what the coarser ones left over.

pyramid = over_scales(networks, (4, 2, 1), moving, fixed)   # fields, coarse to fine
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regnet_lib.spatial import compose, resize, warp
from regnet_lib.types import Image


def over_scales(
    networks: Iterable[nn.Module], factors: Sequence[int], moving: Image, fixed: Image
) -> list[Tensor]:
    """Fields of every scale, coarse to fine, each on its own grid.

    A network sees both images, averaged over cubes of `factor` voxels, as two channels, the moving
    one warped by the field so far. Its output is composed with that field.

    Args:
        networks: `(B, 2, ...)` to displacements `(B, 3, ...)`, coarse to fine.
        factors: one per network, or more: further ones are left out.
    """
    pyramid: list[Tensor] = []
    for network, factor in zip(networks, factors, strict=False):
        small_moving, small_fixed = (F.avg_pool3d(image, factor) for image in (moving, fixed))
        if not pyramid:
            pyramid.append(network(torch.cat([small_moving, small_fixed], dim=1)))
            continue
        coarser = resize(pyramid[-1], small_fixed.shape[2:])
        warped = warp(small_moving, coarser)
        missing = network(torch.cat([warped, small_fixed], dim=1))
        pyramid.append(compose(coarser, missing))
    return pyramid
